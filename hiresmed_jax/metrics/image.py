"""Image quality, one number per image. N images, H x W pixels, C channels."""

import jax.numpy as jnp

from hiresmed_jax.types import Array


def psnr(predictions: Array, targets: Array, *, data_range: float) -> Array:
  """Peak signal-to-noise ratio in dB. f32[N, H, W, C] x 2 -> f32[N]; infinite for equal images.

  Args:
    data_range: highest minus lowest possible intensity: 2 for images in [-1, 1], 255 for 8 bit.

  Source: 10 log10(data_range^2 / mean squared error), the error over all pixels and channels.
  """
  error = jnp.mean(jnp.square(predictions - targets), axis=(1, 2, 3))
  return 10.0 * jnp.log10(data_range**2 / error)
