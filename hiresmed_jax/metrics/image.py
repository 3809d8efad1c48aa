"""Image quality, one number per image. N images, H x W pixels, C channels."""

import chex
import jax.numpy as jnp

from hiresmed_jax.types import Array


def psnr(
  predictions: Array, targets: Array, *, data_range: float, where: Array | None = None
) -> Array:
  """Peak signal-to-noise ratio in dB. f32[N, H, W, C] x 2 -> f32[N]; infinite for equal images.

  Args:
    where: bool[N, H, W], the pixels that count; all by default.
    data_range: highest minus lowest possible intensity: 2 for images in [-1, 1], 255 for 8 bit.

  Source: 10 log10(data_range^2 / mean squared error), the error over all pixels and channels.

  Raises:
    AssertionError: the two differ in shape; a broadcast would give a number for a mistake.
  """
  chex.assert_equal_shape([predictions, targets])
  counts = None if where is None else where[..., None]
  error = jnp.mean(jnp.square(predictions - targets), axis=(1, 2, 3), where=counts)
  return 10.0 * jnp.log10(data_range**2 / error)


def l1(predictions: Array, targets: Array, *, where: Array | None = None) -> Array:
  """Mean absolute error: f32[N, H, W, C] x 2 -> f32[N]. `where`, errors: as for `psnr`."""
  chex.assert_equal_shape([predictions, targets])
  counts = None if where is None else where[..., None]
  return jnp.mean(jnp.abs(predictions - targets), axis=(1, 2, 3), where=counts)
