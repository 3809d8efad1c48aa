"""Depthwise convolution: the backend's grouped convolution, but for two cases.

The CPU has ways of its own: ops/cpu.py. And cuDNN has no fast kernel gradient for few
channels: 39 ms at 8 x 1,024 x 1,024 x 32 on an H200, where an ordinary 3x3 convolution takes 1.2
(benchmarks/results/first_look_h200.json). There the gradient of an ordinary convolution is taken,
of which a depthwise kernel is the diagonal: 32 times the arithmetic, on matrix units that are
otherwise idle. The choice is made when the program is lowered for a backend, so that one traced
program is right on each.

N images, H rows, W columns, C channels, kh x kw kernel.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import cpu
from hiresmed_jax.types import Array

_FEW_CHANNELS = 32  # up to which cuDNN's own kernel gradient is the slow one


@jax.custom_vjp
def depthwise_conv(x: Array, kernel: Array) -> Array:
  """Convolves each channel with its own kernel: stride 1, zero padding to the same size.

  Args:
    x: [N, H, W, C], any floating type.
    kernel: [kh, kw, 1, C], kh and kw odd, any floating type.

  Returns:
    [N, H, W, C] in the type of `x`; sums run in float32.

  Reverse-mode derivatives of any order work, forward mode (`jax.jvp`) does not. The kernel's
  gradient is summed in float32, then has the kernel's type.

  Raises:
    ValueError: shapes do not fit, or a kernel side is even.
  """
  if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
    raise ValueError(f"x [N, H, W, C] and kernel [kh, kw, 1, C] wanted: {x.shape}, {kernel.shape}")
  if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
    raise ValueError(f"odd kernel sides wanted, not {kernel.shape[:2]}")
  return jax.lax.platform_dependent(x, kernel, cpu=cpu.shifted_products, default=_grouped)


def _conv_fwd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return depthwise_conv(x, kernel), (x, kernel)


def _conv_bwd(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  kernel_grad = _kernel_gradient(kernel.shape[:2], x, grad)
  return depthwise_conv(grad, _flip(kernel)), kernel_grad.astype(kernel.dtype)


depthwise_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(size: tuple[int, int], x: Array, grad: Array) -> Array:
  """f32[kh, kw, 1, C] from the input and the output's cotangent, both [N, H, W, C]."""
  return jax.lax.platform_dependent(
    x,
    grad,
    cpu=functools.partial(cpu.depthwise_kernel_gradient, size),
    cuda=functools.partial(
      _dense_diagonal if x.shape[-1] <= _FEW_CHANNELS else _grouped_transpose, size
    ),
    default=functools.partial(_grouped_transpose, size),
  )


def _kernel_gradient_fwd(
  size: tuple[int, int], x: Array, grad: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _kernel_gradient(size, x, grad), (x, grad)


def _kernel_gradient_bwd(
  size: tuple[int, int], saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  # <cotangent, kernel_gradient(x, grad)> = <grad, conv(x, cotangent)>: the same operation again,
  # which is why derivatives of any order exist.
  x, grad = saved
  return depthwise_conv(grad, _flip(cotangent)), depthwise_conv(x, cotangent)


_kernel_gradient.defvjp(_kernel_gradient_fwd, _kernel_gradient_bwd)


def _grouped(x: Array, kernel: Array) -> Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1],
  )


def _grouped_transpose(size: tuple[int, int], x: Array, grad: Array) -> Array:
  # Accelerators sum bfloat16 products in float32 and round once, at the end.
  kernel = jax.ShapeDtypeStruct((*size, 1, x.shape[-1]), x.dtype)
  transpose = jax.linear_transpose(functools.partial(_grouped, x), kernel)
  return transpose(grad.astype(x.dtype))[0].astype(jnp.float32)


def _dense_diagonal(size: tuple[int, int], x: Array, grad: Array) -> Array:
  """The kernel's gradient as the diagonal of an ordinary convolution's, [kh, kw, C, C]."""
  channels = x.shape[-1]
  dense = functools.partial(
    jax.lax.conv_general_dilated,
    x,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  kernel = jax.ShapeDtypeStruct((*size, channels, channels), x.dtype)
  full = jax.linear_transpose(dense, kernel)(grad.astype(x.dtype))[0]
  return jnp.diagonal(full, axis1=2, axis2=3).astype(jnp.float32)[:, :, None]


def _flip(kernel: Array) -> Array:
  return kernel[::-1, ::-1]
