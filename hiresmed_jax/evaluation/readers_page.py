"""The reader study's section of report.md: what each p-value means stands beside it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hiresmed_jax.evaluation.cells import table
from hiresmed_jax.metrics.reader_study import Share


def section(study: Mapping[str, Any]) -> Iterator[str]:
  """Lines of Markdown for what `readers.study` found."""
  yield from ("## Reader study: real or synthetic?", "")
  head = ("reader", "sensitivity", "specificity", "accuracy", "synthetic called real")
  rows = []
  for name, found in study["readers"].items():
    one = found["reading"]
    shares = (one.sensitivity, one.specificity, one.accuracy, one.fooled)
    cells = [name, *map(_share, shares), _interval(*one.kappa)]
    cells.append("no ratings" if found["auc"] is None else f"{found['auc']:.3f}")
    rows.append(cells)
  yield from table((*head, "kappa against truth", "AUC"), rows)
  yield from ("Positive = real. Brackets: 95 % intervals, Wilson's of shares.", "")
  for name, found in study["readers"].items():
    counts = found["reading"].counts
    yield (
      f"**{name}** (real: {counts.tp} called real, {counts.fn} synthetic; synthetic: {counts.fp} "
      f"called real, {counts.tn} synthetic)"
    )
    yield ""
    for finding in found["reading"].findings:
      yield f"- {finding.name}: p = {_p(finding.p_value)}. {finding.meaning}"
    yield ""
  for first, second, agreement in study["pairs"]:
    yield (
      f"**{first} and {second}**: the same answer on {_share(agreement.same)} of the images, kappa "
      f"between the readers {_interval(*agreement.kappa)}"
    )
    yield ""
    for finding in agreement.findings:
      yield f"- {finding.name}: p = {_p(finding.p_value)}. {finding.meaning}"
    yield ""
  if study["pairs_missing"]:
    yield from (f"- missing: kappa between readers: {study['pairs_missing']}", "")
  needed = ", ".join(f"{count:,} ({accuracy})" for accuracy, count in study["needed"].items())
  yield f"Answers needed of one reader for 80 % power at 5 %, by true accuracy: {needed}."
  yield ""


def _share(share: Share) -> str:
  if math.isnan(share.value):
    return "missing: none"
  return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _interval(value: float, low: float, high: float) -> str:
  if math.isnan(value):
    return "missing: one answer is all there is"
  return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _p(value: float) -> str:
  return "undefined" if math.isnan(value) else f"{value:.2g}"
