"""A reader study (visual Turing test) from a CSV file, of counts or of answers."""

import csv
import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.metrics import reader_study

_WORDS = {
  **dict.fromkeys(("real", "1", "true", "yes"), True),
  **dict.fromkeys(("synthetic", "fake", "0", "false", "no"), False),
}
FORMAT = (
  "columns reader,tp,fn,fp,tn (one line a reader), or reader,image,truth,answer[,rating] (one line "
  "an answer, truth and answer real or synthetic)"
)


def study(path: Path) -> dict[str, Any]:
  """The numbers of a file of counts or answers. Positive = real.

  Returns:
    {"readers": {name: {"reading": reader_study.Reading, "auc": of ratings or None}}, "pairs":
    [(first, second, reader_study.Agreement)], "pairs_missing": why there are none, "needed":
    answers for an accuracy of 0.55, 0.6 and 0.65 to be told from 0.5, and for equivalence}.

  Raises:
    UserError: no such file, other columns, an answer that is neither.
  """
  try:
    lines = list(csv.DictReader(io.StringIO(files.content(path).decode("utf-8-sig"), "")))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"--reader-study {path} cannot be read: it needs {FORMAT}") from error
  names = {name.strip().lower() for name in (lines[0] if lines else {}) if name}
  rows = [
    {(key or "").strip().lower(): (value or "").strip() for key, value in line.items()
     if not isinstance(value, list)}
    for line in lines
  ]  # fmt: skip
  no_pairs: list[Any] = []
  try:
    if {"reader", "tp", "fn", "fp", "tn"} <= names:
      readers, pairs = _counted(rows), no_pairs
      why = "counts do not tell which images two readers agree on: give each image's answers"
    elif {"reader", "image", "truth", "answer"} <= names:
      readers, pairs = _answered(rows)
      why = "" if pairs else "there is one reader"
    else:
      raise ValueError(f"it needs {FORMAT}")
  except ValueError as error:
    raise UserError(f"--reader-study {path}: {error}") from error
  needed = {str(a): reader_study.needed_for_difference(a) for a in (0.55, 0.6, 0.65)}
  needed["equal to 0.5 within 0.1"] = reader_study.needed_for_equivalence(0.1)
  return {"readers": readers, "pairs": pairs, "pairs_missing": why, "needed": needed}


def _counted(rows: list[dict[str, str]]) -> dict[str, Any]:
  found = {}
  for row in rows:
    if row["reader"] in found:
      raise ValueError(f"reader {row['reader']} has two lines of counts")
    counts = reader_study.Counts(*(int(row[name]) for name in reader_study.Counts._fields))
    found[row["reader"]] = {"reading": reader_study.read(counts), "auc": None}
  return found


def _answered(rows: list[dict[str, str]]) -> tuple[dict[str, Any], list[Any]]:
  answers: dict[str, dict[str, tuple[bool, bool, str]]] = {}
  for number, row in enumerate(rows, 2):
    truth, answer = (_word(row[name], number) for name in ("truth", "answer"))
    own = answers.setdefault(row["reader"], {})
    if row["image"] in own:
      raise ValueError(f"line {number}: this reader has answered for this image before")
    own[row["image"]] = truth, answer, row.get("rating", "")
  found: dict[str, Any] = {}
  for reader, own in answers.items():
    truths, said, ratings = zip(*own.values())
    auc = None
    if all(ratings):
      auc = reader_study.auc(truths, [float(rating) for rating in ratings])
    counts = reader_study.count(truths, said)
    found[reader] = {"reading": reader_study.read(counts), "auc": auc}
  pairs = []
  for first, second in itertools.combinations(answers, 2):
    shared = [image for image in answers[first] if image in answers[second]]
    if not shared:
      continue
    one, other = ([answers[reader][image] for image in shared] for reader in (first, second))
    agreement = reader_study.compare(_truth(one, other), [a[1] for a in one], [a[1] for a in other])
    pairs.append((first, second, agreement))
  return found, pairs


def _truth(one: list[tuple[bool, bool, str]], other: list[tuple[bool, bool, str]]) -> list[bool]:
  if [a[0] for a in one] != [a[0] for a in other]:
    raise ValueError("two readers' lines differ on whether an image is real")
  return [a[0] for a in one]


def _word(text: str, number: int) -> bool:
  if text.lower() not in _WORDS:
    raise ValueError(f"line {number}: {text!r} is neither real nor synthetic")
  return _WORDS[text.lower()]


def as_json(found: Mapping[str, Any]) -> dict[str, Any]:
  """Tuples with names as dicts and others as lists, for report.json."""

  def plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
      return {key: plain(one) for key, one in value._asdict().items()}
    if isinstance(value, Mapping):
      return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value

  return dict(plain(found))
