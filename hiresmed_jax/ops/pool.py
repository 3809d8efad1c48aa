"""Maxima whose derivative compares the operands, and the pooling made of them.

JAX derives a maximum by asking which operand equals the result. A compiler may compute an operand
twice and round it in two ways (a fused multiply-add, a bfloat16 value that stays float32 within a
fusion): then none does, and the gradient vanishes or is divided by 0. What training differentiates
takes its maxima and minima from here.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hiresmed_jax.types import Array


@jax.custom_jvp
def maximum(a: ArrayLike, b: ArrayLike) -> Array:
  """`jnp.maximum` with a derivative by comparison; equal values share it."""
  return jnp.maximum(a, b)


@maximum.defjvp
def _maximum_jvp(values: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
  (a, b), (da, db) = values, tangents
  # Again by `maximum`, for derivatives of derivatives.
  return maximum(a, b), jnp.where(a > b, da, jnp.where(a < b, db, (da + db) / 2))


def minimum(a: Array, b: Array) -> Array:
  """`jnp.minimum`, derived as `maximum`."""
  return -maximum(-a, -b)


def max_pool(
  x: Array, *, window: int, stride: int = 2, pad: int = 0, round_up: bool = False
) -> Array:
  """window x window maxima: [N, H, W, C] -> [N, h, w, C], h = (H + 2 pad - window) / stride + 1.

  Rows, then columns, by elementwise maxima of slices: the gradient of XLA's own windowed maximum
  keeps twice the memory and is slower.

  Args:
    x: any float dtype.
    window: pixels a side.
    stride: between windows.
    pad: pixels beyond each border that a window may reach; they do not count.
    round_up: h is rounded up instead of down; the last window may then overhang the border.
  """
  for axis in (1, 2):
    overhang = (window - x.shape[axis] - 2 * pad) % stride if round_up else 0
    if pad or overhang:
      widths = [(pad, pad + overhang, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
      x = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), widths)
    span = (x.shape[axis] - window) // stride * stride + 1
    parts = [jax.lax.slice_in_dim(x, k, k + span, stride, axis) for k in range(window)]
    x = functools.reduce(maximum, parts)
  return x
