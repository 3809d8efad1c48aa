"""Boxes, and non-maximum suppression of fixed size for `jit` and `vmap`.

Boxes are half-open xyxy in float pixels, pixel i covering [i, i + 1). Last axis 4, any axes before.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hiresmed_jax.ops.pool import maximum, minimum
from hiresmed_jax.types import Array

_TINY = 1e-7


def area(boxes: Array) -> Array:
  """[..., 4] -> [...], square pixels."""
  sides = maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
  return sides[..., 0] * sides[..., 1]


def centre(boxes: Array) -> Array:
  """[..., 4] -> [..., 2], (x, y)."""
  return (boxes[..., :2] + boxes[..., 2:]) / 2


def at_least(boxes: Array, side: float) -> Array:
  """Boxes grown about their centre until no side is shorter than `side` pixels."""
  half = maximum(boxes[..., 2:] - boxes[..., :2], side) / 2
  middle = centre(boxes)
  return jnp.concatenate([middle - half, middle + half], -1)


def contain(boxes: Array, points: Array) -> Array:
  """bool[..., M, P]: whether each of boxes [..., M, 4] holds each of points [P, 2] or [..., P, 2].

  The lower edges are in, the upper ones are not.
  """
  inside = (points[..., None, :, :] >= boxes[..., :, None, :2]) & (
    points[..., None, :, :] < boxes[..., :, None, 2:]
  )
  return inside[..., 0] & inside[..., 1]


def iou(a: Array, b: Array) -> Array:
  """Intersection over union in [0, 1] of boxes that broadcast: [..., 4], [..., 4] -> [...]."""
  shared = _intersection(a, b)
  return shared / maximum(area(a) + area(b) - shared, _TINY)


def pairwise_iou(a: Array, b: Array) -> Array:
  """[..., M, 4], [..., P, 4] -> [..., M, P]."""
  return iou(a[..., :, None, :], b[..., None, :, :])


def ciou(a: Array, b: Array) -> Array:
  """Complete IoU in [-1.5, 1]: IoU less the distance of centres and the difference of shapes.

  a and b broadcast: [..., 4], [..., 4] -> [...]. The weight of the shapes passes no gradient on, as
  its authors have it. Source: Zheng et al., arXiv 1911.08287, Eqs. 6 to 11.
  """
  overlap = iou(a, b)
  around = maximum(a[..., 2:], b[..., 2:]) - minimum(a[..., :2], b[..., :2])
  diagonal = jnp.sum(jnp.square(around), -1) + _TINY
  apart = jnp.sum(jnp.square(centre(a) - centre(b)), -1)
  shape = (4 / jnp.pi**2) * jnp.square(_slope(a) - _slope(b))
  weight = jax.lax.stop_gradient(shape / (1.0 - overlap + shape + _TINY))
  return overlap - apart / diagonal - weight * shape


def _slope(boxes: Array) -> Array:
  sides = boxes[..., 2:] - boxes[..., :2]
  return jnp.arctan(sides[..., 0] / maximum(sides[..., 1], _TINY))


def _intersection(a: Array, b: Array) -> Array:
  sides = minimum(a[..., 2:], b[..., 2:]) - maximum(a[..., :2], b[..., :2])
  sides = maximum(sides, 0.0)
  return sides[..., 0] * sides[..., 1]


class Detections(NamedTuple):
  """What is left, the surest first; rows that are not valid hold zeros."""

  boxes: Array  # f32[L, 4] xyxy, pixels
  scores: Array  # f32[L] in [0, 1]
  labels: Array  # i32[L]
  valid: Array  # bool[L]


def suppressed(boxes: Array, labels: Array, valid: Array, *, iou: float) -> Array:
  """bool[C]: which of the candidates are left of greedy suppression.

  A candidate is left out when one of the same class before it, itself not left out, overlaps it by
  more than `iou`. Each round compares all with the survivors of the round before, until one changes
  nothing: as many rounds as the longest chain of overlaps, not C.

  Boxes are f32[C, 4], the surest first; labels i32[C], valid bool[C].
  """
  count = boxes.shape[0]
  before = jnp.arange(count)[:, None] < jnp.arange(count)[None, :]
  rivals = before & (labels[:, None] == labels[None, :]) & (pairwise_iou(boxes, boxes) > iou)
  rivals = rivals.astype(jnp.float32)

  def another_round(carry: tuple[Array, Array]) -> tuple[Array, Array]:
    kept, _ = carry
    now = valid & (kept.astype(jnp.float32) @ rivals == 0)
    return now, jnp.any(now != kept)

  kept, _ = jax.lax.while_loop(lambda c: c[1], another_round, (valid, jnp.array(True)))
  return kept


def detect(
  boxes: Array,
  logits: Array,
  *,
  iou: float = 0.7,
  floor: float = 0.001,
  candidates: int = 1000,
  limit: int = 300,
) -> Detections:
  """Detections of one image. Each position may be one of several classes.

  Args:
    boxes: f32[A, 4].
    logits: f32[A, K].
    iou: overlap above which the less sure of two of one class goes.
    floor: score that a detection must exceed.
    candidates: how many of the surest are looked at; exact where no more exceed `floor`.
    limit: L, how many are returned.
  """
  classes = logits.shape[-1]
  flat = logits.reshape(-1)
  # NaN sorts as the largest: a broken position must not win.
  flat = jnp.where(jnp.isnan(flat), -jnp.inf, flat)
  best, index = jax.lax.top_k(flat, min(candidates, flat.size))
  scores, labels = jax.nn.sigmoid(best), index % classes
  chosen = boxes[index // classes]
  valid = (scores > floor) & jnp.all(jnp.isfinite(chosen), -1)
  kept = suppressed(chosen, labels, valid, iou=iou)
  # Still in order: sorting by (not kept) is stable.
  order = jnp.argsort(~kept, stable=True)[:limit]
  order = jnp.pad(order, (0, limit - order.size), constant_values=0)
  there = kept[order] & (jnp.arange(limit) < kept.size)
  return Detections(
    jnp.where(there[:, None], chosen[order], 0.0),
    jnp.where(there, scores[order], 0.0),
    jnp.where(there, labels[order], 0),
    there,
  )
