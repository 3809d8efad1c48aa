"""Taking lesions out of an image: the surroundings go on smoothly, with their own kind of noise.

The smooth part is a thin plate: it bends as little as it can while it follows the known pixels, and
follows them only down to some 10 px of wavelength, so that noise at the hole's edge does not spread
into it. A constant and a linear ramp are restored as they were. The finer part is real detail of
a like place of the image, or Gaussian noise of the surroundings' level and correlation; kriging
joins it to them without a seam.

H rows, W columns, C channels; any units.
"""

import functools
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from hiresmed_jax.ops import grain
from hiresmed_jax.ops.insertion_parts import square_dilate
from hiresmed_jax.types import Array

_STIFFNESS = 5.0  # px^4: waves shorter than 2 pi 5^(1/4) = 9.4 px are noise
_MARGIN_PX = 12  # what is looked at around a hole
_SIDES = (32, 48, 64, 96, 128)  # of windows: few, as each is a program
_RANGE = (0.03, 0.97)  # of the values near a hole: what fills it stays within
_TINY, _HUGE = 1e-5, 1e7  # spreads of images with which float32 computes as with any other
_NEAR_PX = 8  # of it, whose noise and range count


class NothingKnown(ValueError):
  """No pixel around a masked part is known."""


def inpaint(canvas: np.ndarray, mask: np.ndarray, key: Array | None = None) -> np.ndarray:
  """Replaces the masked pixels of an image, one window for each connected part of the mask.

  The fine detail is copied from a place of the image that is like the surroundings of the hole, see
  `grain.places`. Where there is none, as in a small image, it is Gaussian noise.

  Args:
    canvas: f32[H, W, C].
    mask: bool[H, W].
    key: draws one of the best places, or the noise; None leaves the detail out: what remains is the
      estimated local background.

  Returns:
    f32[H, W, C], a new array; the same bytes for the same key. Unmasked pixels are unchanged.

  Raises:
    NothingKnown: all pixels around a part are masked.
    ValueError: shapes do not fit.
  """
  mask = np.asarray(mask, bool)
  if canvas.ndim != 3 or mask.shape != canvas.shape[:2]:
    raise ValueError(f"[H, W, C] and [H, W] wanted, not {canvas.shape} and {mask.shape}")
  out = np.array(canvas, np.float32)
  out[mask] = np.nan_to_num(out[mask], nan=0.0, posinf=0.0, neginf=0.0)  # they are not looked at
  parts, count = scipy.ndimage.label(mask, np.ones((3, 3)))
  if not count:
    return out
  if mask.all():
    raise NothingKnown("nothing is known around a masked part")
  known = (~mask).astype(np.uint8)
  spread = cv2.meanStdDev(np.ascontiguousarray(out[..., 0]), mask=known)[1].item()
  if 0 < spread < np.inf and not _TINY < spread < _HUGE:
    # By a power of two, which changes no digit.
    unit = np.float32(2.0 ** np.clip(np.round(np.log2(spread)), -126, 127))
    return np.where(mask[..., None], inpaint(out / unit, mask, key) * unit, out)
  search, words = None, []
  if key is not None:
    search, words = grain.searched(out, mask), np.asarray(jax.random.key_data(key)).tolist()
  for index, box in enumerate(scipy.ndimage.find_objects(parts)):
    window = _window(box, mask.shape)
    if mask[window].all():
      raise NothingKnown("nothing is known around a masked part")
    part_key, like = None, None
    shifts: Any = [] if search is None else grain.places(search, mask, box, window)
    if len(shifts):
      shift = shifts[np.random.default_rng([*words, index]).integers(len(shifts))]
      rows, columns = (slice(s.start + d, s.stop + d) for s, d in zip(window, shift, strict=True))
      like = out[rows, columns], mask[rows, columns]
    elif key is not None:
      part_key = jax.random.fold_in(key, index)
    filled = np.asarray(inpaint_window(out[window], mask[window], part_key, like))
    out[window] = np.where((parts[window] == index + 1)[..., None], filled, out[window])
  return out


@jax.jit
def inpaint_window(
  window: Array, mask: Array, key: Array | None = None, like: tuple[Array, Array] | None = None
) -> Array:
  """The same for one window, on the device.

  Args:
    window: f32[H, W, C].
    mask: bool[H, W].
    key: of Gaussian noise.
    like: another place, f32[H, W, C], whose pixels in place of the hole give the detail, and
      bool[H, W], which of its pixels are not to be used, none within 5 px of the hole; then no
      noise is drawn.

  Returns:
    f32[H, W, C].
  """
  near = square_dilate(mask, _NEAR_PX) & ~mask
  shown = jnp.where(near[..., None], window, jnp.nan)
  # Beside a bone a plate overshoots the values around it.
  bounds = jnp.nanquantile(shown, jnp.array(_RANGE), axis=(0, 1))
  if like is None:
    smooth = continuation(window, mask)
    # Of white noise, the plate follows the long waves and leaves this share.
    fine = continued((window - smooth) / _left_over(*mask.shape), mask, near, key)
    return jnp.where(mask[..., None], jnp.clip(smooth, *bounds) + fine, window)
  there, unknown = like
  level = jnp.mean(there, axis=(0, 1), where=mask[..., None])
  there = jnp.where(unknown[..., None], level, there)
  # A plate is linear: that of the difference is this window's less the other's.
  smooth = continuation(window - there, mask | unknown)
  rough = _rough(there)
  left = joined(window - there - smooth, rough, mask, near & ~unknown)
  bounded = jnp.clip(smooth + there - rough, *bounds)
  return jnp.where(mask[..., None], bounded + rough + left, window)


def _window(box: tuple[slice, slice], shape: tuple[int, int]) -> tuple[slice, slice]:
  """A square window of one of few sides around a box, moved into the image."""
  need = max(s.stop - s.start for s in box) + 2 * _MARGIN_PX
  side = next((s for s in _SIDES if s >= need), -(-need // 64) * 64)
  slices = []
  for part, size in zip(box, shape, strict=True):
    start = (part.start + part.stop - side) // 2
    start = max(0, min(start, size - side))
    slices.append(slice(start, min(size, start + side)))
  return slices[0], slices[1]


def continuation(window: Array, mask: Array) -> Array:
  """The thin plate that follows the pixels outside bool[H, W]. f32[H, W, C] -> the same."""
  known = (~mask).astype(jnp.float32)[..., None]
  count = jnp.maximum(jnp.sum(known), 1.0)
  level = jnp.sum(known * window, axis=(0, 1)) / count
  eigen, (rows, columns) = _modes(*window.shape[:2])
  shrink = 1 / (count / known.size + _STIFFNESS * jnp.asarray(eigen)[..., None])
  high = jax.lax.Precision.HIGHEST

  def operator(f: Array) -> Array:
    return known * f + _STIFFNESS * _unbend(f)

  def precondition(f: Array) -> Array:
    waves = jnp.einsum("iy,yxc,jx->ijc", rows, f, columns, precision=high)
    return jnp.einsum("iy,ijc,jx->yxc", rows, waves * shrink, columns, precision=high)

  target = known * (window - level)
  plate, _ = jax.scipy.sparse.linalg.cg(operator, target, tol=1e-6, maxiter=300, M=precondition)
  return plate + level


def _unbend(f: Array) -> Array:
  """Gradient of half the bending energy sum f_yy^2 + 2 f_xy^2 + f_xx^2, free at the border."""
  return jax.grad(lambda g: 0.5 * _bending(g))(f)


def _bending(f: Array) -> Array:
  straight = sum(jnp.sum(jnp.square(jnp.diff(f, 2, axis=axis))) for axis in (0, 1))
  return straight + 2 * jnp.sum(jnp.square(jnp.diff(jnp.diff(f, axis=0), axis=1)))


@functools.lru_cache
def _modes(height: int, width: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
  """Bending of cosine waves f32[H, W]; the waves, [H, H] and [W, W]: almost its eigenvectors."""
  cosines, bends = [], []
  for size in (height, width):
    k = np.arange(size)
    waves = np.cos(np.pi * np.outer(k, k + 0.5) / size) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    cosines.append(waves.astype(np.float32))
    bends.append(2 - 2 * np.cos(np.pi * k / size))
  eigen = np.square(bends[0][:, None] + bends[1][None, :])
  return eigen.astype(np.float32), (cosines[0], cosines[1])


def _left_over(height: int, width: int) -> float:
  """Of white noise, the standard deviation that a thin plate leaves over."""
  bent = _STIFFNESS * _modes(height, width)[0].astype(np.float64)
  return float(np.sqrt(np.mean(np.square(bent / (1 + bent)))))


_RIM_PX = 3
_LOUDEST = 3.0  # standard deviations; what is louder is an edge, and no edge is continued
_NUGGET = 0.01  # share of the variance that is not expected to be continued
_STEPS = 40
_LAG_PX = 6.0  # pixels farther apart than about this are not correlated


def continued(detail: Array, mask: Array, near: Array, key: Array | None) -> Array:
  """Detail for the pixels of a hole.

  Args:
    detail: f32[H, W, C], the image less its smooth part; not read inside the hole.
    mask: bool[H, W], the hole.
    near: bool[H, W], the pixels from which level and correlation are taken, outside the hole.
    key: of the noise; None draws none, which leaves what the rim predicts.

  Returns:
    f32[H, W, C], of use inside the hole.
  """
  quiet = _quiet(detail, near)
  spectrum = jnp.fft.rfft2(jnp.where(near[..., None], quiet, 0.0), axes=(0, 1))
  spectrum /= jnp.sqrt(jnp.maximum(jnp.sum(near), 1).astype(jnp.float32))
  drawn = jnp.zeros_like(detail)
  if key is not None:
    # One field for all channels: the grain of a grey image in three channels is grey.
    drawn = _filtered(jax.random.normal(key, (*mask.shape, 1)), spectrum)
  return drawn + _predicted(quiet - drawn, jnp.square(jnp.abs(spectrum)), mask)


def joined(left: Array, rough: Array, mask: Array, near: Array) -> Array:
  """What makes detail of another place go on from the pixels around a hole without a seam.

  Args:
    left: f32[H, W, C], of the difference of both places, what is not smooth; not read in the hole.
    rough: f32[H, W, C], of the other place, what is not smooth: it gives the correlation.
    mask, near: as of `continued`.

  Returns:
    f32[H, W, C], of use inside the hole.
  """
  whole = near | mask
  quiet = jnp.where(whole[..., None], _quiet(rough, whole), 0.0)
  power = jnp.square(jnp.abs(jnp.fft.rfft2(quiet, axes=(0, 1))))
  rows, columns = (np.square(np.fft.fftfreq(n, 1 / n)) for n in mask.shape)
  taper = np.exp(-0.5 * (rows[:, None] + columns) / _LAG_PX**2).astype(np.float32)
  covariance = jnp.fft.irfft2(power, s=mask.shape, axes=(0, 1)) * taper[..., None]
  smooth_power = jnp.maximum(jnp.fft.rfft2(covariance, axes=(0, 1)).real, 0.0)
  return _predicted(left - jnp.mean(left, (0, 1), where=near[..., None]), smooth_power, mask)


def _rough(image: Array) -> Array:
  """What a plate leaves over of an image without a hole. f32[H, W, C] -> the same."""
  eigen, (rows, columns) = _modes(*image.shape[:2])
  high, share = jax.lax.Precision.HIGHEST, _STIFFNESS * eigen / (1 + _STIFFNESS * eigen)
  waves = jnp.einsum("iy,yxc,jx->ijc", rows, image, columns, precision=high) * share[..., None]
  return jnp.einsum("iy,ijc,jx->yxc", rows, waves, columns, precision=high)


def _predicted(missing: Array, power: Array, mask: Array) -> Array:
  """What the pixels f32[H, W, C] at a hole's rim foretell of those inside, by kriging.

  The spectrum f32[H, W // 2 + 1, C] is that of their correlation.
  """
  rim = (square_dilate(mask, _RIM_PX) & ~mask)[..., None]
  variance = _filtered(_impulse(mask.shape), power)[0, 0]
  variance = jnp.where(variance > 0, variance, 1.0)  # a flat place foretells nothing

  def operator(weights: Array) -> Array:
    return jnp.where(rim, _filtered(weights, power), 0.0) + _NUGGET * variance * weights

  known = jnp.where(rim, missing, 0.0)
  weights, _ = jax.scipy.sparse.linalg.cg(operator, known, tol=1e-3, maxiter=_STEPS)
  return _filtered(weights, power)


def _filtered(field: Array, response: Array) -> Array:
  waves = jnp.fft.rfft2(field, axes=(0, 1)) * response
  return jnp.fft.irfft2(waves, s=field.shape[:2], axes=(0, 1))


def _quiet(detail: Array, near: Array) -> Array:
  """Detail without mean and without edges."""
  where = near[..., None]
  spread = 1.4826 * jnp.nanmedian(jnp.where(where, jnp.abs(detail), jnp.nan), axis=(0, 1))
  clipped = jnp.clip(detail, -_LOUDEST * spread, _LOUDEST * spread)
  count = jnp.maximum(jnp.sum(near), 1)
  return jnp.nan_to_num(clipped - jnp.sum(clipped, (0, 1), where=where) / count)


def _impulse(shape: tuple[int, ...]) -> Array:
  return jnp.zeros((*shape, 1)).at[0, 0].set(1.0)
