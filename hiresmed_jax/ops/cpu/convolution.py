"""Gradients of convolutions and of bilinear doubling, as XLA's CPU compiler runs them fast.

Row by row: XLA's CPU backend turns a kernel's gradient into a convolution over transposed inputs,
and fuses what made an input (a normalisation, a whole depthwise convolution) into the
transposition, where it is computed again, value by value across the memory. In a loop, which reads
its operands from memory, nothing is computed twice, and a row stays in the cache.

In plain form: the gradients of an unpadded convolution that JAX derives, of permuted dimensions,
leave the fast path of XLA's convolution and are 7 to 10 times slower (measured).

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


@jax.custom_vjp
def valid_conv(x: Array, kernel: Array) -> Array:
  """x [N, H, W, I], kernel [kh, kw, I, O] -> [N, H - kh + 1, W - kw + 1, O]."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  return _input_gradient(grad, kernel), _kernel_gradient(x, grad)


valid_conv.defvjp(lambda x, kernel: (valid_conv(x, kernel), (x, kernel)), _backward)


def _input_gradient(grad: Array, kernel: Array) -> Array:
  """The convolution of the padded gradient with the kernel turned round."""
  (kh, kw), turned = kernel.shape[:2], kernel[::-1, ::-1].swapaxes(2, 3)
  padded = jnp.pad(grad, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
  return valid_conv(padded, turned)


@jax.custom_vjp
def _kernel_gradient(x: Array, grad: Array) -> Array:
  """x [N, H, W, I] and grad [N, h, w, O] -> [kh, kw, I, O]."""
  turned = valid_conv(x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3))
  return turned.transpose(1, 2, 0, 3)


def _kernel_gradient_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, conv_grad = saved
  return _input_gradient(conv_grad, grad), valid_conv(x, grad)


_kernel_gradient.defvjp(
  lambda x, grad: (_kernel_gradient(x, grad), (x, grad)), _kernel_gradient_backward
)


def halve_rows(grad: Array) -> Array:
  """[N, 2H, W, C] -> [N, H, W, C], in a loop, which reads its operand from memory.

  Fused, what made `grad` would be computed for every reader.
  """
  last = grad.shape[1] - 1

  def halve(_: None, row: Array) -> tuple[None, Array]:
    before, even, odd, after = (
      jax.lax.dynamic_index_in_dim(grad, jnp.clip(2 * row + i, 0, last), 1, keepdims=False)
      for i in (-1, 0, 1, 2)
    )
    return None, 0.75 * (even + odd) + 0.25 * (before + after)

  _, rows = jax.lax.scan(halve, None, jnp.arange(grad.shape[1] // 2))
  return jnp.moveaxis(rows, 0, 1)
