"""The files of a source folder, and the kind of the folder."""

import itertools
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hiresmed_jax.data import matching
from hiresmed_jax.data.readers import images, lidc_readings, lidc_slices, volumes

# DICOM needs no suffix; these are never it.
_NOT_DICOM = (
  *images.SUFFIXES,
  *volumes.SUFFIXES,
  *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf"),
  *(".npy", ".npz", ".xlsx", ".zip", ".gz", ".tar", ".py"),
)
_SUFFIXES = {
  "dicom": matching.DICOM_SUFFIXES,
  "volumes": volumes.SUFFIXES,
  "images": images.SUFFIXES,
}
_FIRST_FILES = 2000  # that tell the kind of a folder
# Files that systems and tools leave everywhere.
_BY_PRODUCTS = frozenset(
  "thumbs.db desktop.ini dicomdir ehthumbs.db picasa.ini lockfile version".split()
)
_PRIVATE = ".private"
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
# Of label maps of KiTS (segmentation), LiTS (segmentation-1), BraTS (a_seg).
_MASK_NAME = re.compile(
  r"^(masks?|seg|segmentations?|labels?|gt)([ _.-].*)?$"
  r"|[ _.-](masks?|seg|segmentation|labels?|gt)$",
  re.IGNORECASE,
)
_MASK_START = re.compile(r"^(masks?|seg|segmentation|gt)[ _.-]", re.IGNORECASE)


class Listing(NamedTuple):
  """What lies in a folder.

  Attributes:
    files: that a reader should try, sorted by folder and name.
    passed_over: (path, why) of the others.
  """

  files: list[Path]
  passed_over: list[tuple[Path, str]]


def image_folder(source: Path) -> Path:
  """`source/images` where the images lie there and not in `source` itself, else `source`."""
  inner = source / "images"
  direct = any(path.name.lower().endswith(images.SUFFIXES) for path in source.iterdir())
  return inner if inner.is_dir() and not direct else source


def list_files(root: Path, kind: str, *, leave_out: Iterable[Path] = ()) -> list[Path]:
  """The files of `walk`."""
  return walk(root, kind, leave_out=leave_out).files


def walk(root: Path, kind: str, *, leave_out: Iterable[Path] = ()) -> Listing:
  """Looks through a folder and its subfolders.

  Hidden folders, private folders and those of `leave_out` are not entered. Links to folders are
  followed where they lead out of `root`, each folder once.

  Args:
    root: a folder.
    kind: `images`, `dicom`, `volumes` or `lidc`.
    leave_out: folders of masks and labels inside `root`.
  """
  files: list[Path] = []
  passed_over: list[tuple[Path, str]] = []
  entered = {root.resolve()}
  avoided = {folder.resolve() for folder in leave_out}

  def enter(folder: Path) -> None:
    try:
      entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
      passed_over.append((folder, "is a folder that cannot be opened"))
      return
    folders = [entry for entry in entries if _is_folder(entry)]
    for entry in (entry for entry in entries if not _is_folder(entry)):
      why = _why_not(entry.name, kind)
      if why:
        passed_over.append((folder / entry.name, why))
      else:
        files.append(folder / entry.name)
    for entry in sorted(folders, key=lambda entry: entry.is_symlink()):
      path, target = folder / entry.name, (folder / entry.name).resolve()
      if entry.name.startswith(".") or entry.name == "__MACOSX":
        passed_over.append((path, "is a hidden folder"))
      elif entry.name.endswith(_PRIVATE) or target in avoided:
        continue
      elif entry.is_symlink() and (target in entered or _holds(top, target)):
        passed_over.append((path, "is a link to a folder that is read already"))
      else:
        entered.add(target)
        enter(path)

  top = root.resolve()
  enter(root)
  if kind == "images":
    files, masks = _apart(files)
    passed_over += [(path, "is the mask of an image beside it, by its name") for path in masks]
  if kind == "volumes":
    masks = [path for path in files if _MASK_NAME.search(matching.stem_of(path.name))]
    if len(masks) < len(files):
      files = [path for path in files if path not in set(masks)]
      passed_over += [(path, "is a mask, by its name") for path in masks]
  return Listing(files, passed_over)


def _holds(folder: Path, other: Path) -> bool:
  return other.is_relative_to(folder) or folder.is_relative_to(other)


def _why_not(name: str, kind: str) -> str:
  if name.startswith("."):
    return "is hidden"
  if name.lower() in _BY_PRODUCTS:
    return "is left by a system or a tool"
  if name.lower().endswith(ARCHIVES):
    return "is an archive: unpack it"
  return "" if _fits(name, kind) else f"has a suffix of no file of the kind {kind}"


def _apart(files: list[Path]) -> tuple[list[Path], list[Path]]:
  """(images, masks): `a_mask.png` or `mask_a.png` beside `a.png` or `a.jpg` is a mask."""
  stems = {(path.parent, matching.stem_of(path.name)) for path in files}
  masks = []
  for path in files:
    stem = matching.stem_of(path.name)
    numberless = re.sub(r"_\d+$", "", stem)
    ends, starts = matching.MASK_ENDING.sub("", numberless), _MASK_START.sub("", stem)
    if (ends != numberless and (path.parent, ends) in stems) or (
      starts != stem and (path.parent, starts) in stems
    ):
      masks.append(path)
  apart = set(masks)
  return [path for path in files if path not in apart], masks


def _fits(name: str, kind: str) -> bool:
  lower = name.lower()
  if kind == "images":
    return lower.endswith(images.SUFFIXES)
  if kind == "volumes":
    return lower.endswith(volumes.SUFFIXES)
  if kind == "lidc" and lower.endswith((*lidc_slices.SUFFIXES, ".xml")):
    return True
  return lower != "dicomdir" and not lower.endswith(_NOT_DICOM)


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
    # Names of DICOM files may be UIDs, which end in a number.
    if not path.suffix.strip(".0123456789") and path.is_file() and _is_dicom(path):
      counts["dicom"] += 1
  best = max(counts, key=lambda kind: counts[kind])
  if best == "dicom" and readings:
    return "lidc"
  return best if counts[best] else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
  # Asked itself, an entry raises where a link leads to itself.
  return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_dicom(path: Path) -> bool:
  try:
    with path.open("rb") as file:
      return file.read(132)[128:] == b"DICM"
  except OSError:
    return False
