"""Command `prepare`: makes a dataset and its audit of a folder of real images."""

import argparse
import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from hiresmed_jax.data import annotations, identity, listing, phantom, records
from hiresmed_jax.data.audit import findings
from hiresmed_jax.data.intake import Intake
from hiresmed_jax.data.listing import kind_of
from hiresmed_jax.data.readers import dicom_header, lidc, volumes
from hiresmed_jax.data.record_format import SourceReport
from hiresmed_jax.data.sample import PHYSICS, Sample
from hiresmed_jax.data.survey import survey
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime.progress import Progress

_EXAMPLE = """\
  python -m hiresmed_jax.prepare --kind dicom --source kub --out data/kub
  python -m hiresmed_jax.prepare --kind images --source stones --boxes yolo \\
    --labels stones/labels --groups stones/groups.csv --out data/stones
  python -m hiresmed_jax.prepare --kind lidc --source LIDC-IDRI --labels LIDC-XML --out data/lidc
  python -m hiresmed_jax.prepare --kind phantom --num 64 --size 1024 --out data/phantom"""

_KINDS = ("images", "dicom", "volumes", "phantom", "lidc")
_SHOWN = 10  # names of skipped files on the terminal; the private report has all


def main(argv: list[str]) -> None:
  """Prepares a dataset and prints its audit."""
  options = _options(argv)
  out = options.out.absolute()
  records.refuse_to_replace(out, overwrite=options.overwrite)
  console = Console(soft_wrap=True)
  if options.kind == "phantom":
    card = _write_phantom(options, out)
  else:
    card = _write_images(options, out, console)
  findings.show(card, console)
  console.print(f"{card['images']} images are in {out}", markup=False, highlight=False)


def _options(argv: list[str]) -> argparse.Namespace:
  parser = cli.Parser(
    "prepare",
    "Turns a folder of images, with boxes and masks where there are any, into a dataset: records "
    "without names, split by patient, and an audit of what is in them.",
    example=_EXAMPLE,
  )
  add = parser.add_argument
  add("--kind", required=True, choices=_KINDS, help="what the source holds")
  add("--source", type=Path, help="folder of the images (its subfolder images, if they are there)")
  add("--out", required=True, type=Path, help="folder to make")
  add("--boxes", choices=annotations.BOX_FORMATS, help="format of the lesion boxes")
  add("--labels", type=Path, help="folder of the box files, or the COCO file (SOURCE/labels); for "
      "lidc the folder of the readers' XML where it does not lie in SOURCE")  # fmt: skip
  add("--masks", type=Path, help="folder of PNG lesion masks, named as the images")
  add("--forbidden", type=Path, help="folder of PNG masks of tissue where no lesion can be")
  add("--groups", type=Path, help="CSV with a file and a group (patient) column; by default the "
      "DICOM patient, else the folder, else each file by itself")  # fmt: skip
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
  add("--private", type=Path, help="folder of the salt and the table of names (SOURCE.private); "
      "give the same one to all datasets of a project")  # fmt: skip
  options, _ = parser.parse(argv)
  if options.kind == "lidc":
    _check_lidc(options)
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
  root = listing.image_folder(source) if options.kind == "images" else source
  intake = Intake(
    kind=options.kind,
    root=root,
    annotations=_annotations(options, source, root),
    groups=listing.read_groups(options.groups) if options.groups else None,
    physics=options.physics or "none",
    axis=options.axis,
    agree=options.agree,
    nodule_free=options.nodule_free,
  )
  beside = [p for p in (options.masks, options.forbidden, options.labels) if p and p.is_dir()]
  files = listing.list_files(root, options.kind, leave_out=tuple(beside))
  if options.kind == "lidc" and options.labels:
    readings = listing.list_files(options.labels, "lidc")
    files += [p for p in readings if p.suffix.lower() == ".xml" and p not in files]
  if not files:
    other = kind_of(root)
    hint = f"; it looks like --kind {other}" if other and other != options.kind else ""
    raise UserError(f"no {options.kind} files in {root}{hint}")
  intake = _as_most_are(intake, files, options, console)
  key, note = identity.open_identity(source, out, options.private)
  if note:
    console.print(note, markup=False, highlight=False)
  report = SourceReport()
  with Progress(len(files), "preparing", unit="file") as progress:
    try:
      card = records.write_dataset(
        intake.read(files, report, progress.advance),
        out,
        kind=options.kind,
        identity=key,
        overwrite=options.overwrite,
        workers=options.workers,
        report=report,
      )
    finally:
      _list_skipped(report.skipped, key, out.name, progress)
  console.print(f"names and hashes: {key.folder}, for you alone", markup=False, highlight=False)
  return card


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


def _annotations(options: argparse.Namespace, source: Path, root: Path) -> annotations.Annotations:
  labels = options.labels
  if labels and not options.boxes and options.kind != "lidc":
    raise UserError(f"--labels needs --boxes {{{','.join(annotations.BOX_FORMATS)}}}")
  if options.boxes and not labels:
    places = (source / "labels", source.parent / "labels", source / "annotations", root)
    labels = next((p for p in places if p.is_dir()), root)
  for folder in (options.masks, options.forbidden):
    if folder and not folder.is_dir():
      raise UserError(f"no folder of masks {folder}")
  return annotations.Annotations(
    boxes=annotations.box_lookup(options.boxes, labels) if options.boxes else None,
    lesion_masks=options.masks,
    forbidden_masks=options.forbidden,
    physics=options.physics or "",
    spacing_mm=options.spacing_mm or (math.nan, math.nan),
  )


def _list_skipped(
  skipped: list[tuple[str, str]], key: identity.Identity, name: str, progress: Progress
) -> None:
  """Prints some files that were skipped, and writes all to the private folder."""
  if not skipped:
    return
  for path, reason in skipped[:_SHOWN]:
    progress.print(f"skipped: {path} {reason}")
  if len(skipped) > _SHOWN:
    progress.print(f"... and {len(skipped) - _SHOWN} more")
  table = f"{name}.skipped"
  key.write_table(table, ("path", "reason"), skipped)
  progress.print(f"{len(skipped)} files skipped: {key.folder}/{table}.csv")


if __name__ == "__main__":
  cli.run(main)
