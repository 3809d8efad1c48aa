"""Group normalisation whose statistics take one pass and whose application is one multiply-add."""

import math

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array


def group_count(channels: int, *, limit: int = 32) -> int:
  """Number of groups for `channels`: the largest divisor that is not above `limit`."""
  return max(n for n in range(1, min(limit, channels) + 1) if channels % n == 0)


def group_norm(x: Array, scale: Array, bias: Array, *, groups: int, eps: float = 1e-6) -> Array:
  """Normalise each group of channels of each example to mean 0, variance 1; then scale and shift.

  x: [N, ..., C], any float dtype; scale, bias: f32[C]. Returns x's shape and dtype. Statistics are
  float32 over all positions and the C / groups channels of a group (Wu and He 2018; the paper's
  Eq. 9). Raises ValueError when C does not divide into `groups`.
  """
  n, channels = x.shape[0], x.shape[-1]
  if channels % groups:
    raise ValueError(f"{channels} channels do not divide into {groups} groups")
  spatial = tuple(range(1, x.ndim - 1))
  x32 = x.astype(jnp.float32)
  # The plain E[x^2] - E[x]^2 cancels when a channel sits far from zero. Measuring from one pixel of
  # the channel itself keeps the single pass and is safe; the result does not depend on that pixel,
  # so no gradient flows through it.
  centre = tuple(slice(s // 2, s // 2 + 1) for s in x.shape[1:-1])
  pilot = jax.lax.stop_gradient(x32[(slice(None), *centre)])
  offset = x32 - pilot
  size = math.prod(x.shape[1:-1])
  mean = jnp.sum(offset, spatial) / size
  mean_square = jnp.sum(offset * offset, spatial) / size
  variance = mean_square - mean * mean
  channel_mean = (mean + pilot.reshape(n, channels)).reshape(n, groups, -1)
  group_mean = jnp.mean(channel_mean, -1, keepdims=True)
  between = jnp.mean(jnp.square(channel_mean - group_mean), -1, keepdims=True)
  group_variance = jnp.mean(variance.reshape(n, groups, -1), -1, keepdims=True) + between
  gain = jax.lax.rsqrt(jnp.maximum(group_variance, 0.0) + eps) * scale.reshape(groups, -1)
  shift = bias.reshape(groups, -1) - group_mean * gain
  shape = (n, *(1 for _ in spatial), channels)
  return (x32 * gain.reshape(shape) + shift.reshape(shape)).astype(x.dtype)
