"""Structural similarity, one number per image. Gaussian window 11 x 11, sigma 1.5, K .01 and .03.

Images of 8 or 16 bits or any float, with their data range. N images, H x W pixels, C channels.

Sources: Wang et al., IEEE TIP 13(4), 2004; many scales: Wang et al., Asilomar 2003. Two ways to
treat the border are in use and differ by some 1e-3: the mean over all pixels with mirrored borders
(torchmetrics; the default here), or over the pixels whose whole window lies in the image
(`inner=True`; scikit-image with Gaussian weights, and the first paper).
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.types import Array

RADIUS = 5
WINDOW = 2 * RADIUS + 1
_GAUSS = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / 1.5) ** 2)
WEIGHTS = (_GAUSS / _GAUSS.sum()).astype(np.float32)
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first
MINIMUM_MS = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)  # pixels a side


@functools.partial(jax.jit, static_argnames="inner")
def ssim(
  predictions: Array,
  targets: Array,
  *,
  data_range: float,
  where: Array | None = None,
  inner: bool = False,
) -> Array:
  """Mean structural similarity in [-1, 1], 1 for equal images: [N, H, W, C] x 2 -> f32[N].

  Args:
    predictions: the images that are compared.
    targets: what they should look like.
    data_range: highest minus lowest possible intensity: 2 for images in [-1, 1], 255 for 8 bit.
    where: bool[N, H, W], the pixels over whose windows the mean is taken; for a mask give it or its
      complement. A window reaches 5 px beyond its pixel. NaN where no pixel counts.
    inner: leaves out pixels whose window overhangs the image.

  Raises:
    ValueError: images below 11 px a side.
    AssertionError: shapes differ.
  """
  similarity, _ = _maps(predictions, targets, data_range)
  return _mean(similarity, where, inner)


@jax.jit
def ssim_map(predictions: Array, targets: Array, *, data_range: float) -> Array:
  """The similarity of every pixel's window, mirrored borders: [N, H, W, C] x 2 -> the same, f32.

  Arguments and errors as for `ssim`.
  """
  return _maps(predictions, targets, data_range)[0]


@jax.jit
def ms_ssim(predictions: Array, targets: Array, *, data_range: float) -> Array:
  """Similarity over five scales, each half of the one before: [N, H, W, C] x 2 -> f32[N] in [0, 1].

  Contrast and structure of the four finer scales over inner pixels, similarity of the coarsest over
  all, each not below 0 and to the power of its weight: as torchmetrics has it. Arguments as for
  `ssim`.

  Raises:
    ValueError: images below 176 px a side.
    AssertionError: shapes differ.
  """
  if min(predictions.shape[1:3]) < MINIMUM_MS:
    raise ValueError(f"MS-SSIM needs {MINIMUM_MS} px a side, not {predictions.shape[1:3]}")
  x, y = (images.astype(jnp.float32) / data_range for images in (predictions, targets))
  product = jnp.ones(len(x))
  for weight in SCALE_WEIGHTS[:-1]:
    contrast = _mean(_maps(x, y, 1.0)[1], None, inner=True)
    product *= jnp.maximum(contrast, 0.0) ** weight
    x, y = _halved(x), _halved(y)
  similarity = _mean(_maps(x, y, 1.0)[0], None, inner=False)
  return product * jnp.maximum(similarity, 0.0) ** SCALE_WEIGHTS[-1]


def _maps(predictions: Array, targets: Array, data_range: float) -> tuple[Array, Array]:
  """(similarity, its contrast and structure part): f32[N, H, W, C] each."""
  chex.assert_equal_shape([predictions, targets])
  if min(predictions.shape[1:3]) < WINDOW:
    raise ValueError(f"SSIM needs {WINDOW} px a side, not {predictions.shape[1:3]}")
  x, y = (images.astype(jnp.float32) / data_range for images in (predictions, targets))
  # Variances do not feel a shift, and E[x^2] - E[x]^2 loses fewer digits near 0.
  shift = jnp.mean(y, axis=(1, 2, 3), keepdims=True)
  x, y = x - shift, y - shift
  mean_x, mean_y, xx, yy, xy = _blurred((x, y, x * x, y * y, x * y))
  variance_x, variance_y = xx - mean_x * mean_x, yy - mean_y * mean_y
  covariance = xy - mean_x * mean_y
  contrast = (2.0 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)
  mean_x, mean_y = mean_x + shift, mean_y + shift
  luminance = (2.0 * mean_x * mean_y + 0.01**2) / (mean_x * mean_x + mean_y * mean_y + 0.01**2)
  return luminance * contrast, contrast


def _blurred(images: tuple[Array, ...]) -> list[Array]:
  """Gaussian means of each of K arrays [N, H, W, C], borders mirrored."""
  stack = jnp.stack([jnp.moveaxis(image, -1, 1) for image in images])
  pad = (RADIUS, RADIUS)
  stack = jnp.pad(stack, ((0, 0), (0, 0), (0, 0), pad, pad), mode="reflect")
  # The barrier keeps XLA from computing the rows' sums anew for each column.
  rows = jax.lax.optimization_barrier(_weighted(stack, axis=3))
  return [jnp.moveaxis(image, 1, -1) for image in _weighted(rows, axis=4)]


def _weighted(x: Array, *, axis: int) -> Array:
  """Eleven shifted arrays, weighted: faster than a convolution of one channel on every backend."""
  length = x.shape[axis] - 2 * RADIUS
  at = [jax.lax.slice_in_dim(x, k, k + length, axis=axis) for k in range(WINDOW)]
  total = WEIGHTS[RADIUS] * at[RADIUS]
  for k in range(RADIUS):
    total += WEIGHTS[k] * (at[k] + at[-1 - k])
  return total


def _mean(values: Array, where: Array | None, inner: bool) -> Array:
  if inner:
    middle = (slice(None), slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))
    values, where = values[middle], None if where is None else where[middle]
  return jnp.mean(values, axis=(1, 2, 3), where=None if where is None else where[..., None])


def _halved(x: Array) -> Array:
  """Means of 2 x 2; an odd last row or column is left out."""
  n, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
