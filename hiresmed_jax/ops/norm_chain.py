"""Group normalisation, SiLU and a second group normalisation, as one operation with one gradient.

What lies between two convolutions is bound by memory. Of this chain only its input is read: the
values between the norms are computed from it again wherever they are needed, forwards and
backwards, in float32. On the CPU, where arithmetic costs more, they are kept.

N examples, P positions, C channels.
"""

import functools
from typing import Any

import jax

from hiresmed_jax.ops import norm
from hiresmed_jax.ops.copies import again, copies
from hiresmed_jax.types import Array

Affine = tuple[Array, Array]  # scale and bias of a norm, f32[C] each


def norm_silu_norm(
  x: Array, first: Affine, second: Affine, *, groups: int, eps: float = norm.EPSILON
) -> tuple[Array, Array]:
  """x [N, ..., C] -> (z, y) like x: z = SiLU(GN(x)) by `first`, y = GN(z) by `second`.

  Raises:
    ValueError: C does not divide into `groups`.
  """
  z, y = _chain(groups, eps, norm.flat(x, groups), first, second)
  return z.reshape(x.shape), y.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chain(groups: int, eps: float, x: Array, first: Affine, second: Affine) -> tuple[Array, Array]:
  """[N,P,C] and affines -> [N,P,C] twice."""
  return _forward(groups, eps, x, first, second)[0]


def _forward(groups: int, eps: float, x: Array, first: Affine, second: Affine) -> tuple:
  mean, inverse_deviation = norm.group_statistics(x, x, norm.pilot(x), groups, eps)
  line = norm.line_of(x, mean, inverse_deviation, *first)
  # One for each sum of the second norm, for its output and for z.
  one, two, inner, outer = (norm.normalised(copy, "silu") for copy in copies(4, line))
  pilot = norm.normalised(line._replace(x=norm.pilot(x)[:, None]), "silu")[:, 0]
  mean, inverse_of_second = norm.group_statistics(one, two, pilot, groups, eps)
  behind = norm.line_of(inner, mean, inverse_of_second, *second)
  y, z = norm.normalised(behind, "none").astype(x.dtype), outer.astype(x.dtype)
  saved = (line, behind._replace(x=z))
  return (z, y), (saved, (inverse_deviation, first[0]), (inverse_of_second, second[0]))


def _backward(groups: int, eps: float, residuals: tuple, grads: tuple[Array, Array]) -> tuple:
  del eps
  saved, (inverse_of_first, scale_of_first), (inverse_of_second, scale_of_second) = residuals
  positions = saved[0].x.shape[1]
  one, two, three, four, five = copies(5, (saved, grads))

  def at_second(copy: Any) -> tuple[norm.Line, Array]:
    (line, behind), (_, y_grad) = copy
    z = again(lambda *line: norm.normalised(norm.Line(*line), "silu"), behind.x, *line)
    return behind._replace(x=z), y_grad

  sums = norm.gradient_sums("none", at_second(one), at_second(two))
  slope, shift, *second_grads = norm.coefficients(
    groups, positions, inverse_of_second, scale_of_second, sums
  )

  def at_first(copy: Any) -> tuple[norm.Line, Array]:
    (line, _), (z_grad, _) = copy
    return line, norm.input_gradient("none", *at_second(copy), slope, shift) + z_grad

  sums = norm.gradient_sums("silu", at_first(three), at_first(four))
  slope_first, shift_first, *first_grads = norm.coefficients(
    groups, positions, inverse_of_first, scale_of_first, sums
  )
  x_grad = norm.input_gradient("silu", *at_first(five), slope_first, shift_first)
  return x_grad.astype(saved[0].x.dtype), tuple(first_grads), tuple(second_grads)


_chain.defvjp(_forward, _backward)
