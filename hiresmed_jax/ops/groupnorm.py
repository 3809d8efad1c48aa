"""Group normalisation, alone or before SiLU, that keeps only its input for the way back.

The statistics take one pass over the tensor, the application is one multiply-add per value, and
the backward pass computes the normalised values again instead of storing them: at full resolution
memory is what a network of these layers is short of.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import activation, sums
from hiresmed_jax.types import Array


def group_count(channels: int, *, limit: int = 32) -> int:
  """Number of groups for `channels`: the largest divisor that is not above `limit`."""
  return max(n for n in range(1, min(limit, channels) + 1) if channels % n == 0)


def group_norm(
  x: Array, scale: Array, bias: Array, *, groups: int, eps: float = 1e-6, silu: bool = False
) -> Array:
  """Normalise each group of channels of each example to mean 0, variance 1; then scale and shift.

  x: [N,...,C], any float dtype; scale, bias: f32[C]. Returns x's shape and dtype. Statistics are
  float32 over all positions and the C / groups channels of a group (Wu and He 2018; the paper's
  Eq. 9). `silu` applies y * sigmoid(y) to the result (Eq. 4). Reverse-mode derivatives only.
  Raises ValueError when C does not divide into `groups`.
  """
  channels = x.shape[-1]
  if channels % groups:
    raise ValueError(f"{channels} channels do not divide into {groups} groups")
  flat = x.reshape(x.shape[0], -1, channels)
  return _group_norm(groups, eps, silu, flat, scale, bias).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _group_norm(groups: int, eps: float, silu: bool, x: Array, scale: Array, bias: Array) -> Array:
  """[N,P,C], f32[C], f32[C] -> [N,P,C]."""
  return _forward(groups, eps, silu, x, scale, bias)[0]


def _forward(
  groups: int, eps: float, silu: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, ...]]:
  mean, inverse_deviation = _statistics(x, groups, eps)
  y = _affine(x, mean, inverse_deviation, scale, bias)
  out = activation.silu(y) if silu else y
  return out.astype(x.dtype), (x, mean, inverse_deviation, scale, bias)


def _backward(
  groups: int, eps: float, silu: bool, residuals: tuple[Array, ...], grad: Array
) -> tuple[Array, Array, Array]:
  # The barrier keeps the compiler from storing the forward pass's values to spare this arithmetic.
  x, mean, inverse_deviation, scale, bias = jax.lax.optimization_barrier(residuals)
  grad = grad.astype(jnp.float32)
  if silu:
    grad = activation.silu_gradient(_affine(x, mean, inverse_deviation, scale, bias), grad)
  offset = x.astype(jnp.float32) - mean[:, None]
  grad_sum, grad_offset_sum = sums.over_positions(grad, grad * offset)

  # d/dx of (x - mean) / deviation: the gradient less its projections on 1 and on x, per group.
  count = x.shape[1] * x.shape[2] // groups
  shift = _group_sum(grad_sum * scale, groups) * inverse_deviation / count
  slope = _group_sum(grad_offset_sum * scale, groups) * inverse_deviation**3 / count
  gain = inverse_deviation * scale
  x_grad = grad * gain[:, None] - offset * slope[:, None] - shift[:, None]
  scale_grad = jnp.sum(grad_offset_sum * inverse_deviation, 0)
  return x_grad.astype(x.dtype), scale_grad, jnp.sum(grad_sum, 0)


_group_norm.defvjp(_forward, _backward)


def _statistics(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
  """[N,P,C] -> the group's mean and 1 / deviation, for every channel: f32[N,C] each."""
  # The plain E[x^2] - E[x]^2 cancels when a channel sits far from zero. Squares of the distance to
  # one value of the channel itself take the same single pass and are safe.
  pilot = x[:, x.shape[1] // 2].astype(jnp.float32)
  x = x.astype(jnp.float32)
  both = sums.over_positions(x, jnp.square(x - pilot[:, None]))
  mean, mean_square = (total / x.shape[1] for total in both)
  variance = mean_square - jnp.square(mean - pilot)
  group_mean = _group_sum(mean, groups) * (groups / x.shape[2])
  # Variance within the channels and between their means.
  spread = variance + jnp.square(mean - group_mean)
  group_variance = _group_sum(spread, groups) * (groups / x.shape[2])
  return group_mean, jax.lax.rsqrt(jnp.maximum(group_variance, 0.0) + eps)


def _group_sum(x: Array, groups: int) -> Array:
  """[N,C] -> [N,C]: every channel gets the sum over its group."""
  grouped = x.reshape(x.shape[0], groups, -1)
  return jnp.broadcast_to(jnp.sum(grouped, -1, keepdims=True), grouped.shape).reshape(x.shape)


def _affine(x: Array, mean: Array, inverse_deviation: Array, scale: Array, bias: Array) -> Array:
  """Normalised, scaled and shifted, in float32: one multiply-add per value."""
  gain = inverse_deviation * scale
  return x.astype(jnp.float32) * gain[:, None] + (bias - mean * gain)[:, None]
