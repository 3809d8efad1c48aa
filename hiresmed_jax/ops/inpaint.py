"""Taking lesions out of an image: the surroundings go on smoothly, with their own kind of noise.

The smooth part is a thin plate: it bends as little as it can while it follows the known pixels, and
follows them only down to some 10 px of wavelength, so that noise at the hole's edge does not spread
into it. A constant and a linear ramp are restored as they were. The finer part is
Gaussian noise of the surroundings' level and correlation that joins them without a seam.

H rows, W columns, C channels; any units.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from hiresmed_jax.ops.insertion_parts import square_dilate
from hiresmed_jax.types import Array

_STIFFNESS = 5.0  # px^4: waves shorter than 2 pi 5^(1/4) = 9.4 px are noise
_MARGIN_PX = 12  # what is looked at around a hole
_SIDES = (32, 48, 64, 96, 128)  # of windows: few, as each is a program
_RANGE = (0.03, 0.97)  # of the values near a hole: what fills it stays within
_NEAR_PX = 8  # of it, whose noise and range count


def inpaint(canvas: np.ndarray, mask: np.ndarray, key: Array | None = None) -> np.ndarray:
  """Replaces the masked pixels of an image, one window for each connected part of the mask.

  Args:
    canvas: f32[H, W, C].
    mask: bool[H, W].
    key: of the noise; None leaves it out: what remains is the estimated local background.

  Returns:
    f32[H, W, C], a new array; the same bytes for the same key. Unmasked pixels are unchanged.

  Raises:
    ValueError: shapes do not fit, or all pixels around a part are masked.
  """
  if canvas.ndim != 3 or mask.shape != canvas.shape[:2]:
    raise ValueError(f"[H, W, C] and [H, W] wanted, not {canvas.shape} and {mask.shape}")
  out = np.array(canvas, np.float32)
  parts, _ = scipy.ndimage.label(mask, np.ones((3, 3)))
  for index, box in enumerate(scipy.ndimage.find_objects(parts)):
    window = _window(box, mask.shape)
    if mask[window].all():
      raise ValueError("nothing is known around a masked part")
    part_key = None if key is None else jax.random.fold_in(key, index)
    filled = np.asarray(inpaint_window(out[window], mask[window], part_key))
    out[window] = np.where((parts[window] == index + 1)[..., None], filled, out[window])
  return out


@jax.jit
def inpaint_window(window: Array, mask: Array, key: Array | None = None) -> Array:
  """The same for one window, on the device. f32[H, W, C], bool[H, W] -> f32[H, W, C]."""
  smooth = continuation(window, mask)
  near = square_dilate(mask, _NEAR_PX) & ~mask
  shown = jnp.where(near[..., None], window, jnp.nan)
  # Beside a bone a plate overshoots the values around it.
  bounded = jnp.clip(smooth, *jnp.nanquantile(shown, jnp.array(_RANGE), axis=(0, 1)))
  # Of white noise, the plate follows the long waves and leaves this share.
  fine = continued((window - smooth) / _left_over(*mask.shape), mask, near, key)
  return jnp.where(mask[..., None], bounded + fine, window)


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
  rim = (square_dilate(mask, _RIM_PX) & ~mask)[..., None]

  def filtered(field: Array, response: Array) -> Array:
    waves = jnp.fft.rfft2(field, axes=(0, 1)) * response
    return jnp.fft.irfft2(waves, s=mask.shape, axes=(0, 1))

  power = jnp.square(jnp.abs(spectrum))
  variance = filtered(_impulse(mask.shape), power)[0, 0]

  def operator(weights: Array) -> Array:
    return jnp.where(rim, filtered(weights, power), 0.0) + _NUGGET * variance * weights

  drawn = jnp.zeros_like(detail)
  if key is not None:
    # One field for all channels: the grain of a grey image in three channels is grey.
    drawn = filtered(jax.random.normal(key, (*mask.shape, 1)), spectrum)
  missing = jnp.where(rim, quiet - drawn, 0.0)
  weights, _ = jax.scipy.sparse.linalg.cg(operator, missing, tol=1e-3, maxiter=_STEPS)
  return drawn + filtered(weights, power)


def _quiet(detail: Array, near: Array) -> Array:
  """Detail without mean and without edges."""
  where = near[..., None]
  spread = 1.4826 * jnp.nanmedian(jnp.where(where, jnp.abs(detail), jnp.nan), axis=(0, 1))
  clipped = jnp.clip(detail, -_LOUDEST * spread, _LOUDEST * spread)
  count = jnp.maximum(jnp.sum(near), 1)
  return jnp.nan_to_num(clipped - jnp.sum(clipped, (0, 1), where=where) / count)


def _impulse(shape: tuple[int, ...]) -> Array:
  return jnp.zeros((*shape, 1)).at[0, 0].set(1.0)
