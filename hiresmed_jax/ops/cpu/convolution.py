"""The convolution's kernel gradient, row by row.

XLA's CPU backend turns this gradient into a convolution over transposed inputs, and fuses what made
an input (a normalisation, a whole depthwise convolution) into the transposition, where it is
computed again, value by value across the memory. Here the inputs are transposed row by row inside a
loop. A loop reads its operands from memory, so nothing is computed twice, and a row stays in the
cache.

N images, H rows, W columns, I input and O output channels, kh x kw kernel.
"""

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array


def gradients(
  stride: tuple[int, int],
  padding: tuple[tuple[int, int], tuple[int, int]],
  kernel: Array,
  x: Array,
  grad: Array,
) -> tuple[Array, Array]:
  """x [N, H, W, I] and the output's gradient [N, h, w, O] -> those of kernel and bias, f32[O].

  The kernel's is a convolution of x [I, H, W, N] with the output's gradient [h, w, N, O].
  """
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
    x_turned,
    grad_turned,
    (1, 1),
    ends,
    rhs_dilation=stride,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return kernel_grad.transpose(1, 2, 0, 3), jnp.sum(bias_grad, 0)


def sum_of_rows(flat: Array) -> Array:
  """[P, C] -> f32[C], by a product with ones: a sum would compute again what made `flat`."""
  ones = jnp.ones(flat.shape[0], flat.dtype)
  return jax.lax.dot(ones, flat, preferred_element_type=jnp.float32)
