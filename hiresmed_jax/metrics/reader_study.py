"""Visual Turing test: can a reader tell real images from synthetic ones? Host code, exact.

Positive = real: a true positive is a real image that was called real. Every p-value comes with a
sentence that says what it is about, because the usual ones are taken for what they are not:
McNemar's compares the two kinds of error of one reader, accuracy's compares with guessing, and a
large p-value of either is no sign of equality: that is what the equivalence test is for.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from scipy.special import ndtri


class Counts(NamedTuple):
  """Answers of one reader. Real images: tp called real, fn called synthetic; synthetic: fp, tn."""

  tp: int
  fn: int
  fp: int
  tn: int


class Share(NamedTuple):
  """k of n, with Wilson's interval; NaN throughout for n = 0."""

  k: int
  n: int
  value: float
  low: float
  high: float


class Kappa(NamedTuple):
  """Agreement beyond chance, its large-sample interval; NaN where one answer is all there is."""

  value: float
  low: float
  high: float


class Finding(NamedTuple):
  """A p-value and the sentence that says what it means."""

  name: str
  p_value: float
  meaning: str


class Reading(NamedTuple):
  """All of one reader."""

  counts: Counts
  sensitivity: Share
  specificity: Share
  accuracy: Share
  fooled: Share  # synthetic images called real
  kappa: Kappa  # reader against truth
  findings: tuple[Finding, ...]


def count(is_real: Sequence[bool], said_real: Sequence[bool]) -> Counts:
  """Counts from per-image answers.

  Raises:
    ValueError: lengths differ, or an entry is neither true nor false (0 and 1 do).
  """
  real, said = _answers(is_real), _answers(said_real)
  if real.shape != said.shape:
    raise ValueError(f"{len(real)} images and {len(said)} answers")
  tp, fn = int((real & said).sum()), int((real & ~said).sum())
  return Counts(tp, fn, int((~real & said).sum()), int((~real & ~said).sum()))


def read(counts: Counts, *, margin: float = 0.1, confidence: float = 0.95) -> Reading:
  """Everything that can be said of one reader from four counts.

  Accuracies within 0.5 +- `margin`, to be chosen before the study, count as guessing in the
  equivalence test; 1 - `confidence` is the level that the sentences speak of.

  Raises:
    ValueError: a negative or fractional count, no answers, a margin outside (0, 0.5).
  """
  if any(c < 0 or c != int(c) for c in counts) or not sum(counts):
    raise ValueError(f"counts are whole numbers of answers, not all of them 0: {tuple(counts)}")
  tp, fn, fp, tn = counts
  return Reading(
    counts=counts,
    sensitivity=wilson(tp, tp + fn, confidence=confidence),
    specificity=wilson(tn, tn + fp, confidence=confidence),
    accuracy=wilson(tp + tn, sum(counts), confidence=confidence),
    fooled=wilson(fp, fp + tn, confidence=confidence),
    kappa=kappa([[tp, fn], [fp, tn]], confidence=confidence),
    findings=(
      _accuracy(tp + tn, sum(counts), 1.0 - confidence),
      _guessing(tp + tn, sum(counts), margin, 1.0 - confidence),
      _fooled(fp, fp + tn),
      _leaning("exact", mcnemar_exact(fn, fp), fn, fp, 1.0 - confidence),
      _leaning("with continuity correction", mcnemar_corrected(fn, fp), fn, fp, 1.0 - confidence),
    ),
  )


def _accuracy(right: int, total: int, level: float) -> Finding:
  p = binomial(right, total)
  verdict = "the reader does not guess" if p < level else "it is not shown that the reader can tell"
  return Finding(
    "accuracy against 50 %, exact binomial",
    p,
    f"The reader was right on {right} of {total} images. One who guesses would be at least as far "
    f"from half with probability {_p(p)}: {verdict}.",
  )


def _guessing(right: int, total: int, margin: float, level: float) -> Finding:
  p, points = equivalence(right, total, margin=margin), f"{100 * margin:g}"
  verdict = "equal to guessing within the margin" if p < level else "equality is not shown"
  return Finding(
    f"accuracy within 50 +- {points} %, equivalence (TOST)",
    p,
    f"A reader whose accuracy is {points} points or more off 50 % would come this close to it with "
    f"probability {_p(p)} at most: {verdict}.",
  )


def _fooled(passed: int, synthetic: int) -> Finding:
  p = binomial(passed, synthetic)
  return Finding(
    "synthetic called real against 50 %, exact binomial",
    p,
    f"{passed} of {synthetic} synthetic images passed as real (p {_p(p)} against a coin). It rises "
    "with how readily the reader says 'real', whatever the images are: read it beside sensitivity.",
  )


def _leaning(kind: str, p: float, missed: int, passed: int, level: float) -> Finding:
  towards = "real" if passed > missed else "synthetic"
  verdict = f"the reader leans towards '{towards}'" if p < level else "no leaning is shown"
  return Finding(
    f"McNemar, {kind}",
    p,
    f"{missed} real images called synthetic against {passed} synthetic ones called real (p {_p(p)})"
    f": {verdict}. It compares two errors; it says nothing on whether the reader can tell the "
    "images apart.",
  )


class Agreement(NamedTuple):
  """Two readers of the same images: needs each image's answers, counts do not tell."""

  kappa: Kappa  # reader against reader
  same: Share  # images on which they said the same
  findings: tuple[Finding, ...]


def compare(
  is_real: Sequence[bool],
  first: Sequence[bool],
  second: Sequence[bool],
  *,
  confidence: float = 0.95,
) -> Agreement:
  """Agreement of two readers, and whether one is more often right. Raises ValueError as `count`."""
  count(is_real, first)
  count(is_real, second)
  real, a, b = _answers(is_real), _answers(first), _answers(second)
  table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
  only_a = int(((a == real) & (b != real)).sum())
  only_b = int(((a != real) & (b == real)).sum())
  p = mcnemar_exact(only_a, only_b)
  meaning = (
    f"{only_a} images only the first reader got right, {only_b} only the second (p {_p(p)}): "
    + ("one reader is better." if p < 1.0 - confidence else "no difference in skill is shown.")
  )
  return Agreement(
    kappa=kappa(table, confidence=confidence),
    same=wilson(int((a == b).sum()), len(a), confidence=confidence),
    findings=(Finding("accuracy of two readers, McNemar exact", p, meaning),),
  )


def wilson(k: int, n: int, *, confidence: float = 0.95) -> Share:
  """Share of k in n with Wilson's score interval, inside [0, 1]. Raises ValueError for k > n."""
  if not 0 <= k <= n:
    raise ValueError(f"{k} of {n} is no share")
  if not n:
    return Share(k, n, math.nan, math.nan, math.nan)
  found = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
  return Share(k, n, k / n, float(found.low), float(found.high))


def kappa(table: Sequence[Sequence[int]], *, confidence: float = 0.95) -> Kappa:
  """Cohen's kappa of a 2 x 2 table of counts; interval by Fleiss, Cohen and Everitt (1969)."""
  share = np.asarray(table, np.float64) / np.sum(table)
  rows, columns = share.sum(axis=1), share.sum(axis=0)
  chance = float(rows @ columns)
  if math.isclose(chance, 1.0):
    return Kappa(math.nan, math.nan, math.nan)
  observed = float(np.trace(share))
  value = (observed - chance) / (1.0 - chance)
  both = rows[None, :] + columns[:, None]  # of cell (i, j): its row's name as column, and reverse
  on = (np.diag(share) * (1.0 - np.diag(both) * (1.0 - value)) ** 2).sum()
  off = ((share - np.diag(np.diag(share))) * both**2).sum() * (1.0 - value) ** 2
  variance = (on + off - (value - chance * (1.0 - value)) ** 2) / np.sum(table)
  half = ndtri(0.5 + confidence / 2) * math.sqrt(max(variance, 0.0)) / (1.0 - chance)
  return Kappa(value, value - half, value + half)


def binomial(k: int, n: int, *, chance: float = 0.5) -> float:
  """Exact two-sided p-value of k of n against `chance`; NaN for n = 0."""
  return float(scipy.stats.binomtest(k, n, chance).pvalue) if n else math.nan


def mcnemar_exact(b: int, c: int) -> float:
  """Exact two-sided p-value of two discordant counts; 1 when there are none."""
  return binomial(b, b + c) if b + c else 1.0


def mcnemar_corrected(b: int, c: int) -> float:
  """The same by chi-square with Edwards' continuity correction."""
  if not b + c:
    return 1.0
  return float(scipy.stats.chi2.sf(max(abs(b - c) - 1, 0) ** 2 / (b + c), 1))


def equivalence(k: int, n: int, *, margin: float, chance: float = 0.5) -> float:
  """Two one-sided exact tests that the true share lies within chance +- margin: the larger p.

  Raises:
    ValueError: chance +- margin leaves (0, 1), or the margin is not positive.
  """
  if not (margin > 0 and chance - margin > 0 and chance + margin < 1):
    raise ValueError(f"a margin of {margin} around {chance} leaves (0, 1) or is not positive")
  above_low = scipy.stats.binom.sf(k - 1, n, chance - margin)
  below_high = scipy.stats.binom.cdf(k, n, chance + margin)
  return float(max(above_low, below_high))


def needed_for_difference(accuracy: float, *, power: float = 0.8, level: float = 0.05) -> int:
  """Answers needed to tell a true `accuracy` from 50 % by the exact binomial test.

  The smallest number from which on the power never again falls below `power` (it is a sawtooth).

  Raises:
    ValueError: accuracy 0.5, which no number tells from 50 %, or numbers outside their ranges.
  """
  _ranges(power, level)
  if not (0 <= accuracy <= 1 and abs(accuracy - 0.5) >= 0.005):
    raise ValueError(f"an accuracy in [0, 1] and 0.005 or more from 0.5 is needed, not {accuracy}")

  def powers(n: np.ndarray) -> np.ndarray:
    most = scipy.stats.binom.ppf(level / 2, n, 0.5)
    most = np.where(2 * scipy.stats.binom.cdf(most, n, 0.5) <= level, most, most - 1)
    few = scipy.stats.binom.cdf(most, n, accuracy)
    return few + scipy.stats.binom.sf(n - most - 1, n, accuracy)

  return _last_below(powers, power, abs(accuracy - 0.5), level / 2)


def needed_for_equivalence(margin: float, *, power: float = 0.8, level: float = 0.05) -> int:
  """Answers needed to show guessing within 0.5 +- margin when the truth is 0.5; else as above."""
  _ranges(power, level)
  if not 0.005 <= margin < 0.5:
    raise ValueError(f"a margin in [0.005, 0.5) is needed, not {margin}")

  def powers(n: np.ndarray) -> np.ndarray:
    most = scipy.stats.binom.ppf(level, n, 0.5 + margin)
    most = np.where(scipy.stats.binom.cdf(most, n, 0.5 + margin) <= level, most, most - 1)
    # By symmetry answers from n - most to most show it.
    inside = scipy.stats.binom.cdf(most, n, 0.5) - scipy.stats.binom.cdf(n - most - 1, n, 0.5)
    return np.maximum(inside, 0.0)

  return _last_below(powers, power, margin, level)


def auc(is_real: Sequence[bool], ratings: Sequence[float]) -> float:
  """Area under the ROC curve of ratings (higher = more surely real); ties count half.

  The chance that a real image was rated above a synthetic one. NaN where one kind is missing.
  """
  real, rating = _answers(is_real), np.asarray(ratings, np.float64)
  if real.shape != rating.shape or not np.isfinite(rating).all():
    raise ValueError(f"{len(real)} images need as many finite ratings")
  if real.all() or not real.any():
    return math.nan
  wins = scipy.stats.mannwhitneyu(rating[real], rating[~real]).statistic
  return float(wins / (real.sum() * (~real).sum()))


def _last_below(
  powers: Callable[[np.ndarray], np.ndarray], power: float, distance: float, tail: float
) -> int:
  # Twice the normal approximation's number, at any power below .9999, is far beyond the sawtooth.
  wanted = (ndtri(1 - tail) + ndtri(max(power, 0.9))) ** 2 * 0.25 / distance**2
  n = np.arange(1, int(2 * wanted) + 60)
  return int(n[powers(n) < power].max(initial=0)) + 1


def _ranges(power: float, level: float) -> None:
  if not (0 < level < 0.5 and 0 < power <= 0.999):
    raise ValueError(f"power in (0, 0.999] and level in (0, 0.5) are needed: {power}, {level}")


def _answers(answers: Sequence[bool]) -> np.ndarray:
  found = np.asarray(answers)
  if found.ndim != 1 or not np.isin(found, (0, 1)).all():
    raise ValueError("answers are a list of true and false")
  return found.astype(bool)


def _p(p_value: float) -> str:
  return "undefined" if math.isnan(p_value) else f"{p_value:.2g}"
