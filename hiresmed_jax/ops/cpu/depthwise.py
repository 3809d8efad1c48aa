"""Depthwise convolution and its kernel gradient as sums of shifted products.

XLA's own grouped convolution is slow on the CPU; these run at the speed of the cache.

N images, H rows, W columns, C channels, kh x kw kernel.
"""

import functools
import operator

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

# One step of the kernel's gradient, as measured: 8 rows hide the writing of the running sums; up to
# 80,000 products per sum stay in a core's cache, and below the size at which XLA splits a sum into
# parts, which inside a loop run one after the other and slower.
_TILE_ROWS = 8
_PRODUCTS = 80_000


def shifted_products(x: Array, kernel: Array) -> Array:
  """The convolution: x [N, H, W, C], kernel [kh, kw, 1, C] -> [N, H, W, C], in one fused pass."""
  (kh, kw), (height, width) = kernel.shape[:2], x.shape[1:3]
  padded = _pad(x.astype(jnp.float32), (kh, kw), (height, width))
  weights = kernel.astype(jnp.float32)
  products = [
    padded[:, i : i + height, j : j + width] * weights[i, j, 0]
    for i in range(kh)
    for j in range(kw)
  ]
  return functools.reduce(operator.add, products).astype(x.dtype)


def kernel_gradient(size: tuple[int, int], x: Array, grad: Array) -> Array:
  """x and the output's gradient, both [N, H, W, C] -> f32[kh, kw, 1, C].

  Tile by tile inside a scan, so that a tile stays in the cache.

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
