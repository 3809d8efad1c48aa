"""What lies around a lesion's mask: its edge, its reach, its neighbourhood. S rows and columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.ops import insertion_noise as noise
from hiresmed_jax.types import Array

REACH_PX = 2  # an insertion changes nothing farther than this from the mask
_RING_PX = (4, 10)  # the neighbourhood is farther than the first and up to the second


def dilate(mask: Array, radius: float) -> Array:
  """Pixels at most `radius` px (Euclidean, between centres) from a pixel of bool[S, S]."""
  (height, width), r = mask.shape, int(radius)
  padded = jnp.pad(mask, r)
  near = [
    padded[r + y : r + y + height, r + x : r + x + width]
    for y in range(-r, r + 1)
    for x in range(-r, r + 1)
    if x * x + y * y <= radius * radius
  ]
  return functools.reduce(jnp.logical_or, near)


def square_dilate(mask: Array, by: int) -> Array:
  """Pixels at most `by` rows and `by` columns from a pixel of bool[S, S]."""
  side = (2 * by + 1, 2 * by + 1)
  return jax.lax.reduce_window(mask, False, jax.lax.bitwise_or, side, (1, 1), "SAME")


def ring(mask: Array) -> Array:
  """The neighbourhood of bool[S, S]: clear of the lesion, from 5 to 10 px away."""
  inner, outer = _RING_PX
  return square_dilate(mask, outer) & ~square_dilate(mask, inner)


def taper(mask: Array) -> Array:
  """f32[S, S]: 1 on bool[S, S] and its eight neighbours, half on the rest of the reach, 0 beyond.

  What a blurred lesion has left at the end of its reach so ends in two small steps.
  """
  near, reach = dilate(mask, 1.5), dilate(mask, REACH_PX)
  return 0.5 * (near.astype(jnp.float32) + reach.astype(jnp.float32))


def sobel(mask: Array) -> Array:
  """Gradient magnitude of bool|f32[S, S], 3x3 Sobel, borders mirrored as OpenCV does. f32[S, S]."""
  image = mask.astype(jnp.float32)[..., None]
  across, along = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 2.0, 1.0])
  down = noise.separable(image, across, along, border="reflect")
  right = noise.separable(image, along, across, border="reflect")
  return jnp.sqrt(jnp.square(down) + jnp.square(right))[..., 0]
