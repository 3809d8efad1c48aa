"""SinGAN's pyramid: the sizes of its levels, and the resizing that leads from one to the next.

Everything stays float: the published code rounds to 8 bits between levels.
Source: Shaham et al. 2019 (SinGAN), section 2 and its code; Keys 1981 (the cubic kernel).
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hiresmed_jax.types import Array

Size = tuple[int, int]
_REACH = 2.0  # of the cubic kernel, in pixels of the coarser image


class Pyramid(NamedTuple):
  """Levels from coarse to fine."""

  sizes: tuple[Size, ...]  # height and width of each
  ratio: float  # of a level's side to that of the next finer one, below 1
  image_scale: float  # what the image itself is scaled by to become the finest level; 1 = native

  def __str__(self) -> str:
    """ "5 levels, 16 20 23 27 32 px, each 1.19 times the one before"."""
    shown = " ".join(str(h) if h == w else f"{h}x{w}" for h, w in self.sizes)
    scaled = "" if self.image_scale == 1 else f", image scaled by {self.image_scale:.3g}"
    return (
      f"{len(self.sizes)} levels, {shown} px, each {1 / self.ratio:.3g} times the one before"
      + (scaled)
    )


def pyramid(
  height: int,
  width: int,
  *,
  min_size: float = 25.0,
  max_size: float = 250.0,
  factor: float = 0.75,
  min_levels: int = 1,
) -> Pyramid:
  """The levels that SinGAN makes of an image.

  Args:
    height: of the image.
    width: of the image.
    min_size: shorter side of the coarsest level, pixels.
    max_size: longer side of the finest; an image that is larger is scaled down to it.
    factor: wanted ratio of neighbouring levels; the one in use is near it.
    min_levels: at least so many, with a ratio nearer 1 where need be.

  Raises:
    ValueError: sizes that make no pyramid.
  """
  short, long = min(height, width), max(height, width)
  if not 1 <= min_size < min(short, max_size) or not 0 < factor < 1:
    raise ValueError(f"no pyramid from {min_size} px to {height} x {width} by a factor of {factor}")
  scales = _steps(min_size / short, factor) + 1
  stop = scales - _steps(min(max_size / long, 1.0), factor)
  stop = max(stop, min_levels - 1)
  image_scale = min(max_size / long, 1.0)
  top = (_ceil(height * image_scale), _ceil(width * image_scale))
  ratio = (min_size / min(top)) ** (1.0 / stop)
  sizes = tuple(
    (_ceil(top[0] * ratio**below), _ceil(top[1] * ratio**below)) for below in range(stop, -1, -1)
  )
  return Pyramid(sizes, ratio, image_scale)


def lesion_pyramid(side: int, *, min_size: float = 25.0, factor: float = 0.75) -> Pyramid:
  """The pyramid of a square lesion window: never resized, from min(min_size, side / 2).

  Raises:
    ValueError: the coarsest level would be smaller than what the critic sees, 11 px.
  """
  least = min(min_size, side / 2)
  if least < 11:
    raise ValueError(f"a window of {side} px is too small: its coarsest level has {least:g} px")
  return pyramid(side, side, min_size=least, max_size=side, factor=factor, min_levels=3)


def resize(images: Array, size: Size, *, scale: float) -> Array:
  """Cubic resampling by an exact scale: f32[..., H, W, C] -> f32[..., h, w, C].

  Keys' kernel with a = -1/2, widened when it shrinks (antialiased), borders mirrored with the
  border pixel repeated. Pixel centres are at (i + 1/2) / scale whatever `size` is, at most
  ceil(scale * side): what lies beyond the size is left out, as SinGAN crops the last row and
  column.
  """
  rows = jnp.asarray(_matrix(images.shape[-3], size[0], scale), images.dtype)
  columns = jnp.asarray(_matrix(images.shape[-2], size[1], scale), images.dtype)
  # Exactly: a resampled image is what a level trains on.
  images = jnp.einsum("rh,...hwc->...rwc", rows, images, precision="highest")
  return jnp.einsum("sw,...rwc->...rsc", columns, images, precision="highest")


def levels(images: Array, levels: Pyramid) -> list[Array]:
  """The images at every level, coarse first: f32[..., H, W, C] -> f32[..., h_n, w_n, C] each.

  Every level is made from the finest one, not from its neighbour.
  """
  finest = images
  if levels.image_scale != 1:
    finest = resize(images, levels.sizes[-1], scale=levels.image_scale)
  last = len(levels.sizes) - 1
  coarser = [
    resize(finest, size, scale=levels.ratio ** (last - n))
    for n, size in enumerate(levels.sizes[:-1])
  ]
  return [*coarser, finest]


def to_level(images: Array, number: int, levels: Pyramid) -> Array:
  """Images of level `number` - 1 at the size of level `number`: f32[..., h, w, C]."""
  return resize(images, levels.sizes[number], scale=1.0 / levels.ratio)


def _steps(share: float, factor: float) -> int:
  # The logarithm of a power of the factor is whole but for rounding.
  return math.ceil(round(math.log(share) / math.log(factor), 9))


def _ceil(side: float) -> int:
  return math.ceil(round(side, 6))


@functools.lru_cache(maxsize=256)
def _matrix(length: int, size: int, scale: float) -> np.ndarray:
  """f64[size, length]: each row the weights of one resampled value."""
  shrink = min(scale, 1.0)
  centres = (np.arange(size) + 0.5) / scale - 0.5
  reach = math.ceil(_REACH / shrink) + 1
  taps = np.floor(centres)[:, None].astype(int) + np.arange(-reach, reach + 2)
  weights = _cubic((centres[:, None] - taps) * shrink)
  weights /= weights.sum(axis=1, keepdims=True)
  mirrored = np.mod(taps, 2 * length)
  mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
  matrix = np.zeros((size, length))
  np.add.at(matrix, (np.arange(size)[:, None], mirrored), weights)
  return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
  x = np.abs(x)
  near = (1.5 * x - 2.5) * x**2 + 1.0
  far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
