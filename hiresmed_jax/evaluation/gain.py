"""Does a detector find more real lesions? FROC of single images, and paired intervals over groups.

Host code, float64. I images, N real lesions in them, F false detections.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiresmed_jax.metrics.detection import FALSE_PER_IMAGE
from hiresmed_jax.metrics.significance import Interval, interval


class Hits(NamedTuple):
  """What a detector found in images, as `hits` makes it.

  Attributes:
    found: f64[N], for each real lesion the surest score of a detection whose centre lies in its
      box; -inf: none does.
    found_in: int[N], the image of each.
    false: f64[F], scores of detections whose centre lies in no real box.
    false_in: int[F].
    images: I.
  """

  found: np.ndarray
  found_in: np.ndarray
  false: np.ndarray
  false_in: np.ndarray
  images: int


def hits(
  boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray], real: Sequence[np.ndarray]
) -> Hits:
  """Compares detections with real boxes, image by image.

  Args:
    boxes: f[L, 4] xyxy of each image's detections.
    scores: f[L] of them.
    real: f[M, 4] of each image's lesions.
  """
  found, found_in, false, false_in = [], [], [], []
  for index, (own, sure, there) in enumerate(zip(boxes, scores, real, strict=True)):
    centres = (own[:, :2] + own[:, 2:])[:, None] / 2
    inside = ((centres >= there[None, :, :2]) & (centres < there[None, :, 2:])).all(-1)  # [L, M]
    found.append(np.where(inside, sure[:, None], -np.inf).max(0, initial=-np.inf))
    false.append(sure[~inside.any(1)])
    found_in.append(np.full(len(there), index))
    false_in.append(np.full(len(false[-1]), index))
  parts = [np.concatenate([np.zeros(0), *part]) for part in (found, found_in, false, false_in)]
  return Hits(parts[0], parts[1].astype(int), parts[2], parts[3].astype(int), len(real))


def froc(found: Hits, weight: np.ndarray | None = None, lesions: np.ndarray | None = None) -> float:
  """Mean share of the real lesions found at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false ones an image.

  Args:
    found: of `hits`.
    weight: f64[I], how often each image counts; None: once.
    lesions: bool[N], those that count; None: all.

  Returns:
    NaN where no lesion counts.
  """
  weight = np.ones(found.images) if weight is None else weight
  own = weight[found.found_in] * (1.0 if lesions is None else lesions)
  if not own.sum():
    return float("nan")
  order = np.argsort(-found.false, kind="stable")
  scores = np.append(found.false[order], -np.inf)  # then all that was found counts
  made = np.append(np.cumsum(weight[found.false_in[order]]), np.inf) / weight.sum()
  # The surest false detection that is one too many; what is surer than it counts.
  limits = scores[[int(np.searchsorted(made, rate, side="right")) for rate in FALSE_PER_IMAGE]]
  return float(np.mean([own[found.found > limit].sum() for limit in limits]) / own.sum())


def difference(
  first: Sequence[Hits],
  second: Sequence[Hits],
  groups: Sequence[object],
  *,
  resamples: int = 2000,
  seed: int = 0,
) -> Interval:
  """FROC of one arm less that of another on the same images, mean over trainings.

  Each resample draws groups of images, the same for both arms, and trainings of them.

  Args:
    first: hits of each training of one arm; trainings at one place of both have one seed.
    second: of the other arm.
    groups: I, whom each image belongs to.
    resamples: of the bootstrap.
    seed: of it.

  Returns:
    The 95 % interval; NaN for fewer than two groups.

  Raises:
    ValueError: the arms have unequal numbers of trainings, or of images.
  """
  images = {one.images for one in (*first, *second)}
  if len(first) != len(second) or images != {len(groups)}:
    raise ValueError(f"{len(first)} and {len(second)} trainings on {images} images")
  names, member = np.unique(np.asarray(groups), return_inverse=True)
  value = _mean_difference(first, second, None)
  if len(names) < 2:
    return Interval(value, np.nan, np.nan, np.nan, len(names))
  rng, drawn = np.random.default_rng(seed), []
  for _ in range(resamples):
    chosen = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
    runs = rng.integers(len(first), size=len(first))
    weight = chosen[member].astype(np.float64)
    drawn.append(_mean_difference([first[i] for i in runs], [second[i] for i in runs], weight))
  finite = np.asarray(drawn)[np.isfinite(drawn)]
  return interval(value, finite, confidence=0.95, groups=len(names))


def _mean_difference(
  first: Sequence[Hits], second: Sequence[Hits], weight: np.ndarray | None
) -> float:
  return float(np.mean([froc(a, weight) - froc(b, weight) for a, b in zip(first, second)]))
