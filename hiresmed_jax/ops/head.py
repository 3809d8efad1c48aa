"""The last convolution of a decoder: many channels to a few, in float32 whatever it reads.

N images, H rows, W columns, I input and O output channels, kh x kw kernel of odd sides.
"""

import functools
import operator

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import convolution
from hiresmed_jax.types import Array


@jax.custom_vjp
def head(x: Array, kernel: Array, bias: Array) -> Array:
  """x [N,H,W,I] * kernel f32[kh,kw,I,O] + bias f32[O], zero padding -> f32[N,H,W,O].

  Products and sums are float32, also of a bfloat16 x, of which an accelerator makes no wide copy.
  Gradients are computed in the type of x from a gradient rounded to it, summed in float32.
  Reverse-mode derivatives only.
  """
  if x.dtype == jnp.float32:
    return wide_conv(x, kernel, bias)
  return jax.lax.platform_dependent(x, kernel, bias, cpu=wide_conv, default=shifted_products)


def wide_conv(x: Array, kernel: Array, bias: Array) -> Array:
  """By the backend's convolution, which wants operands of one type."""
  return convolution.conv(x.astype(jnp.float32), kernel, bias, padding=_padding(kernel))


def shifted_products(x: Array, kernel: Array, bias: Array) -> Array:
  """In one pass: products of x, shifted by each tap, summed over channels."""
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), *_padding(kernel), (0, 0)))
  products = [
    padded[:, i : i + height, j : j + width, None].astype(jnp.float32) * kernel[i, j].T
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  ]
  # The bias comes with the first channel: afterwards it would be a pass of its own.
  products.append(bias[:, None] * jax.nn.one_hot(0, x.shape[-1]))
  return jnp.sum(functools.reduce(operator.add, products), -1)


def _backward(saved: tuple[Array, Array, Array], grad: Array) -> tuple[Array, Array, Array]:
  x, kernel, bias = saved
  narrow = functools.partial(convolution.conv, padding=_padding(kernel))
  _, back = jax.vjp(narrow, x, kernel.astype(x.dtype), bias)
  x_grad, kernel_grad, _ = back(grad.astype(x.dtype))
  return x_grad, kernel_grad.astype(kernel.dtype), jnp.sum(grad, (0, 1, 2))


head.defvjp(lambda *given: (head(*given), given), _backward)


def _padding(kernel: Array) -> convolution.Padding:
  rows, columns = (side // 2 for side in kernel.shape[:2])
  return ((rows, rows), (columns, columns))
