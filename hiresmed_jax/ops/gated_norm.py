"""A gate on channels, group normalisation and SiLU, as one operation with one gradient.

The product of input and gate is nowhere stored for the norm: its statistics follow from those of
the input, and so does the gradient of the gate from the sums of the norm's gradient.

N examples, P positions, C channels.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import norm
from hiresmed_jax.ops.copies import copies
from hiresmed_jax.types import Array


def gated_norm_beside(
  x: Array, gate: Array, scale: Array, bias: Array, *, groups: int, eps: float = norm.EPSILON
) -> tuple[Array, Array]:
  """x [N, ..., C], gate f32[N, C] -> (SiLU(GN(x * gate)), x * gate) like x.

  Raises:
    ValueError: C does not divide into `groups`.
  """
  y, gated = _gated_norm(groups, eps, norm.flat(x, groups), gate, scale, bias)
  return y.reshape(x.shape), gated.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gated_norm(
  groups: int, eps: float, x: Array, gate: Array, scale: Array, bias: Array
) -> tuple[Array, Array]:
  """[N,P,C], f32[N,C], f32[C], f32[C] -> [N,P,C] twice."""
  return _forward(groups, eps, x, gate, scale, bias)[0]


def _forward(groups: int, eps: float, x: Array, gate: Array, scale: Array, bias: Array) -> tuple:
  moments = norm.moments(x, x, norm.pilot(x))
  mean, variance = moments
  statistics = norm.of_groups(gate * mean, jnp.square(gate) * variance, groups, eps)
  line = norm.line_of(x, *statistics, scale, bias)
  seen = _gated(line, gate)
  y = norm.normalised(seen, "silu")
  saved = ((line, gate), moments, statistics[1], scale)
  return (y.astype(x.dtype), seen.x.astype(x.dtype)), saved


def _gated(line: norm.Line, gate: Array) -> norm.Line:
  """What the norm sees."""
  return line._replace(x=line.x.astype(jnp.float32) * gate[:, None])


def _backward(groups: int, eps: float, saved: tuple, grads: tuple[Array, Array]) -> tuple:
  del eps
  seen, (mean, variance), inverse_deviation, scale = saved
  (line, gate), count = seen, seen[0].x.shape[1]
  one, two, last = copies(3, (seen, grads))

  def at_norm(copy: Any) -> tuple[Array, Array]:
    """The gradient at the norm, and x less the mean of its channel."""
    seen, (y_grad, _) = copy
    grad, _ = norm.gradient_at_norm("silu", _gated(*seen), y_grad)
    return grad, seen[0].x.astype(jnp.float32) - mean[:, None]

  grad, offset = at_norm(two)
  found = norm.sums(at_norm(one)[0], grad * offset)
  # By itself: of three values in one reduction a GPU's compiler would store each.
  beside = jnp.sum(one[1][1].astype(jnp.float32) * one[0][0].x.astype(jnp.float32), 1)
  (grad_sum, product_sum), beside_sum = jax.lax.optimization_barrier((found, beside))
  both = (grad_sum, gate * product_sum + (gate * mean - line.mean) * grad_sum)
  slope, shift, scale_grad, bias_grad = norm.coefficients(
    groups, count, inverse_deviation, scale, both
  )

  # The gradient of x * gate, times x, summed: its terms one by one.
  of_offset = count * (gate * (variance + jnp.square(mean)) - line.mean * mean)
  gate_grad = line.gain * (product_sum + mean * grad_sum) + beside_sum
  gate_grad -= slope * of_offset + shift * count * mean

  (line, gate), (y_grad, beside_grad) = last
  gated_grad = norm.input_gradient("silu", _gated(line, gate), y_grad, slope, shift) + beside_grad
  return (gated_grad * gate[:, None]).astype(line.x.dtype), gate_grad, scale_grad, bias_grad


_gated_norm.defvjp(_forward, _backward)
