"""2-D convolution with a bias, whose gradients of kernel and bias are summed in float32.

On the CPU, large inputs have gradients of their own: ops/cpu.py.

N images, H rows, W columns, I input and O output channels, kh x kw kernel.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import cpu
from hiresmed_jax.types import Array

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
UNPADDED = ((0, 0), (0, 0))


def conv(
  x: Array,
  kernel: Array,
  bias: Array | None = None,
  *,
  stride: Pair = (1, 1),
  padding: Padding = UNPADDED,
) -> Array:
  """2-D convolution (cross-correlation, as networks use it), plus a bias.

  Args:
    x: [N, H, W, I], any floating type.
    kernel: [kh, kw, I, O] of the same type.
    bias: [O], or [N, O] where each example has its own, added in the type of `x`.
    stride: of rows and columns.
    padding: zeros (before, after) the rows and the columns.

  Returns:
    [N, h, w, O] in the type of `x`. Reverse-mode derivatives only.

  Raises:
    ValueError: shapes do not fit.
  """
  if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
    raise ValueError(f"x [N, H, W, I] and kernel [kh, kw, I, O] wanted: {x.shape}, {kernel.shape}")
  if bias is None:
    bias = jnp.zeros(kernel.shape[-1], x.dtype)
  plain = bias.ndim == 1 and stride == (1, 1) and padding == UNPADDED
  if plain and kernel.shape[:2] == (1, 1):
    return _pointwise(x, kernel, bias)
  return _conv(stride, padding, x, kernel, bias)


@jax.custom_vjp
def _pointwise(x: Array, kernel: Array, bias: Array) -> Array:
  """A 1x1 convolution is a matrix product."""
  flat = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
  return flat.reshape(*x.shape[:3], -1) + bias.astype(x.dtype)


def _pointwise_backward(
  saved: tuple[Array, Array, Array], grad: Array
) -> tuple[Array, Array, Array]:
  x, kernel, bias = saved
  flat, flat_grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
  x_grad = (flat_grad @ kernel[0, 0].T).reshape(x.shape)
  # Derived from the product, it would be of the transposed gradient, which the CPU then writes out.
  kernel_grad = jax.lax.dot_general(
    flat, flat_grad, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )
  bias_grad = jax.lax.platform_dependent(flat_grad, cpu=cpu.sum_of_rows, default=sum_over_pixels)
  return x_grad, kernel_grad[None, None].astype(kernel.dtype), bias_grad.astype(bias.dtype)


_pointwise.defvjp(lambda *given: (_pointwise(*given), given), _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(stride: Pair, padding: Padding, x: Array, kernel: Array, bias: Array) -> Array:
  if bias.ndim == 2:
    bias = bias[:, None, None]
  return without_bias(stride, padding, x, kernel) + bias.astype(x.dtype)


def _forward(
  stride: Pair, padding: Padding, x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
  return _conv(stride, padding, x, kernel, bias), (x, kernel, bias)


def gradients(
  stride: Pair, padding: Padding, saved: tuple[Array, Array, Array], grad: Array
) -> tuple[Array, Array, Array]:
  """Of x, kernel and bias, which are `saved`; `grad` is that of the convolution."""
  x, kernel, bias = saved
  (x_grad,) = jax.linear_transpose(lambda x: without_bias(stride, padding, x, kernel), x)(grad)
  plain = functools.partial(plain_gradients, stride, padding, kernel, bias)
  if x.size < cpu.LARGE:
    kernel_grad, bias_grad = plain(x, grad)
  else:
    row_by_row = functools.partial(cpu.conv_gradients, stride, padding, kernel, bias)
    kernel_grad, bias_grad = jax.lax.platform_dependent(x, grad, cpu=row_by_row, default=plain)
  return x_grad, kernel_grad.astype(kernel.dtype), bias_grad.astype(bias.dtype)


_conv.defvjp(_forward, gradients)


def without_bias(stride: Pair, padding: Padding, x: Array, kernel: Array) -> Array:
  """The backend's convolution."""
  return jax.lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def plain_gradients(
  stride: Pair, padding: Padding, kernel: Array, bias: Array, x: Array, grad: Array
) -> tuple[Array, Array]:
  """Of kernel and bias, f32."""
  transpose = jax.linear_transpose(lambda kernel: without_bias(stride, padding, x, kernel), kernel)
  summed = range(bias.ndim - 1, 3)  # not over examples that have a bias each
  return transpose(grad)[0], jnp.sum(grad, summed, dtype=jnp.float32)


def sum_over_pixels(grad: Array) -> Array:
  """Over all but channels, in float32."""
  return jnp.sum(grad, range(grad.ndim - 1), dtype=jnp.float32)
