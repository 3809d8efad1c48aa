"""PSNR and L1 of each image, the contrast that lesions keep, and the PSNR of trivial predictions.

N images, H x W pixels, C channels; 8 or 16 bits, or floats.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.types import Array

# What the PSNR of the paper's Table 2 is above ours: images in [0, 1], peak taken as 255.
PAPER_OFFSET_DB = 20.0 * math.log10(255.0)

USABLE, UNUSABLE = 0.8, 0.5  # median share of the contrast that a latent should, and must, keep


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


def l1(predictions: Array, targets: Array, *, where: Array | None = None) -> Array:
  """Mean absolute error: [N, H, W, C] x 2 -> f32[N]. `where`, errors: as for `psnr`."""
  return _mean(jnp.abs(_difference(predictions, targets)), where)


def _difference(predictions: Array, targets: Array) -> Array:
  """In float32: whole numbers without a sign would wrap around."""
  chex.assert_equal_shape([predictions, targets])
  return jnp.asarray(predictions, jnp.float32) - jnp.asarray(targets, jnp.float32)


def _mean(values: Array, where: Array | None) -> Array:
  return jnp.mean(values, axis=(1, 2, 3), where=None if where is None else where[..., None])


def contrast_kept(
  sources: Array, reconstructions: Array, boxes: Array, *, margin: float = 4.0
) -> tuple[Array, Array]:
  """Contrast of each lesion in the reconstruction over that in the source, on the same pixels.

  A lesion's core is what lies in its box above half of the source's maximum there; the background
  is the mean of a ring of `margin` pixels around the box. Boxes that people draw are loose: the
  mean over a whole box would mostly measure tissue.

  Args:
    sources: f32[N, H, W], lesions brighter than what is around them.
    reconstructions: f32[N, H, W], same intensity scale.
    boxes: f32[N, M, 4], xyxy pixels; NaN rows are padding.
    margin: width of the ring in pixels.

  Returns:
    (kept f32[N, M], diameter_px f32[N, M]): 1 = all contrast kept, 0 = none; diameter is
    2 sqrt(core area / pi) in the source. NaN for padding and for boxes with no contrast to lose.
  """
  height, width = sources.shape[1:]
  rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5

  def within(boxes: Array) -> Array:  # [N, M, 4] -> bool[N, M, H, W]
    x1, y1, x2, y2 = (boxes[..., i, None] for i in range(4))
    in_x = (columns >= x1) & (columns < x2)
    in_y = (rows >= y1) & (rows < y2)
    return in_y[..., :, None] & in_x[..., None, :]

  inside = within(boxes)
  ring = within(boxes + margin * jnp.array([-1.0, -1.0, 1.0, 1.0])) & ~inside
  source, reconstruction = sources[:, None], reconstructions[:, None]

  def mean(values: Array, where: Array) -> Array:
    count = jnp.sum(where, axis=(2, 3))
    return jnp.where(count > 0, jnp.sum(values * where, axis=(2, 3)) / count, jnp.nan)

  around = mean(source, ring)
  peak = jnp.max(jnp.where(inside, source, -jnp.inf), axis=(2, 3))
  core = inside & (source > ((peak + around) / 2)[..., None, None])
  before = mean(source, core) - around
  after = mean(reconstruction, core) - mean(reconstruction, ring)
  area = jnp.sum(core, axis=(2, 3))
  valid = (area > 0) & (before > 0)
  kept = jnp.where(valid, after / jnp.where(valid, before, 1.0), jnp.nan)
  return kept, jnp.where(valid, 2.0 * jnp.sqrt(area / jnp.pi), jnp.nan)


class Floors(NamedTuple):
  """PSNR in dB of each held-out image f32[N] against the mean and the nearest training image."""

  mean_image: np.ndarray
  nearest_image: np.ndarray


def verdict(median: float) -> str:
  """What a median of `contrast_kept` means for a model."""
  if median >= USABLE:
    return "usable"
  if median >= UNUSABLE:
    return "below the goal of 80 %: they come out fainter than they are"
  return "such lesions are lost: train longer, or take a latent of a finer resolution"


def floors(
  training: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
  held_out: Iterable[tuple[np.ndarray, np.ndarray]],
  *,
  data_range: float,
  most_bytes: int = 1 << 29,
) -> Floors:
  """PSNR of the mean training image, and of the nearest one, for each held-out image.

  Both sets are streamed: as many held-out images as `most_bytes` hold are compared with all
  training images, which are read anew for the next ones.

  Args:
    training: batches (images f32[B, H, W, C], weight f32[B], 0 = padding), at each call.
    held_out: batches, same scale.
    data_range: highest minus lowest possible intensity.
    most_bytes: of held-out images in memory.

  Raises:
    ValueError: no training images.
  """
  found = [Floors(np.zeros(0, np.float32), np.zeros(0, np.float32))]
  mean: Array | None = None
  for some in _chunks(held_out, most_bytes):
    flat = jnp.asarray(some)
    nearest = jnp.full(len(flat), jnp.inf)
    total, count = np.zeros(flat.shape[1], np.float64), 0.0
    for images, weight in training():
      others = jnp.asarray(images).reshape(len(images), -1)
      nearest = jnp.minimum(nearest, _nearest(flat, others, weight))
      if mean is None:
        total += np.asarray(others * weight[:, None], np.float64).sum(axis=0)
        count += float(np.sum(weight))
    if mean is None:
      if not count:
        raise ValueError("no training images")
      mean = jnp.asarray(total / count, jnp.float32)
    errors = jnp.mean(jnp.square(flat - mean), axis=1), nearest
    found.append(Floors(*(np.asarray(_decibel(error, data_range)) for error in errors)))
  return Floors(*map(np.concatenate, zip(*found)))


def _chunks(
  batches: Iterable[tuple[np.ndarray, np.ndarray]], most_bytes: int
) -> Iterator[np.ndarray]:
  """f32[n, pixels] of images without padding, of at most so many bytes, one image at least."""
  rows: list[np.ndarray] = []
  for images, weight in batches:
    for row in images.reshape(len(images), -1)[np.asarray(weight) > 0]:
      if rows and (len(rows) + 1) * row.nbytes > most_bytes:
        yield np.stack(rows)
        rows = []
      rows.append(np.array(row))  # a copy: a view keeps its batch in memory
  if rows:
    yield np.stack(rows)


@jax.jit
def _nearest(flat: Array, others: Array, weight: Array) -> Array:
  """Smallest mean squared error to any of the others, f32[N].

  One after another: no cancellation as in |a|^2 - 2ab + |b|^2, and no array of all pairs.
  """

  def error(nearest: Array, other: tuple[Array, Array]) -> tuple[Array, None]:
    image, weight = other
    found = jnp.mean(jnp.square(flat - image), axis=1)
    return jnp.minimum(nearest, jnp.where(weight > 0, found, jnp.inf)), None

  return jax.lax.scan(error, jnp.full(len(flat), jnp.inf), (others, weight))[0]


def _decibel(error: Array, data_range: float) -> Array:
  return 10.0 * jnp.log10(data_range**2 / error)
