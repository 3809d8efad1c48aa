"""What a folder of raw images needs before it is a dataset: the command, ready to be pasted."""

import shlex
from pathlib import Path

from hiresmed_jax.data.readers import lidc_xml

_KINDS = {
  "dicom": (".dcm", ".dicom", ".ima"),
  "volumes": (".nii", ".nii.gz", ".mha", ".mhd"),
  "images": (".png", ".jpg", ".jpeg", ".tif", ".tiff"),
}
_LOOK_AT = 2000  # files; a folder of millions answers at once
_DICOM_MARK = slice(128, 132)


def prepare_command(folder: Path) -> str:
  """The `prepare` command line that fits what lies in a folder.

  Args:
    folder: an existing folder.
  """
  kind = kind_of(folder) or "images"
  source, out = shlex.quote(str(folder)), shlex.quote(f"{folder}_prepared")
  command = f"python -m hiresmed_jax.prepare --kind {kind} --source {source} --out {out}"
  if kind == "images" and any((folder / "labels").glob("*.txt")):
    command += " --boxes yolo"
  tables = sorted(folder.glob("*group*.csv"))
  return command + (f" --groups {shlex.quote(str(tables[0]))}" if tables else "")


def kind_of(folder: Path) -> str | None:
  """`images`, `dicom`, `volumes` or `lidc`, as most of the first files are; None for none."""
  readings = False
  counts = dict.fromkeys(_KINDS, 0)
  for number, path in enumerate(folder.rglob("*")):
    if number >= _LOOK_AT:
      break
    for kind, suffixes in _KINDS.items():
      counts[kind] += path.name.lower().endswith(suffixes)
    readings = readings or (path.suffix.lower() == ".xml" and lidc_xml.is_reading(path))
    if not path.suffix and path.is_file() and _is_dicom(path):
      counts["dicom"] += 1
  best = max(counts, key=lambda kind: counts[kind])
  if best == "dicom" and readings:
    return "lidc"
  return best if counts[best] else None


def _is_dicom(path: Path) -> bool:
  try:
    with path.open("rb") as file:
      return file.read(132)[_DICOM_MARK] == b"DICM"
  except OSError:
    return False
