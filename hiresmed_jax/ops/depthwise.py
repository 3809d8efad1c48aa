"""Depthwise convolution that is fast on every backend.

XLA's grouped convolution is slow on the CPU, where a sum of shifted products runs at the speed of
the cache; on accelerators the vendor's grouped convolution is used, but for one case. cuDNN has no
fast kernel gradient for few channels: 39 ms at 8 x 1,024 x 1,024 x 32 on an H200, where an ordinary
3x3 convolution takes 1.2 (benchmarks/results/first_look_h200.json). So there the gradient of an
ordinary convolution is taken, of which a depthwise kernel is the diagonal: 32 times the arithmetic,
on matrix units that are otherwise idle. The choice is made when the program is lowered for a
backend, so that one traced program is right on each.

N images, H rows, W columns, C channels, kh x kw kernel.
"""

import functools
import operator

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

# One step of the kernel's gradient on the CPU, as measured: 8 rows hide the writing of the running
# sums; up to 80,000 products per sum stay in a core's cache, and below the size at which XLA splits
# a sum into parts, which inside a loop run one after the other and slower.
_TILE_ROWS = 8
_PRODUCTS = 80_000
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
  return jax.lax.platform_dependent(x, kernel, cpu=_shifted_products, default=_grouped)


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
    cpu=functools.partial(_tile_by_tile, size),
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


def _shifted_products(x: Array, kernel: Array) -> Array:
  """One fused pass over the output: each element reads its kh x kw neighbours from the cache."""
  (kh, kw), (height, width) = kernel.shape[:2], x.shape[1:3]
  padded = _pad(x.astype(jnp.float32), (kh, kw), (height, width))
  weights = kernel.astype(jnp.float32)
  products = [
    padded[:, i : i + height, j : j + width] * weights[i, j, 0]
    for i in range(kh)
    for j in range(kw)
  ]
  return functools.reduce(operator.add, products).astype(x.dtype)


def _tile_by_tile(size: tuple[int, int], x: Array, grad: Array) -> Array:
  """The kernel's gradient, tile by tile inside a scan, so that a tile stays in the cache.

  For each kernel column, sums f32[N, kh, columns, C] run over tiles, within a tile over its rows.
  Examples, and the columns of a tile, are added up only at the end: no sum inside the loop crosses
  examples, so a batch that is split over devices is not gathered, and the long inner axes keep the
  processor's vectors full.
  """
  (kh, kw), (count, height, width, channels) = size, x.shape
  rows = min(_TILE_ROWS, height)
  wanted = max(1, _PRODUCTS // (count * kh * rows * channels))
  columns = min(1 << (wanted.bit_length() - 1), width)  # powers of two divide most widths
  tiles_down, tiles_across = -(-height // rows), -(-width // columns)
  full = (tiles_down * rows, tiles_across * columns)
  padded = _pad(x, size, full)
  padded_grad = jnp.pad(grad, ((0, 0), (0, full[0] - height), (0, full[1] - width), (0, 0)))

  def load(tile: Array | int) -> tuple[Array, Array]:
    start = (0, tile // tiles_across * rows, tile % tiles_across * columns, 0)
    around = (count, rows + kh - 1, columns + kw - 1, channels)
    inside = (count, rows, columns, channels)
    return (
      jax.lax.dynamic_slice(padded, start, around).astype(jnp.float32),
      jax.lax.dynamic_slice(padded_grad, start, inside).astype(jnp.float32),
    )

  def column_sum(j: int, x_tile: Array, grad_tile: Array) -> Array:
    products = [
      x_tile[:, u : u + kh, j : j + columns] * grad_tile[:, u : u + 1] for u in range(rows)
    ]
    return functools.reduce(operator.add, products)

  def step(carry: tuple, next_tile: Array) -> tuple[tuple, None]:
    # The tile travels in the carry: sliced in the step that uses it, the slicing is fused into the
    # sums, which then are no longer vectorised (three times slower).
    sums, tile = carry
    sums = [total + column_sum(j, *tile) for j, total in enumerate(sums)]
    return (sums, load(next_tile)), None

  zeros = [jnp.zeros((count, kh, columns, channels), jnp.float32) for _ in range(kw)]
  following = jnp.arange(1, tiles_down * tiles_across + 1)
  (sums, _), _ = jax.lax.scan(step, (zeros, load(0)), following)
  return jnp.stack([jnp.sum(total, axis=(0, 2)) for total in sums], axis=1)[:, :, None]


def _pad(x: Array, size: tuple[int, int], full: tuple[int, int]) -> Array:
  """Half a kernel of zeros around, and more below and on the right up to `full` positions."""
  (top, left), (height, width) = (size[0] // 2, size[1] // 2), x.shape[1:3]
  down, right = top + full[0] - height, left + full[1] - width
  return jnp.pad(x, ((0, 0), (top, down), (left, right), (0, 0)))


def _flip(kernel: Array) -> Array:
  return kernel[::-1, ::-1]
