"""Cells and tables of report.md; a number without a value is "missing", its reason below."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hiresmed_jax.metrics.significance import stars


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """A Markdown table and an empty line; bars in cells are escaped."""
  shown = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
  lines = ["| " + " | ".join(row) + " |" for row in shown]
  return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]


def p_text(value: float) -> str:
  """A p-value as it is printed, with its stars; below 1e-4 as a bound."""
  if value is None or math.isnan(value):
    return "undefined"
  return ("< .0001" if value < 1e-4 else f"{value:.4f}") + f" {stars(value)}".rstrip()


def missing(reasons: Mapping[str, str]) -> Iterator[str]:
  """One line a reason."""
  by_reason: dict[str, list[str]] = {}
  for what, why in reasons.items():
    by_reason.setdefault(why, []).append(what)
  for why, names in by_reason.items():
    yield f"- missing: {'; '.join(names)}: {why}"
  if by_reason:
    yield ""


def cell(row: Mapping[str, Any], digits: int) -> str:
  """A number ± its SD over samplings, or (SD over images) where there is one sampling."""
  if "value" not in row:
    return "missing"
  text = f"{row['value']:.{digits}f}"
  if row.get("sd") is not None:
    return f"{text} ± {row['sd']:.{digits}f}"
  return f"{text} ({row['sd_images']:.{digits}f})" if row.get("sd_images") is not None else text
