"""Whose image it is: groups and splits of a table, of a pattern, or of the names of folders."""

import csv
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hiresmed_jax.data import matching
from hiresmed_jax.data.matching import Use
from hiresmed_jax.data.readers.text import BadBoxes, rows_of
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError

_FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "path", "name", "image_id")
_GROUP_COLUMNS = (
  *("group", "group_id", "patient_group", "patient", "patient_id", "patientid", "subject"),
  *("subject_id", "case", "case_id", "study", "seriesuid", "series_uid", "seriesinstanceuid"),
)
_SPLIT_COLUMNS = ("split", "set", "subset", "fold", "partition", "dataset", "phase")
_SPLITS = {
  **dict.fromkeys(("train", "training", "trn"), "train"),
  **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
  **dict.fromkeys(("test", "testing", "held_out", "heldout", "hold-out", "holdout"), "test"),
}
# Folders that tell what an image shows, not whose it is.
_FINDINGS = frozenset(
  "normal abnormal benign malignant positive negative healthy cancer tumor tumour lesion disease "
  "stone nodule dataset data volumes nifti".split()
)
_PATIENT = re.compile(
  r"(patients?|pat|pt|subjects?|subj|sub|cases?|person|p)[-_ ]?\d\w*|[a-z]{2,}(-[a-z0-9]+)*-\d{3,}",
  re.IGNORECASE,
)
_EXAM = re.compile(
  r"(study|studies|series|ser|scans?|exam|visit|session|ses|view|acq|date)([-_ ]?\d\w*)?"
  r"|\d{4}[-_]?\d{2}[-_]?\d{2}|\d+(\.\d+){4,}",
  re.IGNORECASE,
)
_LAST_NUMBER = re.compile(r"[-_ .#]*[a-z]*[-_ .#]*\d+$", re.IGNORECASE)


class Group(NamedTuple):
  """A group and how it was found."""

  name: str
  by: str


@dataclasses.dataclass(frozen=True)
class Grouping:
  """How groups and splits are found.

  Attributes:
    table: raw group by relative path of an image; None without a table.
    pattern: finds the group in the relative path; None without one.
    split: split by relative path of an image, or by raw group.
    split_by_group: the split's keys are groups.
  """

  table: Mapping[str, str] | None = None
  pattern: re.Pattern[str] | None = None
  split: Mapping[str, str] | None = None
  split_by_group: bool = False

  def group_of(self, image: str, own: str = "") -> Group:
    """The group of an image; `own` is that of its header.

    Raises:
      Unreadable: there is a table without the file, or a pattern that does not fit.
    """
    if self.table is not None:
      if image not in self.table:
        raise Unreadable("has no row in the groups file")
      return Group(self.table[image], "table")
    if self.pattern is not None:
      found = self.pattern.search(image)
      name = found and (found.groupdict().get("patient") or found.group(1))
      if not name:
        raise Unreadable("does not fit --group-pattern")
      return Group(name, "pattern")
    return Group(own, "header") if own else default_group(image)

  def split_of(self, image: str, group: str) -> str:
    """The user's split of an image, "" without one. Raises Unreadable for a file without a row."""
    if self.split is None:
      return ""
    found = self.split.get(group if self.split_by_group else image)
    if found is None:
      raise Unreadable("has no row in the split file")
    return found

  def without_images(self, groups: Iterable[str]) -> int:
    """Number of the groups of a split by group that are none of `groups`."""
    return len(set(self.split or ()) - set(groups)) if self.split_by_group else 0


def default_group(image: str) -> Group:
  """The group by the folders of a relative path: the patient's, else all that name no exam.

  The folders of a split, of a role (images, labels) or of a finding (benign) are no patients. A
  file without a folder is its own group.
  """
  path = PurePosixPath(image)
  no_patient = matching.ROLES | matching.SPLIT_FOLDERS | _FINDINGS
  folders = [part for part in path.parts[:-1] if part.casefold() not in no_patient]
  patient = next((f for f in folders if _PATIENT.fullmatch(f) and not _EXAM.fullmatch(f)), None)
  if patient:
    return Group(patient, "patient's folder")
  exam = next((n for n, f in enumerate(folders) if _EXAM.fullmatch(f)), len(folders))
  above = folders[:exam] or folders
  if above:
    return Group("/".join(above), "folder")
  stem = matching.stem_of(path.name).split(".rf.")[0]  # Roboflow's copies of one image
  return Group(stem.removesuffix("_0000"), "file")


def name_family(image: str) -> str:
  """What files have in common that differ in their last number; "" where that tells nothing."""
  stem = matching.stem_of(PurePosixPath(image).name)
  family = _LAST_NUMBER.sub("", stem)
  return family if family != stem and re.search(r"\d", family) else ""


def pattern_of(text: str) -> re.Pattern[str]:
  """A pattern for `Grouping`, checked. Raises UserError."""
  try:
    pattern = re.compile(text)
  except re.error as error:
    raise UserError(f"--group-pattern {text} is no regular expression: {error}") from error
  if not pattern.groups:
    raise UserError(f"--group-pattern {text} has no group: mark it as (?P<patient>...)")
  return pattern


def read_groups(path: Path, images: Sequence[str]) -> tuple[dict[str, str], Use]:
  """(raw group by image, what became of the rows) of a CSV with a file and a group column.

  Raises:
    UserError: no such file, no such columns, or a file in two groups.
  """
  header, rows = _table(path, "groups file")
  columns = [_column(header, wanted, path, "groups file") for wanted in
             (_FILE_COLUMNS, _GROUP_COLUMNS)]  # fmt: skip
  values = _values(rows, columns, path, "groups file", "group")
  return _by_image(values, images, "rows of the groups file")


def read_split(path: Path, images: Sequence[str]) -> tuple[dict[str, str], bool, Use | None]:
  """(split by image or by group, whether by group, what became of the rows) of a CSV.

  Raises:
    UserError: no such file, no such columns, a word that is no split, or a name in two splits.
  """
  what = "split file"
  header, rows = _table(path, what)
  chosen = _column(header, _SPLIT_COLUMNS, path, what)
  plain = {_plain(name) for name in header}
  by_group = not plain & set(_FILE_COLUMNS)
  name = _column(header, _GROUP_COLUMNS if by_group else _FILE_COLUMNS, path, what)
  values = _values(rows, [name, chosen], path, what, "split")
  for line, (_, word) in enumerate(values.items(), start=2):
    if word.strip().lower() not in _SPLITS:
      raise UserError(
        f"line {line} of the {what} {path} has the split {word!r}: train, val or test"
      )
  splits = {name: _SPLITS[word.strip().lower()] for name, word in values.items()}
  if by_group:
    return splits, True, None
  found, use = _by_image(splits, images, f"rows of the {what}")
  return found, False, use


def _by_image(
  values: Mapping[str, str], images: Sequence[str], what: str
) -> tuple[dict[str, str], Use]:
  names = list(values)
  matched = matching.match(names, images)
  found = {images[image]: values[names[n]] for (image, _), n in matched.found.items()}
  lost = (tuple(names[n] for n in numbers) for numbers in (matched.ambiguous, matched.unused))
  return found, Use(what, len(names), *lost)


def _table(path: Path, what: str) -> tuple[list[str], list[Mapping[str, str | None]]]:
  try:
    header, rows = rows_of(path)
    return header, list(rows)
  except (BadBoxes, csv.Error) as error:
    why = "it is not there" if not path.is_file() else "it is no table as text, such as CSV"
    raise UserError(f"the {what} {path} cannot be read: {why}") from error


def _values(
  rows: Sequence[Mapping[str, str | None]],
  columns: Sequence[str],
  path: Path,
  what: str,
  value: str,
) -> dict[str, str]:
  found: dict[str, str] = {}
  for line, row in enumerate(rows, start=2):
    name, text = ((row[column] or "").strip() for column in columns)
    if not name or not text:
      raise UserError(f"line {line} of the {what} {path} lacks its file or its {value}")
    if found.setdefault(name, text) != text:
      raise UserError(f"line {line} of the {what} {path} puts its file into a second {value}")
  return found


def _plain(name: str) -> str:
  return name.strip().lower().replace(" ", "_")


def _column(header: list[str], wanted: tuple[str, ...], path: Path, what: str) -> str:
  plain = {_plain(name): name for name in reversed(header)}
  for name in wanted:
    if name in plain:
      return plain[name]
  raise UserError(
    f"the {what} {path} has the columns {', '.join(header) or '(none)'}: "
    f"name one of them {wanted[0]!r}"
  )
