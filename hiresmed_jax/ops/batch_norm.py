"""Batch normalisation, alone or before SiLU, that keeps only its input for the way back.

N examples, P positions, C channels. Statistics are float32. Reverse-mode derivatives only.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import activation
from hiresmed_jax.ops.norm import sums
from hiresmed_jax.types import Array


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
