"""Denoising diffusion: levels of noise, images under noise, and steps from noise to an image.

N images of any shape; T levels of noise, 0 the least. At level t an image is
signal[t] * image + noise[t] * eps, eps normal with variance 1, and signal^2 + noise^2 = 1.

Sources: Ho, Jain and Abbeel, arXiv 2006.11239; Song, Meng and Ermon, arXiv 2010.02502; Nichol and
Dhariwal, arXiv 2102.09672.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hiresmed_jax.types import Array

SCHEDULES = ("linear", "cosine")
SAMPLERS = ("ancestral", "ddim")
VARIANCES = ("small", "large")
_FIRST, _LAST, _OF = 1e-4, 0.02, 1000  # the linear schedule: variances added at 0 and T - 1, for T
_OFFSET = 0.008  # of the cosine schedule
_MOST = 0.999  # of the variance that a level adds


class Levels(NamedTuple):
  """The two amplitudes of every level."""

  signal: np.ndarray  # f32[T], falling
  noise: np.ndarray  # f32[T], rising


class Step(NamedTuple):
  """One step of sampling, from a level to a lower one; scalars, or f32[S] for S steps."""

  level: np.ndarray  # i32, the level of the images before
  signal: np.ndarray  # amplitudes at that level
  noise: np.ndarray
  image: np.ndarray  # what multiplies the estimated image
  again: np.ndarray  # the noise that is in the images
  fresh: np.ndarray  # new noise


def levels(schedule: str, count: int) -> Levels:
  """The levels of a schedule of `SCHEDULES`, T = `count`.

  "linear" is that of 1,000 levels, scaled so that fewer or more end in as much noise.

  Raises:
    ValueError: unknown schedule.
  """
  left = _left(schedule, count)
  return Levels(*(np.sqrt(x).astype(np.float32) for x in (left, 1.0 - left)))


def noised(images: Array, eps: Array, at: Array, known: Levels) -> Array:
  """Images [N, ...] under noise `eps` of the same shape at the levels i32[N]."""
  signal, noise = (
    jnp.asarray(x)[at].reshape(-1, *(1,) * (images.ndim - 1)) for x in (known.signal, known.noise)
  )
  return signal * images + noise * eps


def steps(
  schedule: str, count: int, *, number: int, sampler: str = "ancestral", variance: str = "small"
) -> Step:
  """The `number` steps of a sampler of `SAMPLERS` through a schedule of `count` levels.

  They begin at level T - 1, are spread evenly, and end in the image. "ancestral" adds new noise, as
  much as `variance` says: "small" is the variance of the posterior, "large" that of the level.
  "ddim" adds none.

  Returns:
    f32[S] each, in the order of sampling.

  Raises:
    ValueError: unknown words, or more steps than levels.
  """
  if sampler not in SAMPLERS or variance not in VARIANCES:
    raise ValueError(f"{sampler}, {variance}: use one of {SAMPLERS} and one of {VARIANCES}")
  if not 1 <= number <= count:
    raise ValueError(f"{number} steps of {count} levels")
  level = np.rint(np.linspace(count - 1, 0, number)).astype(np.int32)
  left = _left(schedule, count)[level]
  then = np.append(left[1:], 1.0)  # after the step
  added = 1.0 - left / then
  fresh = np.sqrt(added * (1.0 - then) / (1.0 - left)) * (sampler == "ancestral")
  again = np.sqrt(1.0 - then - fresh**2)
  if sampler == "ancestral" and variance == "large":
    fresh = np.sqrt(added) * (then < 1.0)
  parts = np.sqrt(left), np.sqrt(1.0 - left), np.sqrt(then), again, fresh
  return Step(level, *(part.astype(np.float32) for part in parts))


def estimate(noisy: Array, eps: Array, signal: ArrayLike, noise: ArrayLike) -> Array:
  """The image in [-1, 1] under the estimated noise `eps`."""
  return jnp.clip((noisy - noise * eps) / signal, -1.0, 1.0)


def less_noise(noisy: Array, eps: Array, fresh: Array, step: Step) -> Array:
  """Images after one step: `noisy` [N, ...], its estimated noise, and new noise of variance 1."""
  image = estimate(noisy, eps, step.signal, step.noise)
  eps = (noisy - step.signal * image) / step.noise  # of the clipped image
  return step.image * image + step.again * eps + step.fresh * fresh


def _left(schedule: str, count: int) -> np.ndarray:
  """Share of the image's variance that is left at each level ("alpha bar"): f64[T]."""
  if schedule == "linear":
    scale = _OF / count
    added = np.linspace(scale * _FIRST, scale * _LAST, count)
  elif schedule == "cosine":
    share = np.arange(count + 1) / count
    left = np.cos((share + _OFFSET) / (1.0 + _OFFSET) * np.pi / 2.0) ** 2
    added = 1.0 - left[1:] / left[:-1]
  else:
    raise ValueError(f"unknown schedule {schedule!r}: use one of {SCHEDULES}")
  return np.cumprod(1.0 - np.minimum(added, _MOST))
