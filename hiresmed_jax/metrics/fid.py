"""Frechet distance between two sets of feature vectors, in float64 on the host.

|m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2), m and S the means and covariances (N - 1). With A
and B any square roots of the covariances (A' A = S1), the last trace is the sum of the singular
values of A B': real, never negative, without a matrix square root. For N <= D vectors of length D
A is the centred vectors themselves, and A B' is N x N; for more it is the triangle of their QR
decomposition, which has the digits that a covariance has lost.

FID is biased: between two samples of one distribution it is far from 0 for few images, so it stands
beside its floor (`split_half`) and is compared at equal N only. KID (kid.py) is not biased.

Sources: Heusel et al., arXiv 1706.08500; nuclear norm: Mathiasen and Hvilshoj, arXiv 2009.14075.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hiresmed_jax.metrics.significance import Interval, group_draws, interval

Distance = Callable[[np.ndarray, np.ndarray], float]  # (features, features) -> a number


class Moments(NamedTuple):
  """Mean f64[D] and a square root f64[K, D] of the covariance."""

  mean: np.ndarray
  root: np.ndarray


class Floor(NamedTuple):
  """Distances between random halves of one set: mean, SD, images in the smallest half."""

  value: float
  sd: float
  number: int


def moments(features: np.ndarray) -> Moments:
  """Of N feature vectors [N, D], any float type.

  Raises:
    ValueError: fewer than two vectors, or one that is not finite.
  """
  features = vectors(features)
  count, length = features.shape
  mean = features.mean(axis=0)
  root = (features - mean) / np.sqrt(count - 1)
  if count > length:
    root = np.linalg.qr(root, mode="r")
  return Moments(mean, root)


def frechet(first: Moments, second: Moments) -> float:
  """The distance of two distributions by their moments; 0 for equal ones, never negative.

  Raises:
    ValueError: vectors of different lengths.
  """
  if first.mean.shape != second.mean.shape:
    raise ValueError(
      f"features of {len(first.mean)} and {len(second.mean)} numbers have no distance"
    )
  shift = np.sum((first.mean - second.mean) ** 2)
  spread = np.sum(first.root**2) + np.sum(second.root**2)
  shared = np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum()
  return float(max(shift + spread - 2.0 * shared, 0.0))


def fid(first: np.ndarray, second: np.ndarray) -> float:
  """Frechet distance of two sets of features [N, D], [M, D]. Raises ValueError as `moments`."""
  return frechet(moments(first), moments(second))


def split_half(
  features: np.ndarray,
  distance: Distance = fid,
  *,
  groups: Sequence[object] | None = None,
  repeats: int = 10,
  seed: int = 0,
) -> Floor:
  """The distance that equal distributions have: between random halves of one set of real images.

  `distance` is `fid` or another of this room. `groups` say whom each image belongs to; a patient is
  in one half only, so that the halves are of nearly equal size but for a patient's images.

  Returns:
    The floor for N / 2 images a side; with N a side it is lower, of FID by about a half.

  Raises:
    ValueError: fewer than four images or two groups.
  """
  features = vectors(features)
  names = np.arange(len(features)) if groups is None else np.asarray(groups)
  if len(names) != len(features):
    raise ValueError(f"{len(features)} feature vectors and {len(names)} groups")
  kinds, member = np.unique(names, return_inverse=True)
  if len(features) < 4 or len(kinds) < 2:
    raise ValueError(f"{len(features)} images of {len(kinds)} groups cannot be halved")
  rng = np.random.default_rng(seed)
  found, counts = [], []
  for _ in range(repeats):
    order = rng.permutation(len(kinds))
    sizes = np.cumsum(np.bincount(member)[order])
    # The cut after which both halves are as equal as whole groups allow.
    cut = 1 + int(np.argmin(np.abs(sizes[:-1] - len(features) / 2)))
    half = np.isin(member, order[:cut])
    found.append(distance(features[half], features[~half]))
    counts.append(min(half.sum(), (~half).sum()))
  sd = float(np.std(found, ddof=1)) if repeats > 1 else float("nan")
  return Floor(float(np.mean(found)), sd, int(min(counts)))


def bootstrap(
  real: np.ndarray,
  other: np.ndarray,
  distance: Distance = fid,
  *,
  groups_real: Sequence[object],
  groups_other: Sequence[object],
  paired: bool = False,
  confidence: float = 0.95,
  resamples: int = 200,
  seed: int = 0,
) -> Interval:
  """Interval of a distance of [N, D] and [M, D] over patients, drawn anew as a whole on both sides.

  A resampled set holds repeats, so that a biased distance such as FID is larger in it than in a set
  of distinct images: the percentile interval may lie above the value itself. Its width is what to
  look at; `low` and `high` are shifted so that the resampled median falls on the value.

  The groups say whom each row belongs to; of `other`, the patient whose image or background it is
  made from. `paired` draws the same patients on both sides (N = M, row by row the same groups).

  Raises:
    ValueError: groups that do not fit the features, or each other when paired; fewer than two.
  """
  real, other = vectors(real), vectors(other)
  sides = [np.asarray(groups_real), np.asarray(groups_other)]
  for features, names in zip((real, other), sides):
    if len(names) != len(features):
      raise ValueError(f"{len(features)} feature vectors and {len(names)} groups")
  if paired and not np.array_equal(sides[0], sides[1]):
    raise ValueError("paired sets have the same groups row by row")
  count = min(len(np.unique(names)) for names in sides)
  if count < 2:
    raise ValueError("one group shows no spread: an interval needs two or more")
  value = distance(real, other)
  first = group_draws(sides[0], resamples=resamples, seed=seed)
  second = group_draws(sides[1], resamples=resamples, seed=seed if paired else seed + 1)
  found = np.array([distance(real[a], other[b]) for a, b in zip(first, second, strict=True)])
  return interval(value, found + value - np.median(found), confidence=confidence, groups=count)


def vectors(features: np.ndarray) -> np.ndarray:
  """Features as f64[N, D].

  Raises:
    ValueError: fewer than two vectors, or one that is not finite.
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or len(features) < 2:
    raise ValueError(f"two or more feature vectors [N, D] are needed, not {features.shape}")
  if not np.isfinite(features).all():
    raise ValueError("a feature is NaN or infinite")
  return features
