"""Judges that tell inserted lesions from real ones, with what they find.

Each learns to separate two kinds of patches on three quarters of the patient groups and is asked
about the rest, for every quarter. They differ in what they overlook; a comparison counts by the
strictest. Their settings are fixed: insertion is never fitted to them.

N patches of S x S pixels as exported, whole grey values of 0 to 255, the lesion in the middle.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hiresmed_jax.evaluation import patch_features, patch_network
from hiresmed_jax.metrics import significance

FOLDS = 4
_TREES = 150
_PENALTY = 0.05  # inverse strength of the logistic regression's
_SEEN = 33  # side of what the networks see, pixels
_JITTER = 0.05  # of brightness, of the range [-1, 1]
_RESAMPLES = 500

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


class Patches(NamedTuple):
  """Patches of one kind, a row for each site.

  Attributes:
    pixels: u8[N, S, S].
    diameters: f32[N], of the lesions or of what stands for them, in pixels.
  """

  pixels: np.ndarray
  diameters: np.ndarray


class Verdict(NamedTuple):
  """Area under the ROC curve and its 95 % bootstrap interval over groups; .5 is chance."""

  auc: float
  interval: tuple[float, float]


def compare(
  first: Patches,
  second: Patches,
  groups: np.ndarray,
  folds: np.ndarray,
  *,
  seed: int = 0,
) -> dict[str, Verdict]:
  """What each judge makes of two kinds of patches at the same N sites.

  Args:
    first, second: patches; row i of both is of site i.
    groups: int[N], patient groups.
    folds: int[N], of `fold_of`.
    seed: of the judges.

  Returns:
    {judge: verdict}; "forest" is a random forest blended with a logistic regression on hand-made
    features, "network" a small network, "network, brightness varied" the same, taught to overlook
    brightness.
  """
  both = Patches(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
  labels = np.repeat([0, 1], len(groups))
  return judged(both, labels, np.tile(groups, 2), np.tile(folds, 2), seed=seed)


def null(
  real: Patches, groups: np.ndarray, folds: np.ndarray, *, seed: int = 0
) -> dict[str, Verdict]:
  """The same for real patches, each labelled by chance: where .5 is outside, the judge is wrong."""
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.arange(len(groups)) % 2)
  return judged(real, labels, groups, folds, seed=seed)


def judged(
  patches: Patches, labels: np.ndarray, groups: np.ndarray, folds: np.ndarray, *, seed: int = 0
) -> dict[str, Verdict]:
  """As `compare`, of patches in any order with labels int[N] of 0 and 1."""
  seen = _middle(patches.pixels)
  inputs: dict[str, tuple[np.ndarray, Scorer]] = {
    "forest": (np.concatenate(list(patch_features.features(*patches).values()), 1), _forest),
    "network": (seen, functools.partial(_network, jitter=0.0)),
    "network, brightness varied": (seen, functools.partial(_network, jitter=_JITTER)),
  }
  return {
    name: _verdict(_held_out(values, labels, folds, scorer, seed), labels, groups)
    for name, (values, scorer) in inputs.items()
  }


def logistic(
  values: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> Verdict:
  """A logistic regression on features f32[N, F] of any network."""
  return _verdict(_held_out(values, labels, folds, _line, 0), labels, groups)


def strictest(verdicts: Mapping[str, Verdict]) -> str:
  """The judge whose area is the largest."""
  return max(verdicts, key=lambda name: verdicts[name].auc)


def reasons(
  patches: Patches, labels: np.ndarray, folds: np.ndarray, *, seed: int = 0
) -> dict[str, dict[str, float]]:
  """By which families of features the forest tells the two kinds.

  Returns:
    {family: {"alone": area under the curve by this family alone, "importance": its share in the
    whole forest}}.
  """
  families = patch_features.features(*patches)
  forest = _fitted_forest(np.concatenate(list(families.values()), 1), labels, seed)
  found, start = {}, 0
  for name, values in families.items():
    stop = start + values.shape[1]
    scores = _held_out(values, labels, folds, _forest, seed)
    found[name] = {
      "alone": round(float(roc_auc_score(labels, scores)), 3),
      "importance": round(float(forest.feature_importances_[start:stop].sum()), 3),
    }
    start = stop
  return found


def distance(first: np.ndarray, second: np.ndarray) -> float:
  """Largest difference D of two samples' cumulative distributions (Kolmogorov-Smirnov)."""
  return float(scipy.stats.ks_2samp(first, second).statistic)


def fold_of(groups: Sequence[int] | np.ndarray) -> np.ndarray:
  """int[N]: the fold of each group; the largest groups are assigned first, to the smallest fold."""
  filled, fold = [0] * FOLDS, {}
  listed = np.asarray(groups).tolist()
  for group, count in Counter(listed).most_common():
    fold[group] = int(np.argmin(filled))
    filled[fold[group]] += count
  return np.array([fold[g] for g in listed])


def _middle(pixels: np.ndarray) -> np.ndarray:
  """f32[N, 33, 33] in [-1, 1]."""
  start = max((pixels.shape[1] - _SEEN) // 2, 0)
  part = pixels[:, start : start + _SEEN, start : start + _SEEN]
  return part.astype(np.float32) / 127.5 - 1


def _held_out(
  values: np.ndarray, labels: np.ndarray, folds: np.ndarray, scorer: Scorer, seed: int
) -> np.ndarray:
  """Scores f64[N], each by a judge that has seen nothing of the patch's fold.

  Ranks within a fold, since the scores of two trainings have no common scale.
  """
  scores = np.zeros(len(labels))
  for fold in np.unique(folds):
    out = folds == fold
    found = scorer(values[~out], labels[~out], values[out], seed)
    scores[out] = scipy.stats.rankdata(found) / out.sum()
  return scores


def _verdict(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Verdict:
  drawn = [
    roc_auc_score(labels[rows], scores[rows])
    for rows in significance.group_draws(groups, resamples=_RESAMPLES, seed=0)
    if 0 < labels[rows].sum() < len(rows)
  ]
  low, high = np.percentile(drawn, [2.5, 97.5])
  return Verdict(float(roc_auc_score(labels, scores)), (float(low), float(high)))


def _forest(values: np.ndarray, labels: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
  """Mean of the forest's and the logistic regression's probabilities."""
  by_trees = _fitted_forest(values, labels, seed).predict_proba(others)[:, 1]
  return (by_trees + _line(values, labels, others, seed)) / 2


def _fitted_forest(values: np.ndarray, labels: np.ndarray, seed: int) -> RandomForestClassifier:
  forest = RandomForestClassifier(_TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)
  return forest.fit(values, labels)


def _line(values: np.ndarray, labels: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
  line: Any = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, max_iter=2000))
  return line.fit(values, labels).predict_proba(others)[:, 1]


def _network(
  values: np.ndarray, labels: np.ndarray, others: np.ndarray, seed: int, *, jitter: float
) -> np.ndarray:
  return patch_network.train_and_score(values, labels, others, seed=seed, jitter=jitter)
