"""Boxes: half-open xyxy in float pixels, pixel i covering [i, i + 1). Last axis 4, any axes before.

A box without area, or with its corners the wrong way round, has area 0 and overlaps nothing.
"""

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

_TINY = 1e-7


def area(boxes: Array) -> Array:
  """[..., 4] -> [...], square pixels."""
  sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
  return sides[..., 0] * sides[..., 1]


def centre(boxes: Array) -> Array:
  """[..., 4] -> [..., 2], (x, y)."""
  return (boxes[..., :2] + boxes[..., 2:]) / 2


def at_least(boxes: Array, side: float) -> Array:
  """Boxes grown about their centre until no side is shorter than `side` pixels."""
  half = jnp.maximum(boxes[..., 2:] - boxes[..., :2], side) / 2
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
  return shared / jnp.maximum(area(a) + area(b) - shared, _TINY)


def pairwise_iou(a: Array, b: Array) -> Array:
  """[..., M, 4], [..., P, 4] -> [..., M, P]."""
  return iou(a[..., :, None, :], b[..., None, :, :])


def ciou(a: Array, b: Array) -> Array:
  """Complete IoU in [-1.5, 1]: IoU less the distance of centres and the difference of shapes.

  a and b broadcast: [..., 4], [..., 4] -> [...]. The weight of the shapes passes no gradient on, as
  its authors have it. Source: Zheng et al., arXiv 1911.08287, Eqs. 6 to 11.
  """
  overlap = iou(a, b)
  around = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
  diagonal = jnp.sum(jnp.square(around), -1) + _TINY
  apart = jnp.sum(jnp.square(centre(a) - centre(b)), -1)
  shape = (4 / jnp.pi**2) * jnp.square(_slope(a) - _slope(b))
  weight = jax.lax.stop_gradient(shape / (1.0 - overlap + shape + _TINY))
  return overlap - apart / diagonal - weight * shape


def _slope(boxes: Array) -> Array:
  sides = boxes[..., 2:] - boxes[..., :2]
  return jnp.arctan(sides[..., 0] / jnp.maximum(sides[..., 1], _TINY))


def _intersection(a: Array, b: Array) -> Array:
  sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
  sides = jnp.maximum(sides, 0.0)
  return sides[..., 0] * sides[..., 1]
