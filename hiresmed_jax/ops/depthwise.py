"""Depthwise convolution that is fast on every backend.

XLA's grouped convolution is slow on the CPU, where a sum of shifted products runs at the speed of
the memory; on accelerators the vendor's grouped convolution is used. The choice is made when the
program is lowered, so that one traced program is right on each backend.

N images, H rows, W columns, C channels, kh x kw kernel.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array


@jax.custom_vjp
def depthwise_conv(x: Array, kernel: Array) -> Array:
  """Convolves each channel with its own kernel: stride 1, zero padding to the same size.

  Args:
    x: [N, H, W, C], any floating type.
    kernel: [kh, kw, 1, C], kh and kw odd, any floating type.

  Returns:
    [N, H, W, C] in the type of `x`, summed in float32 at least.

  Reverse-mode derivatives of every order work; forward mode (`jax.jvp`) does not. The kernel's
  gradient is summed in float32 at least and has the kernel's type.

  Raises:
    ValueError: shapes do not fit, or a kernel side is even.
  """
  _check(x, kernel)
  return _forward_shifted(x, kernel)


def _depthwise_fwd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return depthwise_conv(x, kernel), (x, kernel)


def _depthwise_bwd(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = residuals
  kernel_grad = _kernel_gradient(kernel.shape[:2], x, grad).astype(kernel.dtype)
  return depthwise_conv(grad, _flip(kernel)).astype(x.dtype), kernel_grad


depthwise_conv.defvjp(_depthwise_fwd, _depthwise_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(size: tuple[int, int], x: Array, grad: Array) -> Array:
  """Gradient of the kernel, f32[kh, kw, 1, C], from the input and the output's cotangent."""
  padded = _pad(x, size).astype(jnp.float32)
  grad = grad.astype(jnp.float32)
  height, width = x.shape[1:3]
  sums = [
    jnp.sum(padded[:, i : i + height, j : j + width] * grad, axis=(0, 1, 2))
    for i in range(size[0])
    for j in range(size[1])
  ]
  return jnp.stack(sums).reshape(*size, 1, x.shape[-1])


def _kernel_gradient_fwd(size, x, grad):
  return _kernel_gradient(size, x, grad), (x, grad)


def _kernel_gradient_bwd(size, residuals, cotangent):
  # <cotangent, kernel_gradient(x, g)> = <g, conv(x, cotangent)>: the same two operations again.
  del size
  x, grad = residuals
  return depthwise_conv(grad, _flip(cotangent)).astype(x.dtype), depthwise_conv(
    x, cotangent
  ).astype(grad.dtype)


_kernel_gradient.defvjp(_kernel_gradient_fwd, _kernel_gradient_bwd)


def _forward_shifted(x: Array, kernel: Array) -> Array:
  kh, kw = kernel.shape[:2]
  height, width = x.shape[1:3]
  padded = _pad(x, (kh, kw)).astype(jnp.float32)
  kernel = kernel.astype(jnp.float32)
  total = sum(
    padded[:, i : i + height, j : j + width] * kernel[i, j, 0] for i in range(kh) for j in range(kw)
  )
  return total.astype(x.dtype)


def _pad(x: Array, size: tuple[int, int]) -> Array:
  top, left = size[0] // 2, size[1] // 2
  return jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))


def _flip(kernel: Array) -> Array:
  return kernel[::-1, ::-1]


def _check(x: Array, kernel: Array) -> None:
  if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
    raise ValueError(
      f"x [N, H, W, C] and kernel [kh, kw, 1, C] expected: {x.shape}, {kernel.shape}"
    )
  if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
    raise ValueError(f"odd kernel sides expected, got {kernel.shape[:2]}")
