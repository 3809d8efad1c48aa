"""Command `prepare`: makes a dataset and its audit of a folder of real images."""

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from hiresmed_jax.data import (
  annotations,
  grouping,
  identity,
  listing,
  matching,
  phantom,
  recognise,
  records,
)
from hiresmed_jax.data.audit import findings
from hiresmed_jax.data.intake import Intake
from hiresmed_jax.data.readers import dicom_header, layouts, lidc, mask_values, volumes
from hiresmed_jax.data.record_format import SourceReport
from hiresmed_jax.data.sample import PHYSICS, Sample
from hiresmed_jax.data.survey import survey
from hiresmed_jax.errors import UserError, printable
from hiresmed_jax.runtime import cli, interrupt
from hiresmed_jax.runtime.progress import Progress

_EXAMPLE = """\
  python -m hiresmed_jax.prepare --kind dicom --source kub --out data/kub
  python -m hiresmed_jax.prepare --source roboflow_export --out data/stones --dry-run
  python -m hiresmed_jax.prepare --source stones --labels stones/labels --lesion-class stone \\
    --groups stones/groups.csv --out data/stones
  python -m hiresmed_jax.prepare --kind lidc --source LIDC-IDRI --labels LIDC-XML --out data/lidc
  python -m hiresmed_jax.prepare --kind phantom --num 64 --size 1024 --out data/phantom"""

_KINDS = ("images", "dicom", "volumes", "phantom", "lidc")
_SHOWN = 10  # names of skipped files on the terminal; the private report has all


def main(argv: list[str]) -> None:
  """Prepares a dataset and prints its audit."""
  options = _options(argv)
  out = options.out.absolute()
  records.refuse_to_replace(out, overwrite=options.overwrite or options.dry_run)
  console = Console(soft_wrap=True)
  with (
    interrupt.stops_at_once(),
    cli.only_json(options.json),
    Progress(None, "prepare", unit=""),
  ):
    if options.kind == "phantom":
      card = _write_phantom(options, out)
    else:
      card = _write_images(options, out, console)
  if options.json:
    print(json.dumps(card | {"out": str(out), "written": not options.dry_run}, indent=2))
    return
  findings.show(card, console)
  where = "would be" if options.dry_run else "are"
  console.print(f"{card['images']} images {where} in {out}", markup=False, highlight=False)


def _options(argv: list[str]) -> argparse.Namespace:
  parser = cli.Parser(
    "prepare",
    "Turns a folder of images, with boxes and masks where there are any, into a dataset: records "
    "without names, split by patient, and an audit of what is in them.",
    example=_EXAMPLE,
  )
  add = parser.add_argument
  add("--kind", choices=_KINDS, help="what the source holds (that of most files)")
  add("--source", type=Path, help="folder of the images (its subfolder images, if they are there)")
  add("--out", required=True, type=Path, help="folder to make")
  add("--boxes", choices=layouts.FORMATS, help="format of the labels (what is found)")
  add("--labels", type=Path, help="label file, or folder of them (SOURCE, or beside it); for "
      "lidc the folder of the readers' XML where it does not lie in SOURCE")  # fmt: skip
  for name, what in (
    ("lesion", "lesions; needed when there are several"),
    ("host", "where lesions may live"),
    ("forbidden", "where no lesion can be"),
  ):
    add(f"--{name}-class", action="append", default=[], metavar="NAME",
        help=f"class of the labels: {what}; again for another")  # fmt: skip
  add("--masks", type=Path, help="folder of lesion masks, named as the images")
  add("--mask-values", choices=mask_values.MEANINGS, default="auto", help="what the values of "
      "lesion masks mean, where they do not tell: soft edges, one id a lesion, one lesion a part, "
      "dark is lesion")  # fmt: skip
  add("--twins", action="store_true", help="of a folder of synthesize: take the twins too, as "
      "images without lesions")  # fmt: skip
  add("--odd-masks", action="store_true", help="lesion masks that look improbable are right")
  add("--hosts", type=Path, help="folder of masks of where lesions may live")
  add("--forbidden", type=Path, help="folder of masks of tissue where no lesion can be")
  add("--groups", type=Path, help="CSV with a file and a group (patient) column; by default the "
      "DICOM patient, else the patient's folder, else each file by itself")  # fmt: skip
  add("--group-pattern", help="regular expression that finds the patient in a file's path: "
      "'(?P<patient>[^/]+)/.*'")  # fmt: skip
  add("--split", type=Path, help="CSV with a file or group column and a split column (train, val, "
      "test), in place of the split by group")  # fmt: skip
  add("--allow-unused", action="store_true", help="go on when labels or masks fit no image")
  add("--json", action="store_true", help="print the card with its audit as one JSON object")
  add("--dry-run", action="store_true", help="read all, print the table, write nothing")
  add("--physics", choices=PHYSICS, help="how a lesion adds up: ct blends, projection adds; DICOM "
      "tells by itself, other images are looked at")  # fmt: skip
  add("--keep", nargs="+", default=[], choices=dicom_header.LEFT_OUT, help="scouts among slices, "
      "screen captures among images, colours among grey ones, which are left out")  # fmt: skip
  add("--spacing-mm", type=_spacing, help="R or R,C: pixel spacing of images that do not tell")
  add("--axis", choices=volumes.AXES, default="axial", help="how volumes are sliced (axial)")
  add("--agree", type=int, default=lidc.AGREE, help="readers of lidc who must have drawn around a "
      f"pixel for it to be nodule ({lidc.AGREE} of usually 4)")  # fmt: skip
  add("--nodule-free", type=int, default=0, help="slices of each lidc series on which no reader "
      "marked any nodule, to add to those with nodules (0)")  # fmt: skip
  add("--phantom", choices=phantom.KINDS, default="kub", help="which phantom (kub)")
  add("--num", type=int, default=64, help="phantoms to make (64)")
  add("--size", type=int, default=1024, help="side of a phantom (1024)")
  add("--seed", type=int, default=0, help="of the phantoms (0)")
  add("--workers", type=int, default=min(4, os.cpu_count() or 1), help="threads that encode")
  add("--overwrite", action="store_true", help="replace the dataset that is in OUT")
  add("--private", type=Path, help="folder of the salt and the table of names (OUT.private); "
      "give the same one to all datasets of a project")  # fmt: skip
  options, _ = parser.parse(argv)
  if options.kind == "lidc":
    _check_lidc(options)
  if options.dry_run and options.kind == "phantom":
    raise UserError("--dry-run looks at a source: phantoms have none")
  if options.kind == "phantom" and (options.num < 1 or options.size < 32):
    raise UserError("--num takes 1 or more, --size 32 or more")
  return options


def _check_lidc(options: argparse.Namespace) -> None:
  if options.boxes or options.masks:
    raise UserError("--kind lidc makes boxes and masks of the readers' outlines: give no others")
  if options.labels and not options.labels.is_dir():
    raise UserError(f"no folder of readers' XML {options.labels}")
  if options.agree < 1 or options.nodule_free < 0:
    raise UserError("--agree takes 1 or more, --nodule-free 0 or more")


def _spacing(text: str) -> tuple[float, float]:
  try:
    values = [float(part) for part in text.split(",")]
  except ValueError:
    values = []
  if len(values) not in (1, 2) or not all(math.isfinite(v) and v > 0 for v in values):
    raise argparse.ArgumentTypeError(f"{text!r} is not R or R,C in mm")
  return values[0], values[-1]


def _write_phantom(options: argparse.Namespace, out: Path) -> dict:
  made = phantom.phantoms(options.phantom, options.num, options.size, seed=options.seed)
  with Progress(options.num, "making", unit="image") as progress:

    def samples() -> Iterator[Sample]:
      for one in made:
        yield one.sample
        progress.advance()

    return records.write_dataset(
      samples(), out, kind="phantom", overwrite=options.overwrite, workers=options.workers
    )


def _write_images(options: argparse.Namespace, out: Path, console: Console) -> dict:
  source = _checked_source(options.source, out)
  found = recognise.recognise(
    source,
    kind=options.kind,
    boxes=options.boxes,
    labels=None if options.kind == "lidc" else options.labels,
    masks_folder=options.masks,
    leave_out=[folder for folder in (options.hosts, options.forbidden) if folder],
    not_labels=[table for table in (options.groups, options.split) if table],
    twins=options.twins,
  )
  if found.kind == "lidc":
    _check_lidc(options)
  intake, uses, classes = _intake(options, found)
  if not options.allow_unused:
    for use in uses:
      use.check()
    if found.unread:
      shown = ", ".join(printable(path.name) for path in found.unread[:3])
      raise UserError(
        f"labels of no format that is read, as it looks: {len(found.unread)} ({shown}, ...). "
        "--boxes FORMAT tells why, --allow-unused goes on without them"
      )
  files = found.files
  if found.kind == "lidc" and options.labels:
    readings = listing.list_files(options.labels, "lidc")
    files = files + [p for p in readings if p.suffix.lower() == ".xml" and p not in files]
  intake = _as_most_are(intake, files, options, console)
  report = SourceReport()
  report.left_out += [(_below(path, source), why) for path, why in found.passed_over]
  report.skipped += [
    (_below(path, source), "looks like labels of no format that is read") for path in found.unread
  ]
  report.skipped += [
    (name, f"is one of the {use.what} and {why}")
    for use in uses
    for names, why in ((use.ambiguous, "fits several images"), (use.unused, "fits no image"))
    for name in names
  ]
  report.source = {
    "layout": found.layout,
    "files": len(found.files),
    "labels_format": found.boxes or "",
    "uses": {
      use.what: {
        "found": use.found,
        "used": use.found - len(use.ambiguous) - len(use.unused),
        "fit_several": len(use.ambiguous),
        "fit_none": len(use.unused),
      }
      for use in uses
    },
    **classes,
  }
  with Progress(len(files), "preparing", unit="file") as progress:
    samples = intake.read(files, report, progress.advance)
    known = {"kind": found.kind, "workers": options.workers, "report": report}
    if options.dry_run:
      key = None
      try:
        return records.describe(samples, name=out.name, **known)
      finally:
        _list_skipped(report.skipped, None, out.name, progress)
    key = identity.open_identity(source, out, options.private)
    try:
      card = records.write_dataset(samples, out, identity=key, overwrite=options.overwrite, **known)
    finally:
      _list_skipped(report.skipped, key, out.name, progress)
  console.print(
    f"names and hashes: {key.folder}, for you alone: keep it, and give nobody else access",
    markup=False, highlight=False,
  )  # fmt: skip
  return card


def _intake(
  options: argparse.Namespace, found: recognise.Source
) -> tuple[Intake, list[matching.Use], dict[str, Any]]:
  """(how the images are read, what becomes of labels, masks and tables, classes for the card)."""
  names = [path.relative_to(found.root).as_posix() for path in found.files]
  uses: list[matching.Use] = []

  def masks_of(folder: Path | None, what: str) -> matching.ByImage:
    if folder is None:
      return {}
    files, other = recognise.mask_files(folder, found.files)
    own = [path.relative_to(folder).as_posix() for path in files]
    by_image, use = matching.attach(files, own, names, what)
    lost = tuple(path.relative_to(folder).as_posix() for path in other)
    uses.append(use._replace(found=use.found + len(lost), unused=use.unused + lost))
    return by_image

  labels = annotations.read_labels(found.labels, found.boxes, found.label_root)
  if found.groups is not None:  # the manifest names the twins too
    labels = [label for label in labels if label.name in found.groups]
  by_image: matching.ByImage = {}
  if found.labels:
    by_image, use = matching.attach(labels, [label.name for label in labels], names, "labels")
    uses.append(use)
  counts = annotations.class_counts(labels)
  classes = annotations.choose(
    counts or dict.fromkeys(found.map_names.values(), 0),
    options.lesion_class, options.host_class, options.forbidden_class,
  )  # fmt: skip
  known = annotations.Annotations(
    root=found.root,
    labels=by_image,
    classes=classes,
    lesion_masks=masks_of(found.masks, "lesion masks"),
    host_masks=masks_of(options.hosts, "host masks"),
    forbidden_masks=masks_of(options.forbidden, "masks of forbidden tissue"),
    mask_values=options.mask_values,
    odd_masks=options.odd_masks,
    map_names=found.map_names,
    axis=options.axis,
    physics=options.physics or "",
    spacing_mm=options.spacing_mm or (math.nan, math.nan),
  )
  intake = Intake(
    kind=found.kind,
    root=found.root,
    annotations=known,
    grouping=_grouping(options, names, uses, found.groups),
    physics=options.physics or "none",
    axis=options.axis,
    agree=options.agree,
    nodule_free=options.nodule_free,
  )
  told = {
    "classes": counts,
    "class_numbers": annotations.class_numbers(labels),
    "lesion_classes": [name for name in counts if classes.is_lesion(name)],
  }
  return intake, uses, told


def _grouping(
  options: argparse.Namespace,
  names: list[str],
  uses: list[matching.Use],
  own: dict[str, str] | None,
) -> grouping.Grouping:
  if options.groups and options.group_pattern:
    raise UserError("--groups and --group-pattern both name the groups: give one of them")
  table, split, by_group = None if options.group_pattern else own, None, False
  if options.groups:
    table, use = grouping.read_groups(options.groups, names)
    uses.append(use)
  if options.split:
    split, by_group, use_of_split = grouping.read_split(options.split, names)
    uses += [use_of_split] if use_of_split else []
  pattern = grouping.pattern_of(options.group_pattern) if options.group_pattern else None
  return grouping.Grouping(table, pattern, split, by_group)


def _below(path: Path, source: Path) -> str:
  return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name


def _as_most_are(
  intake: Intake, files: list[Path], options: argparse.Namespace, console: Console
) -> Intake:
  """The intake that leaves out what most files are not, with the physics that they look like."""
  if intake.kind == "lidc":
    return intake
  found = survey(files, intake.kind, options.keep)
  intake = dataclasses.replace(intake, keep=found.keep)
  if options.physics:
    return intake
  if found.physics:
    note = f"looks like {found.physics}: physics is {found.physics} (--physics says otherwise)"
  else:
    note = "does not tell how a lesion adds up: physics is none (--physics ct or projection?)"
  if intake.kind != "dicom":
    console.print(f"every image {note}", markup=False, highlight=False)
  return dataclasses.replace(intake, physics=found.physics or "none", note=note)


def _checked_source(source: Path | None, out: Path) -> Path:
  if source is None:
    raise UserError("--source is needed: the folder of the images")
  if not source.is_dir():
    raise UserError(f"--source {source} is {'not a folder' if source.exists() else 'not there'}")
  if not any(source.iterdir()):
    raise UserError(f"--source {source} is empty")
  if (source / records.CARD).is_file():
    raise UserError(f"--source {source} is a prepared dataset already")
  if out.resolve().is_relative_to(source.resolve()):
    raise UserError(f"--out {out} lies in the source: name a folder outside of it")
  return source


def _list_skipped(
  skipped: list[tuple[str, str]], key: identity.Identity | None, name: str, progress: Progress
) -> None:
  """Prints some files that were skipped, and writes all to the private folder, if there is one."""
  if not skipped:
    return
  for path, reason in skipped[:_SHOWN]:
    progress.print(f"skipped: {printable(path)} {reason}")
  if len(skipped) > _SHOWN:
    progress.print(f"... and {len(skipped) - _SHOWN} more")
  if key is None:
    return
  table = f"{name}.skipped"
  key.write_table(table, ("path", "reason"), skipped)
  progress.print(f"{len(skipped)} files skipped: {key.folder}/{table}.csv")


if __name__ == "__main__":
  cli.run(main)
