"""Group normalisation, alone or before an activation, that keeps only its input for the way back.

One pass over the tensor for the statistics, one for the application; the backward pass computes the
normalised values again instead of storing them: at full resolution memory is what a network of
these layers is short of. Sums run over the positions of each example first, so that a batch on
several devices, or several cores, is summed where it lies.

N examples, P positions, C channels. Statistics are float32. Reverse-mode derivatives only.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import activation, cpu
from hiresmed_jax.ops.activation import Act
from hiresmed_jax.ops.copies import copies
from hiresmed_jax.types import Array

EPSILON = 1e-6


class Line(NamedTuple):
  """A normalisation whose statistics are known: y = gain * x + shift."""

  x: Array  # [N,P,C]
  mean: Array  # of the group of each channel, f32[N,C]
  gain: Array  # f32[N,C]
  shift: Array  # f32[N,C]


def group_count(channels: int, *, limit: int = 32) -> int:
  """Number of groups for `channels`: the largest divisor that is not above `limit`."""
  return max(n for n in range(1, min(limit, channels) + 1) if channels % n == 0)


def group_norm(
  x: Array, scale: Array, bias: Array, *, groups: int, eps: float = EPSILON, act: Act = "none"
) -> Array:
  """Normalises each group of channels of each example to mean 0, variance 1; then scale and shift.

  Args:
    x: [N, ..., C], any floating type.
    scale: f32[C], or f32[N,C] where each example has its own.
    bias: of the shape of `scale`.
    groups: statistics run over all positions and the C / groups channels of each.
    eps: added to the variance.
    act: what is taken of the result; the paper's Eq. 4 has "silu".

  Returns:
    Like x. Source: Wu and He 2018; the paper's Eq. 9.

  Raises:
    ValueError: C does not divide into `groups`.
  """
  return _group_norm(groups, eps, act, False, flat(x, groups), scale, bias)[0].reshape(x.shape)


def group_norm_beside(
  x: Array, scale: Array, bias: Array, *, groups: int, eps: float = EPSILON, act: Act = "none"
) -> tuple[Array, Array]:
  """(`group_norm`, x): a branch and what it is added to.

  The gradients of both are added where that of the norm is written, and not in a pass of their own.
  """
  y, beside = _group_norm(groups, eps, act, True, flat(x, groups), scale, bias)
  return y.reshape(x.shape), beside.reshape(x.shape)


def flat(x: Array, groups: int) -> Array:
  """[N,...,C] -> [N,P,C]; ValueError where C does not divide into `groups`."""
  if x.shape[-1] % groups:
    raise ValueError(f"{x.shape[-1]} channels do not divide into {groups} groups")
  return x.reshape(x.shape[0], -1, x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _group_norm(
  groups: int, eps: float, act: Act, beside: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, ...]:
  """[N,P,C], scale and bias -> ([N,P,C],), and x if `beside`."""
  return _group_forward(groups, eps, act, beside, x, scale, bias)[0]


def _group_forward(
  groups: int, eps: float, act: Act, beside: bool, x: Array, scale: Array, bias: Array
) -> tuple[tuple[Array, ...], tuple[Line, Array, Array]]:
  mean, inverse_deviation = group_statistics(x, x, pilot(x), groups, eps)
  line = line_of(x, mean, inverse_deviation, scale, bias)
  y = normalised(line, act).astype(x.dtype)
  return ((y, x) if beside else (y,)), (line, inverse_deviation, scale)


def _group_backward(
  groups: int, eps: float, act: Act, beside: bool, saved: Any, grads: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
  del eps, beside
  line, inverse_deviation, scale = saved
  # The barriers also keep the compiler from storing the forward pass's values for this one.
  first, second, last = copies(3, (line, grads))
  found = gradient_sums(act, (first[0], first[1][0]), (second[0], second[1][0]))
  slope, shift, scale_grad, bias_grad = coefficients(
    groups, line.x.shape[1], inverse_deviation, scale, found
  )
  line, (grad, *skipped) = last
  x_grad = sum(skipped, input_gradient(act, line, grad, slope, shift))
  return x_grad.astype(line.x.dtype), scale_grad, bias_grad


_group_norm.defvjp(_group_forward, _group_backward)


def line_of(x: Array, mean: Array, inverse_deviation: Array, scale: Array, bias: Array) -> Line:
  """From x [N,P,C], statistics f32[N,C], scale and bias f32[C] or f32[N,C]."""
  gain = inverse_deviation * scale
  return Line(x, mean, gain, bias - mean * gain)


def normalised(line: Line, act: Act) -> Array:
  """By one multiply-add a value, and the activation of it: f32[N,P,C]."""
  y = line.x.astype(jnp.float32) * line.gain[:, None] + line.shift[:, None]
  return activation.apply(act, y)


def gradient_at_norm(act: Act, line: Line, grad: Array) -> tuple[Array, Array]:
  """Gradient with respect to the normalised and scaled values, and x less its mean: f32[N,P,C]."""
  grad = grad.astype(jnp.float32)
  if act != "none":
    grad = activation.gradient(act, normalised(line, "none"), grad)
  return grad, line.x.astype(jnp.float32) - line.mean[:, None]


def gradient_sums(
  act: Act, first: tuple[Line, Array], second: tuple[Line, Array]
) -> tuple[Array, Array]:
  """Sums over positions of the gradient and of its product with x less its mean, f32[N,C] each.

  `first` and `second` are copies of (line, gradient of the output), one for each sum.
  """
  grad, _ = gradient_at_norm(act, *first)
  again, offset = gradient_at_norm(act, *second)
  # Sums over examples follow: without a barrier, a GPU's compiler passes over the tensor for them.
  return jax.lax.optimization_barrier(sums(grad, again * offset))


def coefficients(
  groups: int,
  positions: int,
  inverse_deviation: Array,
  scale: Array,
  sums_of_grad: tuple[Array, Array],
) -> tuple[Array, Array, Array, Array]:
  """d/dx of (x - mean) / deviation: the gradient less its projections on 1 and on x, per group.

  Returns:
    (slope f32[N,C], which multiplies x - mean; shift f32[N,C]; gradients of scale and bias).
  """
  grad_sum, grad_offset_sum = sums_of_grad
  count = positions * scale.shape[-1] // groups
  shift = _group_sum(grad_sum * scale, groups) * inverse_deviation / count
  slope = _group_sum(grad_offset_sum * scale, groups) * inverse_deviation**3 / count
  both = jnp.stack((grad_offset_sum * inverse_deviation, grad_sum))
  if scale.ndim == 1:
    # One sum for both; of two in one reduction the examples would be gathered from all devices.
    both = jnp.sum(both, 1)
  scale_grad, bias_grad = both
  return slope, shift, scale_grad, bias_grad


def input_gradient(act: Act, line: Line, grad: Array, slope: Array, shift: Array) -> Array:
  """f32[N,P,C], from the gradient of the output and `coefficients`."""
  grad, offset = gradient_at_norm(act, line, grad)
  return grad * line.gain[:, None] - offset * slope[:, None] - shift[:, None]


def group_statistics(
  x: Array, again: Array, pilot: Array, groups: int, eps: float
) -> tuple[Array, Array]:
  """[N,P,C] -> the group's mean and 1 / deviation, for every channel: f32[N,C] each.

  Arguments as for `moments`.
  """
  return of_groups(*moments(x, again, pilot), groups, eps)


def moments(x: Array, again: Array, pilot: Array) -> tuple[Array, Array]:
  """[N,P,C] -> mean and variance of each channel, f32[N,C] each.

  `again` is x, or a copy of it: one for each of two sums. `pilot` [N,C] is a value of each channel.
  """
  # The plain E[x^2] - E[x]^2 cancels when a channel sits far from zero. Squares of the distance to
  # one value of the channel itself take the same single pass and are safe.
  pilot = pilot.astype(jnp.float32)
  both = sums(x.astype(jnp.float32), jnp.square(again.astype(jnp.float32) - pilot[:, None]))
  mean, mean_square = (total / x.shape[1] for total in both)
  return mean, mean_square - jnp.square(mean - pilot)


def of_groups(mean: Array, variance: Array, groups: int, eps: float) -> tuple[Array, Array]:
  """Moments of channels -> mean and 1 / deviation of their groups, for every channel: f32[N,C]."""
  group_mean = _group_sum(mean, groups) * (groups / mean.shape[1])
  # Variance within the channels and between their means.
  spread = variance + jnp.square(mean - group_mean)
  group_variance = _group_sum(spread, groups) * (groups / mean.shape[1])
  return group_mean, jax.lax.rsqrt(jnp.maximum(group_variance, 0.0) + eps)


def pilot(x: Array) -> Array:
  """A value of each channel: [N,P,C] -> [N,C]."""
  return x[:, x.shape[1] // 2]


def _group_sum(x: Array, groups: int) -> Array:
  """[N,C] -> [N,C]: every channel gets the sum over its group."""
  grouped = x.reshape(x.shape[0], groups, -1)
  return jnp.broadcast_to(jnp.sum(grouped, -1, keepdims=True), grouped.shape).reshape(x.shape)


@jax.custom_vjp
def sums(*values: Array) -> tuple[Array, ...]:
  """f32[N, P, C] each, at least two of one shape -> sums over positions f32[N, C] each.

  Derivatives of any order. On the CPU they take a way of their own: ops/cpu.py.
  """
  return jax.lax.platform_dependent(*values, cpu=cpu.sums, default=one_reduction)


def plain_sums(*values: Array) -> tuple[Array, ...]:
  """What `sums` would be if no compiler needed another way."""
  return tuple(jnp.sum(value, 1) for value in values)


def one_reduction(*values: Array) -> tuple[Array, ...]:
  """What `sums` is on accelerators: one pass over what the values are made of.

  In two steps, as a GPU's compiler splits long sums; of short ones it would store the values first.
  """
  n, length, channels = values[0].shape
  rows = max(r for r in range(1, math.isqrt(length) + 1) if length % r == 0)
  parts = cpu.together(tuple(v.reshape(n, rows, -1, channels) for v in values), 2)
  return cpu.together(parts, 1)


def _sums_backward(shape: tuple[int, int, int], grads: tuple[Array, ...]) -> tuple[Array, ...]:
  return tuple(jnp.broadcast_to(grad[:, None], shape) for grad in grads)


sums.defvjp(lambda *values: (sums(*values), values[0].shape), _sums_backward)
