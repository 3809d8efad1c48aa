"""Group and batch normalisation, alone or before SiLU, that keep only their input for the way back.

One pass over the tensor for the statistics, one for the application; the backward pass computes the
normalised values again instead of storing them: at full resolution memory is what a network of
these layers is short of. Sums run over the positions of each example first, so that a batch on
several devices, or several cores, is summed where it lies.

N examples, P positions, C channels. Statistics are float32. Reverse-mode derivatives only.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import activation, cpu
from hiresmed_jax.types import Array


def group_count(channels: int, *, limit: int = 32) -> int:
  """Number of groups for `channels`: the largest divisor that is not above `limit`."""
  return max(n for n in range(1, min(limit, channels) + 1) if channels % n == 0)


def group_norm(
  x: Array, scale: Array, bias: Array, *, groups: int, eps: float = 1e-6, silu: bool = False
) -> Array:
  """Normalises each group of channels of each example to mean 0, variance 1; then scale and shift.

  Args:
    x: [N, ..., C], any floating type.
    scale: f32[C].
    bias: f32[C].
    groups: statistics run over all positions and the C / groups channels of each.
    eps: added to the variance.
    silu: whether y * sigmoid(y) of the result is taken (the paper's Eq. 4).

  Returns:
    Like x. Source: Wu and He 2018; the paper's Eq. 9.

  Raises:
    ValueError: C does not divide into `groups`.
  """
  channels = x.shape[-1]
  if channels % groups:
    raise ValueError(f"{channels} channels do not divide into {groups} groups")
  flat = x.reshape(x.shape[0], -1, channels)
  return _group_norm(groups, eps, silu, flat, scale, bias).reshape(x.shape)


def batch_norm(
  x: Array, scale: Array, bias: Array, *, eps: float, silu: bool
) -> tuple[Array, Array, Array]:
  """Normalises each channel over the batch to mean 0, variance 1; then scale and shift.

  Arguments as for `group_norm`.

  Returns:
    (y like x; mean f32[C] and variance f32[C] (over N P values, not N P - 1) of the batch, which
    pass no gradient on). Source: Ioffe and Szegedy 2015, Algorithm 1.
  """
  flat = x.reshape(x.shape[0], -1, x.shape[-1])
  y, mean, variance = _batch_norm(eps, silu, flat, scale, bias)
  return y.reshape(x.shape), mean, variance


def affine(x: Array, gain: Array, shift: Array, *, silu: bool) -> Array:
  """gain * x + shift per channel, and SiLU of it if asked for, in float32; -> the type of x."""
  y = x.astype(jnp.float32) * gain + shift
  return (activation.silu(y) if silu else y).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _group_norm(groups: int, eps: float, silu: bool, x: Array, scale: Array, bias: Array) -> Array:
  """[N,P,C], f32[C], f32[C] -> [N,P,C]."""
  return _group_forward(groups, eps, silu, x, scale, bias)[0]


def _group_forward(
  groups: int, eps: float, silu: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, ...]]:
  mean, inverse_deviation = _group_statistics(x, groups, eps)
  y = _group_affine(x, mean, inverse_deviation, scale, bias)
  out = activation.silu(y) if silu else y
  return out.astype(x.dtype), (x, mean, inverse_deviation, scale, bias)


def _group_backward(
  groups: int, eps: float, silu: bool, residuals: tuple[Array, ...], grad: Array
) -> tuple[Array, Array, Array]:
  # The barrier keeps the compiler from storing the forward pass's values to spare this arithmetic.
  x, mean, inverse_deviation, scale, bias = jax.lax.optimization_barrier(residuals)
  grad = grad.astype(jnp.float32)
  if silu:
    y = _group_affine(x, mean, inverse_deviation, scale, bias)
    grad = activation.silu_gradient(y, grad)
  offset = x.astype(jnp.float32) - mean[:, None]
  grad_sum, grad_offset_sum = sums(grad, grad * offset)

  # d/dx of (x - mean) / deviation: the gradient less its projections on 1 and on x, per group.
  count = x.shape[1] * x.shape[2] // groups
  shift = _group_sum(grad_sum * scale, groups) * inverse_deviation / count
  slope = _group_sum(grad_offset_sum * scale, groups) * inverse_deviation**3 / count
  gain = inverse_deviation * scale
  x_grad = grad * gain[:, None] - offset * slope[:, None] - shift[:, None]
  scale_grad = jnp.sum(grad_offset_sum * inverse_deviation, 0)
  return x_grad.astype(x.dtype), scale_grad, jnp.sum(grad_sum, 0)


_group_norm.defvjp(_group_forward, _group_backward)


def _group_statistics(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
  """[N,P,C] -> the group's mean and 1 / deviation, for every channel: f32[N,C] each."""
  # The plain E[x^2] - E[x]^2 cancels when a channel sits far from zero. Squares of the distance to
  # one value of the channel itself take the same single pass and are safe.
  pilot = x[:, x.shape[1] // 2].astype(jnp.float32)
  x = x.astype(jnp.float32)
  both = sums(x, jnp.square(x - pilot[:, None]))
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


def _group_affine(
  x: Array, mean: Array, inverse_deviation: Array, scale: Array, bias: Array
) -> Array:
  """Normalised, scaled and shifted, in float32: one multiply-add per value."""
  gain = inverse_deviation * scale
  return x.astype(jnp.float32) * gain[:, None] + (bias - mean * gain)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_norm(
  eps: float, silu: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, Array, Array]:
  """[N,P,C], f32[C], f32[C] -> ([N,P,C], f32[C], f32[C])."""
  return _batch_forward(eps, silu, x, scale, bias)[0]


def _batch_forward(
  eps: float, silu: bool, x: Array, scale: Array, bias: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
  mean, variance = _batch_statistics(x)
  inverse_deviation = jax.lax.rsqrt(variance + eps)
  gain = inverse_deviation * scale
  y = affine(x, gain, bias - mean * gain, silu=silu)
  return (y, mean, variance), (x, mean, inverse_deviation, scale, bias)


def _batch_backward(
  eps: float, silu: bool, residuals: tuple[Array, ...], grads: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
  del eps
  # As for groups, the barrier keeps the compiler from storing values of the forward pass.
  x, mean, inverse_deviation, scale, bias = jax.lax.optimization_barrier(residuals)
  grad = grads[0].astype(jnp.float32)
  gain = inverse_deviation * scale
  offset = x.astype(jnp.float32) - mean
  if silu:
    grad = activation.silu_gradient(offset * gain + bias, grad)
  grad_sum, offset_sum = (jnp.sum(s, 0) for s in sums(grad, grad * offset))
  scale_grad = offset_sum * inverse_deviation
  # d/dx of (x - mean) / deviation: the gradient less its projections on 1 and on x.
  count = x.shape[0] * x.shape[1]
  slope = inverse_deviation * scale_grad / count
  x_grad = gain * (grad - grad_sum / count - offset * slope)
  return x_grad.astype(x.dtype), scale_grad, grad_sum


_batch_norm.defvjp(_batch_forward, _batch_backward)


def _batch_statistics(x: Array) -> tuple[Array, Array]:
  """[N,P,C] -> mean and variance of each channel, f32[C]."""
  # Squares of the distance to one value of the channel: see `_group_statistics`.
  pilot = jax.lax.stop_gradient(x[0, x.shape[1] // 2]).astype(jnp.float32)
  offset = x.astype(jnp.float32) - pilot
  count = x.shape[0] * x.shape[1]
  both = sums(offset, jnp.square(offset))
  mean, mean_square = (jnp.sum(s, 0) / count for s in both)
  return mean + pilot, jnp.maximum(mean_square - jnp.square(mean), 0.0)


@jax.custom_vjp
def sums(*values: Array) -> tuple[Array, ...]:
  """f32[N, P, C] each, at least two of one shape -> sums over positions f32[N, C] each.

  Derivatives of any order. On the CPU they take a way of their own: ops/cpu.py.
  """
  return jax.lax.platform_dependent(*values, cpu=cpu.sums, default=plain_sums)


def plain_sums(*values: Array) -> tuple[Array, ...]:
  """What `sums` is where no compiler needs another way."""
  return tuple(jnp.sum(value, 1) for value in values)


def _sums_backward(shape: tuple[int, int, int], grads: tuple[Array, ...]) -> tuple[Array, ...]:
  return tuple(jnp.broadcast_to(grad[:, None], shape) for grad in grads)


sums.defvjp(lambda *values: (sums(*values), values[0].shape), _sums_backward)
