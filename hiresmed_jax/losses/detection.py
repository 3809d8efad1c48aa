"""The loss of an anchor-free detector: which position answers for which box, and how well.

N images, A positions, M boxes at most in an image (the others are padding), K classes, B bins of a
distance. Boxes are xyxy in pixels. Everything has a fixed shape.

Source: Feng et al., arXiv 2108.07755 (task-aligned assignment); Li et al., arXiv 2006.04388
(distances as distributions); Zheng et al., arXiv 1911.08287 (complete IoU).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import boxes as box_ops
from hiresmed_jax.ops.pool import maximum
from hiresmed_jax.types import Array

_TINY = 1e-9


class Truth(NamedTuple):
  """The real boxes of the images."""

  boxes: Array  # f32[N, M, 4]
  labels: Array  # i32[N, M]
  valid: Array  # bool[N, M]


class Assignment(NamedTuple):
  """What each position should predict; no gradient passes."""

  box: Array  # i32[N, A] which of the M, 0 where none
  positive: Array  # bool[N, A]
  scores: Array  # f32[N, A, K] in [0, 1], how sure it should be


def assign(
  logits: Array,
  boxes: Array,
  centres: Array,
  truth: Truth,
  *,
  top: int = 10,
  alpha: float = 0.5,
  beta: float = 6.0,
  least_side: float = 16.0,
) -> Assignment:
  """Gives each real box the `top` positions that are best in class and place together.

  Goodness is score^alpha * CIoU^beta, among the positions whose centre lies in the box. A position
  that several boxes want goes to the one that it overlaps most. How sure it should be follows its
  goodness, scaled so that the best position of a box has the box's largest overlap.

  Args:
    logits: f32[N, A, K].
    boxes: f32[N, A, 4], as predicted.
    centres: f32[A, 2] of the positions, pixels.
    truth: the real boxes.
    top: positions of a box.
    alpha: weight of the class.
    beta: weight of the place.
    least_side: px; a smaller box counts as so large when positions are sought, since one of some
      10 px holds the centre of one position of stride 8, or none. 0 leaves boxes as they are.
  """
  positions, classes = logits.shape[1:]

  def one(logits: Array, boxes: Array, real: Array, labels: Array, valid: Array) -> Assignment:
    """Of one image."""
    real = jnp.where(valid[:, None], real, 0.0)
    grown = box_ops.at_least(real, least_side) if least_side else real
    candidate = box_ops.contain(grown, centres) & valid[:, None]  # [M, A]
    overlap = jnp.maximum(box_ops.ciou(real[:, None], boxes[None]), 0.0) * candidate
    score = jax.nn.sigmoid(logits).T[labels] * candidate  # [M, A]
    goodness = score**alpha * overlap**beta

    _, best = jax.lax.top_k(goodness, min(top, positions))
    wanted = jnp.any(best[:, :, None] == jnp.arange(positions), 1) & candidate
    # Where several want a position, the box that it overlaps most has it.
    closest = jax.nn.one_hot(jnp.argmax(overlap, 0), overlap.shape[0], axis=0, dtype=bool)
    wanted = jnp.where(jnp.sum(wanted, 0) > 1, closest, wanted)

    index = jnp.argmax(wanted, 0).astype(jnp.int32)
    positive = jnp.any(wanted, 0)
    goodness, overlap = goodness * wanted, overlap * wanted
    best_goodness = jnp.max(goodness, 1, keepdims=True)
    best_overlap = jnp.max(overlap, 1, keepdims=True)
    sure = jnp.max(goodness * best_overlap / (best_goodness + _TINY), 0)
    right = jax.nn.one_hot(labels[index], classes)
    return Assignment(index, positive, right * jnp.where(positive, sure, 0.0)[:, None])

  return jax.vmap(one)(*jax.lax.stop_gradient((logits, boxes)), *truth)


class Gains(NamedTuple):
  """Weights of the three parts."""

  box: float = 7.5
  classes: float = 0.5
  bins: float = 1.5


PUBLISHED = Gains()


def detection_loss(
  bins: Array,
  logits: Array,
  boxes: Array,
  centres: Array,
  strides: Array,
  truth: Truth,
  assignment: Assignment,
  *,
  gains: Gains = PUBLISHED,
) -> dict[str, Array]:
  """The parts of the loss, each a scalar with its gain, whose sum is to be minimised.

  Each is divided by how sure the positions should be in all, over the whole batch: a batch without
  boxes teaches classes alone.

  Args:
    bins: f32[N, A, 4, B] logits of the distances left, up, right, down, in strides.
    logits: f32[N, A, K].
    boxes: f32[N, A, 4], decoded from `bins`.
    centres: f32[A, 2] of the positions.
    strides: f32[A].
    truth: the real boxes.
    assignment: of `assign`.
    gains: weights.

  Returns:
    {"box": 1 - CIoU, "bins": cross entropy of the two bins beside the distance, "classes": binary
    cross entropy}.
  """
  weight = jnp.sum(assignment.scores, -1)  # [N, A]
  total = jnp.maximum(jnp.sum(weight), 1.0)
  target = jnp.take_along_axis(truth.boxes, assignment.box[..., None], 1)
  # Where there is no box, a copy of the position's own: gradients of what counts for nothing must
  # be finite all the same.
  target = jnp.where(assignment.positive[..., None], target, jax.lax.stop_gradient(boxes))
  apart = 1.0 - box_ops.ciou(boxes, target)
  shared = _binary_cross_entropy(logits, assignment.scores)
  distances = jnp.concatenate([centres - target[..., :2], target[..., 2:] - centres], -1)
  spread = jnp.mean(_bins_cross_entropy(bins, distances / strides[:, None]), -1)
  return {
    "box": gains.box * jnp.sum(apart * weight) / total,
    "bins": gains.bins * jnp.sum(spread * weight) / total,
    "classes": gains.classes * jnp.sum(shared) / total,
  }


def _bins_cross_entropy(bins: Array, distances: Array) -> Array:
  """[..., B], [...] -> [...]: the mean of both neighbours of a distance, the nearer counting more.

  A distance beyond the last bin is cut to just below it.
  """
  distances = jnp.clip(distances, 0.0, bins.shape[-1] - 1 - 0.01)
  low = jnp.floor(distances)
  share = distances - low  # of the farther bin
  log_share = jax.nn.log_softmax(bins, -1)
  steps = jnp.arange(bins.shape[-1])
  wanted = (steps == low[..., None]) * (1.0 - share[..., None])
  wanted += (steps == low[..., None] + 1.0) * share[..., None]
  return -jnp.sum(wanted * log_share, -1)


def _binary_cross_entropy(logits: Array, target: Array) -> Array:
  """As `optax.sigmoid_binary_cross_entropy` but for the last bit, so that older runs repeat."""
  return maximum(logits, 0.0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
