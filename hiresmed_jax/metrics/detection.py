"""Average precision and FROC, from totals that add up over batches and devices.

Detections are counted by score in `BINS` narrow bins of its logit: the totals have a fixed shape, a
sum over batches is exact, and the curves differ from those of sorted lists by less than 1e-3.

N images, L detections, M boxes at most in an image, T thresholds of overlap, K classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.ops import boxes as box_ops
from hiresmed_jax.types import Array

THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
FALSE_PER_IMAGE = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
BINS = 4096
_LOGIT = 9.0  # scores from 0.0001 to 0.9999 have bins of their own
_RECALLS = np.linspace(0.0, 1.0, 101)


def count(
  boxes: Array,
  scores: Array,
  labels: Array,
  valid: Array,
  real: Array,
  real_labels: Array,
  real_valid: Array,
  weight: Array,
  *,
  classes: int = 1,
) -> dict[str, Array]:
  """Totals of a batch.

  Args:
    boxes: f32[N, L, 4] detections xyxy, the surest first.
    scores: f32[N, L] in [0, 1].
    labels: i32[N, L].
    valid: bool[N, L].
    real: f32[N, M, 4].
    real_labels: i32[N, M].
    real_valid: bool[N, M].
    weight: f32[N], 0 for an image that does not count.
    classes: K.

  Returns:
    images f32[]; real f32[K]; detections f32[K, BINS]; right f32[K, T, BINS]: those that COCO's
    matching gives a box; found f32[K, BINS]: real boxes by the surest detection whose centre they
    hold; false f32[K, BINS]: detections whose centre no real box of the class holds.
  """
  valid = valid & (weight[:, None] > 0)
  real_valid = real_valid & (weight[:, None] > 0)
  same = (labels[:, :, None] == real_labels[:, None, :]) & real_valid[:, None, :]
  overlap = jnp.where(same, box_ops.pairwise_iou(boxes, real), 0.0)
  right = jax.vmap(_matched)(overlap, valid)  # [N, L, T]
  inside = box_ops.contain(real, box_ops.centre(boxes)).swapaxes(1, 2)  # [N, L, M]
  inside = inside & same & valid[:, :, None]
  surest = jnp.max(jnp.where(inside, scores[:, :, None], -1.0), 1)  # [N, M]

  def spread(scores: Array, labels: Array, counted: Array) -> Array:
    """f32[K, BINS]: how many are counted, by class and score."""
    zeros = jnp.zeros((classes, BINS))
    return zeros.at[labels, _bin(scores)].add(counted.astype(jnp.float32))

  return {
    "images": jnp.sum((weight > 0).astype(jnp.float32)),
    "real": jnp.zeros(classes).at[real_labels].add(real_valid.astype(jnp.float32)),
    "detections": spread(scores, labels, valid),
    "right": jnp.stack([spread(scores, labels, right[..., t]) for t in range(right.shape[-1])], 1),
    "found": spread(surest, real_labels, surest >= 0.0),
    "false": spread(scores, labels, valid & ~jnp.any(inside, -1)),
  }


def summarise(totals: Mapping[str, Any]) -> dict[str, float]:
  """map50 and map50_95 (COCO, means over the classes that occur) and FROC, on the host.

  froc: mean sensitivity at 1/8 .. 8 false detections an image (LUNA16); froc_1: at 1. All are NaN
  where there are no real boxes.
  """
  real = np.asarray(totals["real"], np.float64)
  occurs = real > 0
  if not occurs.any():
    return dict.fromkeys(("map50", "map50_95", "froc", "froc_1"), float("nan"))
  precision = average_precision(totals)[occurs]
  sensitivity = froc(totals)
  return {
    "map50": float(precision[:, 0].mean()),
    "map50_95": float(precision.mean()),
    "froc": float(sensitivity.mean()),
    "froc_1": float(sensitivity[FALSE_PER_IMAGE.index(1.0)]),
  }


def average_precision(totals: Mapping[str, Any]) -> np.ndarray:
  """f64[K, T]: mean of the greatest precision at or beyond each of 101 recalls, as COCO has it."""
  right = np.cumsum(np.asarray(totals["right"], np.float64)[..., ::-1], -1)
  made = np.cumsum(np.asarray(totals["detections"], np.float64)[..., ::-1], -1)[:, None]
  real = np.asarray(totals["real"], np.float64)[:, None, None]
  recall = right / np.maximum(real, 1.0)
  precision = np.maximum.accumulate((right / np.maximum(made, 1.0))[..., ::-1], -1)[..., ::-1]
  found = np.zeros(right.shape[:2])
  for index in np.ndindex(found.shape):
    at = np.searchsorted(recall[index], _RECALLS, side="left")
    found[index] = np.where(at < BINS, precision[index][np.minimum(at, BINS - 1)], 0.0).mean()
  return found


def froc(totals: Mapping[str, Any]) -> np.ndarray:
  """f64[7]: share of the real boxes that are found, at each of `FALSE_PER_IMAGE`."""
  found = np.cumsum(np.asarray(totals["found"], np.float64).sum(0)[::-1])
  false = np.cumsum(np.asarray(totals["false"], np.float64).sum(0)[::-1])
  false = false / max(float(totals["images"]), 1.0)
  real = max(float(np.sum(totals["real"])), 1.0)
  last = np.searchsorted(false, FALSE_PER_IMAGE, side="right") - 1
  return np.where(last >= 0, found[np.maximum(last, 0)], 0.0) / real


def _matched(overlap: Array, valid: Array) -> Array:
  """[L, M] -> bool[L, T]: one after the other takes the free box that it overlaps most."""
  thresholds = jnp.array(THRESHOLDS)

  def take(free: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
    own, there = row
    offered = jnp.where(free, own, -1.0)  # [T, M]
    choice = jnp.argmax(offered, 1)
    hit = (jnp.max(offered, 1) >= thresholds) & there
    taken = jax.nn.one_hot(choice, free.shape[1], dtype=bool) & hit[:, None]
    return free & ~taken, hit

  free = jnp.ones((len(THRESHOLDS), overlap.shape[1]), bool)
  return jax.lax.scan(take, free, (overlap, valid))[1]


def _bin(scores: Array) -> Array:
  scores = jnp.clip(scores, 1e-6, 1.0 - 1e-6)
  logit = jnp.log(scores) - jnp.log1p(-scores)
  place = (logit + _LOGIT) / (2 * _LOGIT) * BINS
  return jnp.clip(place, 0, BINS - 1).astype(jnp.int32)
