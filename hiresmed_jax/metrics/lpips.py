"""LPIPS: learned perceptual distance (Zhang et al., arXiv 1801.03924, version 0.1).

Per tap: both activations made unit vectors over channels, squared difference, weighted by a
non-negative head, mean over positions; the distance is the sum over taps. 0 for equal images,
about 0.7 for unrelated ones. Which trunk was used belongs beside every number.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array, Params

Distance = Callable[[Params, Array, Array], Array]  # (weights, images, targets) -> f32[N]

EPSILON = 1e-10


def lpips(
  features_fn: Callable[[Array], Sequence[Array]],
  heads: Sequence[Array],
  images_m11: Array,
  targets_m11: Array,
) -> Array:
  """Perceptual distance of images to targets. [N,H,W,C] x2 in [-1, 1] -> f32[N].

  Args:
    features_fn: images [N,H,W,C] -> taps, each [N,h,w,c] of any float dtype (nets/features.py).
    heads: one weight per channel of each tap, f32[c].
    images_m11: the images that are compared; gradients flow to these.
    targets_m11: what they should look like; no gradient flows to these, so that theirs is a
      forward pass alone (the distance is symmetric: swap the two for the other gradient).

  Raises:
    ValueError: the shapes, or the numbers of taps and heads, differ.
  """
  return jnp.sum(tap_distances(features_fn, heads, images_m11, targets_m11), axis=-1)


def tap_distances(
  features_fn: Callable[[Array], Sequence[Array]],
  heads: Sequence[Array],
  images_m11: Array,
  targets_m11: Array,
) -> Array:
  """The summands of `lpips`, one per tap: f32[N,T]. Same arguments."""
  if images_m11.shape != targets_m11.shape:
    raise ValueError(f"images are {images_m11.shape}, targets {targets_m11.shape}")
  # Two passes: in one pass over both, the targets' half would go through the backward pass too
  # (VGG16: a third more operations, half more memory).
  targets = features_fn(jax.lax.stop_gradient(targets_m11))
  images = features_fn(images_m11)
  summands = []
  for a, b, head in zip(images, targets, heads, strict=True):
    difference = _unit(a) - _unit(jax.lax.stop_gradient(b))
    summands.append(jnp.mean(jnp.sum(jnp.square(difference) * head, axis=-1), axis=(1, 2)))
  return jnp.stack(summands, axis=-1)


def in_parts(distance: Distance, *, at_once: int) -> Distance:
  """The same distance, whose gradient needs the memory of `at_once` examples and not of all N.

  Value and gradient of a part are taken together, part by part, in the forward pass; what stays
  for the backward pass is one gradient image per example. Nothing is computed twice. Gradients
  flow to the images only. XLA's CPU convolutions are slow inside such a loop: for accelerators.

  Args:
    distance: (weights, images_m11, targets_m11) -> f32[N], each example by itself.
    at_once: examples of a part, over all devices: a multiple of the devices that the batch is
      split over, so that each of them works on its own examples in every part.

  Raises:
    ValueError: when called on N examples, `at_once` < N and it does not divide N.
  """

  @jax.custom_vjp
  def whole(weights: Params, images_m11: Array, targets_m11: Array) -> Array:
    return distance(weights, images_m11, targets_m11)

  def forward(weights: Params, images_m11: Array, targets_m11: Array) -> tuple[Array, Array]:
    def part(pair: tuple[Array, Array]) -> tuple[Array, Array]:
      images, targets = pair
      value, pullback = jax.vjp(lambda x: distance(weights, x, targets), images)
      return value, pullback(jnp.ones_like(value))[0]

    pairs = (_deal(images_m11, at_once), _deal(targets_m11, at_once))
    values, slopes = jax.lax.map(part, pairs)
    return _gather(values), _gather(slopes)

  def backward(slopes: Array, cotangent: Array) -> tuple[None, Array, None]:
    return None, slopes * cotangent[:, None, None, None].astype(slopes.dtype), None

  whole.defvjp(forward, backward)
  return whole


def _deal(x: Array, at_once: int) -> Array:
  """[N,...] -> [parts, at_once, ...], strided: a batch split over devices stays where it is."""
  at_once = min(at_once, x.shape[0])
  if x.shape[0] % at_once:
    raise ValueError(f"{at_once} examples at once do not divide a batch of {x.shape[0]}")
  return x.reshape(at_once, -1, *x.shape[1:]).swapaxes(0, 1)


def _gather(x: Array) -> Array:
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _unit(features: Array) -> Array:
  """Unit vectors over channels, float32; where all channels are 0 it is 0, and so is its gradient.

  Without the inner `where`, the square root's infinite slope at 0 would make that gradient NaN.
  """
  features = features.astype(jnp.float32)
  squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
  silent = squares == 0
  length = jnp.sqrt(jnp.where(silent, 1.0, squares))
  return jnp.where(silent, 0.0, features / (length + EPSILON))
