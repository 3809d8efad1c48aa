"""Pixel errors, one number per image. N images, H x W pixels, C channels; 8 or 16 bits, or floats.

Similarity of structure is in ssim.py, perceptual distance in lpips.py.
"""

import math

import chex
import jax.numpy as jnp

from hiresmed_jax.types import Array

# The paper's table fits images in [0, 1] whose peak was taken for 255: 20 log10 255.
PAPER_OFFSET_DB = 20.0 * math.log10(255.0)


def psnr(
  predictions: Array, targets: Array, *, data_range: float, where: Array | None = None
) -> Array:
  """Peak signal-to-noise ratio in dB. [N, H, W, C] x 2 -> f32[N]; infinite for equal images.

  Args:
    where: bool[N, H, W], the pixels that count; all by default.
    data_range: highest minus lowest possible intensity: 2 for images in [-1, 1], 255 for 8 bit.

  Source: 10 log10(data_range^2 / mean squared error), the error over all pixels and channels.

  Raises:
    AssertionError: the two differ in shape; a broadcast would give a number for a mistake.
  """
  error = jnp.square(_difference(predictions, targets) / data_range)
  return -10.0 * jnp.log10(_mean(error, where))


def psnr_paper(
  predictions: Array, targets: Array, *, data_range: float, where: Array | None = None
) -> Array:
  """`psnr` as the paper's Table 2 has it, 48.13 dB higher. To be compared with that table only."""
  return psnr(predictions, targets, data_range=data_range, where=where) + PAPER_OFFSET_DB


def l1(predictions: Array, targets: Array, *, where: Array | None = None) -> Array:
  """Mean absolute error: [N, H, W, C] x 2 -> f32[N]. `where`, errors: as for `psnr`."""
  return _mean(jnp.abs(_difference(predictions, targets)), where)


def _difference(predictions: Array, targets: Array) -> Array:
  """In float32: whole numbers without a sign would wrap around."""
  chex.assert_equal_shape([predictions, targets])
  return jnp.asarray(predictions, jnp.float32) - jnp.asarray(targets, jnp.float32)


def _mean(values: Array, where: Array | None) -> Array:
  return jnp.mean(values, axis=(1, 2, 3), where=None if where is None else where[..., None])
