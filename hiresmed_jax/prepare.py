"""Command `prepare`: makes a dataset and its audit of a folder of real images."""

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from hiresmed_jax.data import identity, phantom, records, source_folder
from hiresmed_jax.data.audit import findings
from hiresmed_jax.data.readers import dicom_header, layouts, lidc, mask_values, volumes
from hiresmed_jax.data.sample import PHYSICS, Sample
from hiresmed_jax.errors import ANEW, UserError, printable
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
    interrupt.stops_at_once(ANEW),
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
  add("--physics", choices=PHYSICS, help="how the images were made, for lesions to be put in: "
      "ct (slices), projection (radiographs), none; DICOM tells, others are looked at")  # fmt: skip
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
  if options.dry_run and options.kind == "phantom":
    raise UserError("--dry-run looks at a source: phantoms have none")
  if options.kind == "phantom" and (options.num < 1 or options.size < 32):
    raise UserError("--num takes 1 or more, --size 32 or more")
  return options


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
  def say(line: str) -> None:
    console.print(line, markup=False, highlight=False)

  source = source_folder.checked(options.source, "--source", out)
  wishes = {
    field.name: getattr(options, field.name) for field in dataclasses.fields(source_folder.Wishes)
  }
  found = source_folder.look(source, source_folder.Wishes(**wishes), say=say)
  report = found.report
  with Progress(len(found.files), "preparing", unit="file") as progress:
    samples = found.intake.read(found.files, report, progress.advance)
    known = {"kind": found.intake.kind, "workers": options.workers, "report": report}
    if options.dry_run:
      key = None
      try:
        return records.describe(samples, name=out.name, **known)
      finally:
        _list_files(report.skipped, "skipped", None, out.name, progress)
        _list_files(report.odd, "odd", None, out.name, progress)
    key = identity.open_identity(source, out, options.private)
    try:
      card = records.write_dataset(samples, out, identity=key, overwrite=options.overwrite, **known)
    finally:
      _list_files(report.skipped, "skipped", key, out.name, progress)
      _list_files(report.odd, "odd", key, out.name, progress)
  say(f"names and hashes: {key.folder}, for you alone: keep it, and give nobody else access")
  return card


def _list_files(
  files: list[tuple[str, str]],
  what: str,
  key: identity.Identity | None,
  name: str,
  progress: Progress,
) -> None:
  """Prints some files that are `what`, and writes all to the private folder, if there is one."""
  if not files:
    return
  for path, reason in files[:_SHOWN]:
    progress.print(f"{what}: {printable(path)} {reason}")
  if len(files) > _SHOWN:
    progress.print(f"... and {len(files) - _SHOWN} more")
  if key is None:
    return
  table = f"{name}.{what}"
  key.write_table(table, ("path", "reason"), files)
  progress.print(f"{len(files)} files {what}: {key.folder}/{table}.csv")


if __name__ == "__main__":
  cli.run(main)
