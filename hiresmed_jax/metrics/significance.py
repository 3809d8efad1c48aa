"""Is one method better than another on the same images? Host code, float64.

Every test is paired: both methods were given the same images. P-values are two-sided. Where nothing
can be tested the p-value is NaN and `note` says why, so that a table can show the reason.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


class Test(NamedTuple):
  """One paired comparison: `difference` is the mean of first - second over N pairs."""

  name: str
  difference: float
  statistic: float
  p_value: float
  n: int
  note: str = ""


class Interval(NamedTuple):
  """A number and the range that its resampled values fill, from `groups` groups."""

  value: float
  low: float
  high: float
  p_value: float  # two-sided, against 0
  groups: int


def paired_t(first: Sequence[float], second: Sequence[float]) -> Test:
  """Student's t-test of paired values. Assumes that the mean difference is normal.

  Raises:
    ValueError: lengths differ, or a value is not finite.
  """
  difference = _differences(first, second)
  if note := _untestable(difference):
    return _missing("paired t", difference, note)
  if np.ptp(difference) <= 1e-12 * np.max(np.abs(difference)):
    return _missing("paired t", difference, "all differences are equal: they have no spread")
  found = scipy.stats.ttest_1samp(difference, 0.0)
  return _test("paired t", difference, found.statistic, found.pvalue)


def wilcoxon(first: Sequence[float], second: Sequence[float]) -> Test:
  """Wilcoxon's signed-rank test; pairs without a difference are left out.

  Exact up to 50 pairs without ties or zeros, else the normal approximation (SciPy's `auto`).

  Raises:
    ValueError: as for `paired_t`.
  """
  difference = _differences(first, second)
  if note := _untestable(difference):
    return _missing("Wilcoxon", difference, note)
  found = scipy.stats.wilcoxon(difference)
  return _test("Wilcoxon", difference, found.statistic, found.pvalue)


def bonferroni(p_values: Sequence[float]) -> np.ndarray:
  """P-values times their number, at most 1: f64[M]. NaN (not tested) stays and does not count.

  Raises:
    ValueError: a p-value outside [0, 1].
  """
  p = _p_values(p_values)
  return np.minimum(p * np.count_nonzero(~np.isnan(p)), 1.0)


def holm(p_values: Sequence[float]) -> np.ndarray:
  """Holm's step-down adjustment: never above Bonferroni's, same guarantee. Else as `bonferroni`."""
  p = _p_values(p_values)
  adjusted = np.full(p.shape, np.nan)
  tested = np.flatnonzero(~np.isnan(p))
  order = tested[np.argsort(p[tested], kind="stable")]
  factors = len(order) - np.arange(len(order))
  adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
  return adjusted


def stars(p_value: float) -> str:
  """The usual marks: *** below .001, ** below .01, * below .05; "" else and for NaN."""
  return "***" if p_value < 0.001 else "**" if p_value < 0.01 else "*" if p_value < 0.05 else ""


def bootstrap(
  first: Sequence[float],
  second: Sequence[float],
  *,
  groups: Sequence[object] | None = None,
  within: bool = False,
  confidence: float = 0.95,
  resamples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """Percentile interval of the mean difference; images of one patient are drawn together.

  Both are N values of the same images (several samplings of an image: one row each, the image's
  patient as their group). `groups` say whom each row belongs to; None: every row by itself.
  `within`: after the groups draw anew inside each as well, which is wider than needed in most cases
  (Davison and Hinkley, 1997, section 3.8); for few large groups.

  Returns:
    The interval; its p-value is twice the smaller share of resampled means on one side of 0, and
    never below 2 / (resamples + 1). NaN for fewer than two groups, which show no spread.

  Raises:
    ValueError: lengths differ, or a value is not finite.
  """
  difference = _differences(first, second)
  names = np.arange(len(difference)) if groups is None else np.asarray(groups)
  drawn = group_draws(names, resamples=resamples, seed=seed, within=within)
  if names.shape != difference.shape:
    raise ValueError(f"{len(difference)} pairs and {len(names)} groups")
  count = len(np.unique(names))
  if count < 2:
    return Interval(_mean(difference), np.nan, np.nan, np.nan, count)
  means = np.array([difference[rows].mean() for rows in drawn])
  return interval(_mean(difference), means, confidence=confidence, groups=count)


def interval(value: float, resampled: np.ndarray, *, confidence: float, groups: int) -> Interval:
  """The percentile interval of resampled values f64[R] around what was measured."""
  tail = 50.0 * (1.0 - confidence)
  low, high = np.percentile(resampled, [tail, 100.0 - tail])
  below, above = np.count_nonzero(resampled <= 0), np.count_nonzero(resampled >= 0)
  p_value = min(1.0, 2.0 * (1 + min(below, above)) / (1 + len(resampled)))
  return Interval(value, float(low), float(high), p_value, groups)


def group_draws(
  groups: Sequence[object] | np.ndarray, *, resamples: int, seed: int, within: bool = False
) -> Iterator[np.ndarray]:
  """Rows of one bootstrap sample after the other: as many groups as there are, with replacement.

  Yields i64[about N] row numbers, equal groups' rows together. `within`: the rows of a drawn group
  are drawn anew too.
  """
  _, member = np.unique(np.asarray(groups), return_inverse=True)
  by_group = np.argsort(member, kind="stable")
  sizes = np.bincount(member)
  starts = np.cumsum(sizes) - sizes
  rng = np.random.default_rng(seed)
  for _ in range(resamples):
    drawn = rng.integers(len(sizes), size=len(sizes))
    size = sizes[drawn]
    if within:
      position = (rng.random(size.sum()) * np.repeat(size, size)).astype(np.int64)
    else:
      position = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    yield by_group[np.repeat(starts[drawn], size) + position]


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
  a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if a.ndim != 1 or a.shape != b.shape:
    raise ValueError(f"pairs of numbers are needed, not {a.shape} and {b.shape}")
  if not (np.isfinite(a).all() and np.isfinite(b).all()):
    raise ValueError("a value is NaN or infinite: there is no difference to test")
  return a - b


def _untestable(difference: np.ndarray) -> str:
  if len(difference) < 2:
    return "fewer than two pairs"
  return "" if difference.any() else "no pair differs"


def _missing(name: str, difference: np.ndarray, note: str) -> Test:
  return Test(name, _mean(difference), np.nan, np.nan, len(difference), note)


def _test(name: str, difference: np.ndarray, statistic: float, p_value: float) -> Test:
  return Test(name, _mean(difference), float(statistic), float(p_value), len(difference))


def _mean(difference: np.ndarray) -> float:
  return float(difference.mean()) if len(difference) else float("nan")


def _p_values(p_values: Sequence[float]) -> np.ndarray:
  p = np.asarray(p_values, np.float64)
  if ((p < 0) | (p > 1)).any():
    raise ValueError(f"p-values lie in [0, 1]: {p}")
  return p
