"""What insertion is made of: what lies around a lesion's mask, and the noise of a neighbourhood.

S rows and columns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.types import Array

REACH_PX = 2  # an insertion changes nothing farther than this from the mask,
TAIL_PX = 4  # or than this, where the end of a lesion's blur comes along
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


def tail_taper(mask: Array) -> Array:
  """f32[S, S]: 1 up to 1.5 px from bool[S, S], falling to 0 beyond `TAIL_PX`."""
  steps = [dilate(mask, radius).astype(jnp.float32) for radius in (1.5, 2.3, 3.2, TAIL_PX)]
  return sum(steps[1:], steps[0]) / len(steps)


def mean3(image: Array) -> Array:
  """Mean of 3 x 3 pixels. [S, S, C]."""
  taps = np.full(3, 1 / 3)
  return separable(image, taps, taps, border="edge")


def louder(image: Array, level: Array) -> Array:
  """Share in [0, 1] of a mean of 3 x 3 that is no noise of standard deviation f32[C]. [S, S, C]."""
  noise = jnp.square(_MEAN_NOISE * level)
  return jnp.maximum(1 - noise / jnp.maximum(jnp.square(mean3(image)), 1e-12), 0.0)


def sobel(mask: Array) -> Array:
  """Gradient magnitude of bool|f32[S, S], 3x3 Sobel, borders mirrored as OpenCV does. f32[S, S]."""
  image = mask.astype(jnp.float32)[..., None]
  across, along = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 2.0, 1.0])
  down = separable(image, across, along, border="reflect")
  right = separable(image, along, across, border="reflect")
  return jnp.sqrt(jnp.square(down) + jnp.square(right))[..., 0]


_SIGMA = 1.5  # px; what a Gaussian of this width leaves over is grain, not anatomy
_LOUDEST = 3.0  # standard deviations; what is louder is an edge
_QUARTER = 0.3186  # standard deviations that a quarter of a normal variable's values lies within
_MEAN_KEEPS = 1 / 9
_MEAN_NOISE = 0.5  # of the noise's level, in a mean of 3 x 3: it is correlated
_FLAT = 0.01  # of the noise power
_NOISELESS = 0.02  # of the neighbourhood's level


def gaussian_taps(sigma: float, size: int) -> np.ndarray:
  """f64[size], a Gaussian sampled at the pixel centres, sum 1; as OpenCV's `getGaussianKernel`."""
  taps = np.exp(-0.5 * np.square((np.arange(size) - (size - 1) / 2) / sigma))
  return taps / taps.sum()


def gaussian3(image: Array) -> Array:
  """3x3 Gaussian of sigma 1.0, borders mirrored as OpenCV does. [S, S, C]."""
  taps = gaussian_taps(1.0, 3)
  return separable(image, taps, taps, border="reflect")


def separable(image: Array, rows: np.ndarray, columns: np.ndarray, *, border: str) -> Array:
  """Correlates each channel with rows^T columns; odd sizes; `border` as in `jnp.pad`.

  [S, S, C] -> the same shape.
  """
  for axis, taps in enumerate((rows, columns)):
    half = len(taps) // 2
    padded = jnp.pad(image, [(half, half) if a == axis else (0, 0) for a in range(3)], mode=border)
    size = image.shape[axis]
    parts = [jnp.take(padded, jnp.arange(i, i + size), axis) * t for i, t in enumerate(taps) if t]
    image = sum(parts[1:], parts[0])
  return image


def grains(image: Array) -> Array:
  """What a Gaussian blur leaves over, scaled so that white noise keeps its level. [S, S, C]."""
  taps = gaussian_taps(_SIGMA, 9)
  square = np.outer(taps, taps)
  kept = np.sqrt(1 - 2 * square[4, 4] + np.sum(np.square(square)))
  return (image - separable(image, taps, taps, border="edge")) / np.float32(kept)


def noise_level(image: Array, where: Array) -> Array:
  """Standard deviation f32[C] of the noise of f32[S, S, C] where bool[S, S]; 0 where none is.

  By the quieter half: vessels and edges hardly count.
  """
  loud = jnp.where(where[..., None], jnp.abs(grains(image)), jnp.nan)
  return jnp.nan_to_num(jnp.nanquantile(loud, 0.25, axis=(0, 1)) / _QUARTER)


def own_noise(image: Array, level: Array) -> Array:
  """The image's own grains, edges cut off at three standard deviations. [S, S, C]."""
  return jnp.clip(grains(image), -_LOUDEST * level, _LOUDEST * level)


def noise_in(patch: Array, level: Array) -> tuple[Array, Array]:
  """The part of a patch that is noise: what Lee's local Wiener filter removes.

  Where 3 x 3 pixels vary no more than noise does, all that departs from their mean; where they vary
  more, by structure, so much less.

  Args:
    patch: f32[S, S, C].
    level: f32[C], standard deviation of its noise.

  Returns:
    f32[S, S, C], the noise, and bool[S, S, C], where there is none although the level is not 0: a
    saturated value, as in the middle of a dense stone.
  """
  height, width, _ = patch.shape
  padded = jnp.pad(patch, ((1, 1), (1, 1), (0, 0)), mode="edge")
  near = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
  mean = sum(near[1:], near[0]) / 9
  # Not mean square less square of the mean: stored values are large, noise is small.
  variance = sum(jnp.square(pixel - mean) for pixel in near) / 9
  power = jnp.square(level)
  noise = (patch - mean) * power / jnp.maximum(jnp.maximum(variance, power), 1e-12)
  return noise, variance < _FLAT * power


def matched(
  grain: Array, grain_level: Array, own: Array, level: Array, *, kept: Array, flat: Array
) -> Array:
  """Noise to add to kept * image + layer, so that the sum is as noisy as the neighbourhood.

  The layer's grain stays, toned down where it would be too loud; what then is missing is made up by
  more of the image's own, except where the layer is saturated.

  Args:
    grain: f32[S, S, C], the layer's noise; `grain_level`, f32[C] or [S, S, C], how loud it is.
    own: f32[S, S, C], the image's own noise; `level`, f32[C], how loud it and the whole are to be.
    kept: f32[S, S, 1|C] in [0, 1].
    flat: bool[S, S, C].

  Returns:
    f32[S, S, C].
  """
  power = jnp.square(grain_level) / jnp.maximum(jnp.square(level), 1e-12)  # the level's is 1
  left = _MEAN_KEEPS * power  # of the layer's noise, what a mean of 3 x 3 lets through
  grainy = power - left
  share = jnp.clip(1 - jnp.square(kept) - left, 0.0, grainy)
  factor = jnp.sqrt(share / jnp.maximum(grainy, 1e-12))
  missing = jnp.sqrt(jnp.maximum(1 - left - share, jnp.square(kept))) - kept
  flat &= power > _NOISELESS**2  # a drawn lesion is flat, and not saturated
  return factor * grain + jnp.where(flat, 0.0, missing * own)
