"""What a reconstruction number must beat: the mean training image and the nearest one.

Both know nothing of the image at hand. A PSNR below them says nothing about a model.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.types import Array


class Floors(NamedTuple):
  """PSNR in dB of each held-out image, f32[N], against what knows nothing of it."""

  mean_image: Array
  nearest_image: Array


def floors(
  training: Iterable[tuple[Array, Array]], held_out: Array, *, data_range: float
) -> Floors:
  """Streams the training images once, in bounded memory.

  Args:
    training: (images f32[B, H, W, C], weight f32[B], 0 = padding) batches.
    held_out: f32[N, H, W, C], same scale.
    data_range: highest minus lowest possible intensity.

  Raises:
    ValueError: no training images.
  """
  flat = held_out.reshape(len(held_out), -1)
  total = np.zeros(flat.shape[1], np.float64)
  count = 0.0
  nearest = jnp.full(len(held_out), jnp.inf)
  for images, weight in training:
    others = jnp.asarray(images).reshape(len(images), -1)
    nearest = jnp.minimum(nearest, _nearest(flat, others, weight))
    total += np.asarray(others * weight[:, None], np.float64).sum(axis=0)
    count += float(np.sum(weight))
  if not count:
    raise ValueError("no training images")
  mean_error = jnp.mean(jnp.square(flat - jnp.asarray(total / count, jnp.float32)), axis=1)
  return Floors(_decibel(mean_error, data_range), _decibel(nearest, data_range))


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
