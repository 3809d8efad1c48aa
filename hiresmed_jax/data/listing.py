"""The files of a source folder, their groups, and the kind of the folder."""

import csv
import itertools
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from hiresmed_jax.data.readers import images, lidc_readings, lidc_slices, volumes
from hiresmed_jax.errors import UserError

# DICOM needs no suffix; these are never it.
_NOT_DICOM = (
  *images.SUFFIXES,
  *volumes.SUFFIXES,
  *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf"),
  *(".npy", ".npz", ".xlsx", ".zip", ".gz", ".tar", ".py"),
)
_SUFFIXES = {
  "dicom": (".dcm", ".dicom", ".ima"),
  "volumes": volumes.SUFFIXES,
  "images": images.SUFFIXES,
}
_FIRST_FILES = 2000  # that tell the kind of a folder
_FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "path", "name", "image_id")
_GROUP_COLUMNS = (
  *("group", "group_id", "patient_group", "patient", "patient_id", "patientid", "subject"),
  *("subject_id", "case", "case_id", "study", "seriesuid", "series_uid", "seriesinstanceuid"),
)


def image_folder(source: Path) -> Path:
  """`source/images` where the images lie there and not in `source` itself, else `source`."""
  inner = source / "images"
  direct = any(path.name.lower().endswith(images.SUFFIXES) for path in source.iterdir())
  return inner if inner.is_dir() and not direct else source


def list_files(root: Path, kind: str, *, leave_out: tuple[Path, ...] = ()) -> list[Path]:
  """Files under `root` that a reader of `kind` should try, sorted by name.

  Hidden files and folders, private folders and those of `leave_out` are left out, and links to
  folders are not followed.

  Args:
    root: a folder.
    kind: `images`, `dicom`, `volumes` or `lidc`.
    leave_out: folders of masks and labels inside `root`.
  """
  found = []
  avoided = {folder.resolve() for folder in leave_out}
  for folder, folders, files in os.walk(root):
    here = Path(folder)
    folders[:] = sorted(
      name
      for name in folders
      if not name.startswith(".")
      and not name.endswith(".private")
      and (here / name).resolve() not in avoided
    )
    for name in sorted(files):
      if not name.startswith(".") and _fits(name, kind):
        found.append(here / name)
  return found


def _fits(name: str, kind: str) -> bool:
  lower = name.lower()
  if kind == "images":
    return lower.endswith(images.SUFFIXES)
  if kind == "volumes":
    return lower.endswith(volumes.SUFFIXES)
  if kind == "lidc" and lower.endswith((*lidc_slices.SUFFIXES, ".xml")):
    return True
  return lower != "dicomdir" and not lower.endswith(_NOT_DICOM)


def stem_of(name: str) -> str:
  """A file's name without its suffix, `.nii.gz` as a whole."""
  lower = name.lower()
  for suffix in (*volumes.SUFFIXES, *images.SUFFIXES, ".dcm"):
    if lower.endswith(suffix):
      return name[: -len(suffix)]
  return name


def folder_group(path: Path, root: Path) -> str:
  """The default group of a file: its folder below `root`, else its stem."""
  folder = path.relative_to(root).parent.as_posix()
  return stem_of(path.name) if folder == "." else folder


def read_groups(path: Path) -> dict[str, str]:
  """Raw group by file path, name or stem, from a CSV table with a column of each.

  Raises:
    UserError: no such file, no such columns, or a file in two groups.
  """
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file)
      header = list(reader.fieldnames or ())
      rows = list(reader)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    why = getattr(error, "strerror", None) or "it is not UTF-8 text with commas"
    raise UserError(f"the groups file {path} cannot be read: {why}") from error
  columns = _column(header, _FILE_COLUMNS, path), _column(header, _GROUP_COLUMNS, path)
  found: dict[str, str] = {}
  for line, row in enumerate(rows, start=2):
    name, group = ((row[column] or "").strip() for column in columns)
    if not name or not group:
      raise UserError(f"line {line} of the groups file {path} lacks its file or its group")
    name = name.replace("\\", "/").removeprefix("./")
    if found.setdefault(name, group) != group:
      raise UserError(f"line {line} of the groups file {path} puts its file into a second group")
  return found


def group_in(groups: Mapping[str, str], path: Path, root: Path) -> str | None:
  """The group of a file, looked up by path below `root`, by name, by stem; None if absent."""
  relative = path.relative_to(root).as_posix()
  names = (relative, stem_of(relative), path.name, stem_of(path.name))
  return next((groups[name] for name in names if name in groups), None)


def _column(header: list[str], wanted: tuple[str, ...], path: Path) -> str:
  plain = {name.strip().lower().replace(" ", "_"): name for name in reversed(header)}
  for name in wanted:
    if name in plain:
      return plain[name]
  raise UserError(
    f"the groups file {path} has the columns {', '.join(header) or '(none)'}: "
    f"name one of them {wanted[0]!r}"
  )


def prepare_command(folder: Path) -> str:
  """The `prepare` command line for an existing folder."""
  kind = kind_of(folder) or "images"
  source, out = shlex.quote(str(folder)), shlex.quote(f"{folder}_prepared")
  command = f"python -m hiresmed_jax.prepare --kind {kind} --source {source} --out {out}"
  if kind == "images" and any((folder / "labels").glob("*.txt")):
    command += " --boxes yolo"
  tables = sorted(folder.glob("*group*.csv"))
  return command + (f" --groups {shlex.quote(str(tables[0]))}" if tables else "")


def kind_of(folder: Path) -> str | None:
  """`images`, `dicom`, `volumes` or `lidc`: the kind of most of the first files; None for none."""
  readings = False
  counts = dict.fromkeys(_SUFFIXES, 0)
  for path in itertools.islice(folder.rglob("*"), _FIRST_FILES):
    for kind, suffixes in _SUFFIXES.items():
      counts[kind] += path.name.lower().endswith(suffixes)
    readings = readings or (path.suffix.lower() == ".xml" and lidc_readings.is_reading(path))
    if not path.suffix and path.is_file() and _is_dicom(path):
      counts["dicom"] += 1
  best = max(counts, key=lambda kind: counts[kind])
  if best == "dicom" and readings:
    return "lidc"
  return best if counts[best] else None


def _is_dicom(path: Path) -> bool:
  try:
    with path.open("rb") as file:
      return file.read(132)[128:] == b"DICM"
  except OSError:
    return False
