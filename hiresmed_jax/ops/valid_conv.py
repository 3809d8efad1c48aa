"""Unpadded convolution that stays fast inside loops and where every image has kernels of its own.

SinGAN trains one small network for each image. Under `vmap` a convolution becomes one of as many
groups as there are images; as a matrix product over patches it becomes a batched product. The
gradients are two more such products. On the CPU images are trained one after the other, and XLA's
convolution is the faster one: ops/cpu.py.

Derivatives of every order. N images, H x W pixels, I input and O output channels, kh x kw kernel.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import cpu
from hiresmed_jax.types import Array

Way = Literal["auto", "patches", "direct", "vendor"]
Size = tuple[int, int]
_FEW = 8  # channels up to which patches cost less than the CPU's convolution


def valid_conv(x: Array, kernel: Array, *, way: Way = "auto") -> Array:
  """Cross-correlation without padding or bias.

  Args:
    x: [N, H, W, I], any floating type.
    kernel: [kh, kw, I, O] of the same type.
    way: "patches": matrix products over patches, taken on the side that has fewer channels;
      "direct": the backend's convolution, with gradients in plain form, and patches for few
      channels; "vendor": the backend's convolution, with the gradients that JAX derives; "auto":
      "direct" on the CPU, "patches" elsewhere.

  Returns:
    [N, H - kh + 1, W - kw + 1, O]. Reverse-mode derivatives of any order; no `jax.jvp` but with
    "vendor".

  Raises:
    ValueError: shapes do not fit, or an unknown way.
  """
  if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2] != x.shape[-1]:
    raise ValueError(f"x [N, H, W, I] and kernel [kh, kw, I, O] wanted: {x.shape}, {kernel.shape}")
  if way == "auto":
    way = "direct" if jax.default_backend() == "cpu" else "patches"
  match way:
    case "vendor":
      return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
    case "direct" if min(kernel.shape[2:]) > _FEW:
      return cpu.valid_conv(x, kernel)
    case "direct" | "patches":
      return _conv(x, kernel)
  raise ValueError(f"unknown way {way!r}: 'auto', 'patches', 'direct' or 'vendor'")


@jax.custom_vjp
def _conv(x: Array, kernel: Array) -> Array:
  kh, kw, inputs, outputs = kernel.shape
  if inputs <= outputs:
    return _patches(x, (kh, kw)) @ kernel.reshape(-1, outputs)
  # Products first: [N, H, W, kh kw O], of which each output adds up one a tap.
  height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
  products = x @ kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
  parts = [
    products[:, i : i + height, j : j + width, (i * kw + j) * outputs : (i * kw + j + 1) * outputs]
    for i in range(kh)
    for j in range(kw)
  ]
  return functools.reduce(jnp.add, parts)


def _conv_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  return _input_gradient(grad, kernel), _kernel_gradient(kernel.shape[:2], x, grad)


_conv.defvjp(lambda x, kernel: (_conv(x, kernel), (x, kernel)), _conv_backward)


def _input_gradient(grad: Array, kernel: Array) -> Array:
  """Of _conv: the convolution of the padded gradient with the kernel turned round."""
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  return _conv(_padded(grad, (kernel.shape[0], kernel.shape[1])), turned)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(size: Size, x: Array, grad: Array) -> Array:
  """Of _conv: x [N, H, W, I] and grad [N, h, w, O] -> [kh, kw, I, O]."""
  kh, kw = size
  inputs, outputs = x.shape[-1], grad.shape[-1]
  if inputs <= outputs:
    taps = _patches(x, size).reshape(-1, kh * kw * inputs)
    return _product(taps, grad.reshape(-1, outputs)).reshape(kh, kw, inputs, outputs)
  taps = _patches(_padded(grad, size), size).reshape(-1, kh * kw * outputs)
  turned = _product(x.reshape(-1, inputs), taps).reshape(inputs, kh, kw, outputs)
  return turned.transpose(1, 2, 0, 3)[::-1, ::-1]


def _kernel_gradient_backward(
  size: Size, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  del size
  x, conv_grad = saved
  return _input_gradient(conv_grad, grad), _conv(x, grad)


_kernel_gradient.defvjp(
  lambda size, x, grad: (_kernel_gradient(size, x, grad), (x, grad)), _kernel_gradient_backward
)


def _product(a: Array, b: Array) -> Array:
  """a^T b, summed in float32, in the type of a."""
  product = jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
  return product.astype(a.dtype)


def _patches(x: Array, size: Size) -> Array:
  """[N, H, W, I] -> [N, h, w, kh kw I], every window's values in the kernel's order."""
  kh, kw = size
  height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
  return jnp.concatenate(
    [x[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)], axis=-1
  )


def _padded(grad: Array, size: Size) -> Array:
  kh, kw = size
  return jnp.pad(grad, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
