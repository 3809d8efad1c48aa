"""Convolution whose kernel gradient is fast on the CPU as well; elsewhere it is the vendor's own.

XLA's CPU backend turns the kernel gradient into a convolution over transposed inputs, and fuses
what made an input (a normalisation, a whole depthwise convolution) into the transposition, where it
is computed again, value by value across the memory. Here the inputs are transposed row by row
inside a loop. A loop reads its operands from memory, so nothing is computed twice, and a row stays
in the cache. What it gives: benchmarks/cpu_gains.py.

N images, H rows, W columns, I input and O output channels, kh x kw kernel.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_UNPADDED = ((0, 0), (0, 0))
# Values of an input below which the loops cost more, in the compiler above all, than they save.
_SMALL = 1 << 18


def conv(
  x: Array,
  kernel: Array,
  bias: Array | None = None,
  *,
  stride: Pair = (1, 1),
  padding: Padding = _UNPADDED,
) -> Array:
  """2-D convolution (cross-correlation, as networks use it), plus a bias.

  Args:
    x: [N, H, W, I], any floating type.
    kernel: [kh, kw, I, O] of the same type.
    bias: [O], added in the type of `x`.
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
  if kernel.shape[:2] == (1, 1) and stride == (1, 1) and padding == _UNPADDED:
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
  bias_grad = jax.lax.platform_dependent(flat_grad, cpu=_sum_by_product, default=_sum)
  return x_grad, kernel_grad[None, None].astype(kernel.dtype), bias_grad.astype(bias.dtype)


_pointwise.defvjp(lambda *given: (_pointwise(*given), given), _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(stride: Pair, padding: Padding, x: Array, kernel: Array, bias: Array) -> Array:
  return _plain(stride, padding, x, kernel) + bias.astype(x.dtype)


def _forward(
  stride: Pair, padding: Padding, x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
  return _conv(stride, padding, x, kernel, bias), (x, kernel, bias)


def _backward(
  stride: Pair, padding: Padding, saved: tuple[Array, Array, Array], grad: Array
) -> tuple[Array, Array, Array]:
  x, kernel, bias = saved
  (x_grad,) = jax.linear_transpose(lambda x: _plain(stride, padding, x, kernel), x)(grad)
  vendors = functools.partial(_vendors, stride, padding, kernel)
  if x.size < _SMALL:
    kernel_grad, bias_grad = vendors(x, grad)
  else:
    row_by_row = functools.partial(_row_by_row, stride, padding, kernel)
    kernel_grad, bias_grad = jax.lax.platform_dependent(x, grad, cpu=row_by_row, default=vendors)
  return x_grad, kernel_grad.astype(kernel.dtype), bias_grad.astype(bias.dtype)


_conv.defvjp(_forward, _backward)


def _plain(stride: Pair, padding: Padding, x: Array, kernel: Array) -> Array:
  return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=_DIMENSIONS)


def _vendors(
  stride: Pair, padding: Padding, kernel: Array, x: Array, grad: Array
) -> tuple[Array, Array]:
  """Gradients of kernel and bias, f32[O]."""
  transpose = jax.linear_transpose(lambda kernel: _plain(stride, padding, x, kernel), kernel)
  return transpose(grad)[0], _sum(grad)


def _row_by_row(
  stride: Pair, padding: Padding, kernel: Array, x: Array, grad: Array
) -> tuple[Array, Array]:
  """The kernel's gradient as a convolution of x [I,H,W,N] with grad [h,w,N,O]; and the bias'."""
  (n, height, width, inputs), (rows, columns, outputs) = x.shape, grad.shape[1:]

  def turn_x(row: Array, turned: Array) -> Array:
    line = jax.lax.dynamic_slice(x, (0, row, 0, 0), (n, 1, width, inputs))
    return jax.lax.dynamic_update_slice(turned, line.transpose(3, 1, 2, 0), (0, row, 0, 0))

  def turn_grad(bias_grad: Array, row: Array) -> tuple[Array, Array]:
    line = jax.lax.dynamic_slice(grad, (0, row, 0, 0), (n, 1, columns, outputs))[:, 0]
    # Images are added up after the loop: a batch over devices would be at every row.
    row_sum = jnp.sum(line, 1, dtype=jnp.float32)
    return bias_grad + row_sum, line.transpose(1, 0, 2)

  x_turned = jax.lax.empty((inputs, height, width, n), x.dtype)
  x_turned = jax.lax.fori_loop(0, height, turn_x, x_turned)
  bias_grad, grad_turned = jax.lax.scan(turn_grad, jnp.zeros((n, outputs)), jnp.arange(rows))
  # Zeros after the end, or fewer rows than there are, so that the result has the kernel's size.
  ends = [
    (before, size - 1 + (steps - 1) * step + 1 - length - before)
    for (before, _), size, steps, step, length in zip(
      padding, kernel.shape[:2], (rows, columns), stride, (height, width), strict=True
    )
  ]
  kernel_grad = jax.lax.conv_general_dilated(
    x_turned, grad_turned, (1, 1), ends, rhs_dilation=stride, dimension_numbers=_DIMENSIONS
  )
  return kernel_grad.transpose(1, 2, 0, 3), _sum(bias_grad)


def _sum(grad: Array) -> Array:
  """Over all but channels, in float32."""
  return jnp.sum(grad, range(grad.ndim - 1), dtype=jnp.float32)


def _sum_by_product(flat: Array) -> Array:
  """The same by a product with ones: a sum would compute again, its own way, what made `flat`."""
  ones = jnp.ones(flat.shape[0], flat.dtype)
  return jax.lax.dot(ones, flat, preferred_element_type=jnp.float32)
