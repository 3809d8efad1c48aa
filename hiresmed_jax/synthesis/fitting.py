"""A lesion brought to the size asked for, in the pixels of a canvas.

S side of a window, C channels of the canvas.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from hiresmed_jax.data.transforms import with_channels
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference.canvas import Canvas
from hiresmed_jax.lesions.patch import (
  LARGEST_SCALE,
  MASK_LEVEL,
  SMALLEST_SCALE,
  LesionPatch,
  NoLesion,
  diameter,
  long_side,
  one_piece,
)
from hiresmed_jax.ops import insertion
from hiresmed_jax.synthesis.request import Diameter

_SIDES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # of windows: few programs
_AROUND = 12  # pixels around a lesion in which noise and level are measured
_TRIES = 6  # to meet a diameter
_DRAWS = 20  # to find a lesion whose size in mm fits the background's pixels
_DEEPER = 4  # times the range of 8 bits


class Source(Protocol):
  """What gives lesions: a bank, copies, a formula."""

  @property
  def native_px(self) -> np.ndarray:
    """f32[N], diameters of the training lesions, which are used at 0.7 to 1.4 times their size."""

  def draw(self, rng: np.random.Generator, diameter_px: float | None = None) -> LesionPatch:
    """A lesion of this diameter in native pixels; NoLesion when there is none."""


class Fitted(NamedTuple):
  """A lesion ready for insertion.

  Attributes:
    values, surround: f32[S, S, C], value units and contrast of the canvas.
    alpha: f32[S, S].
    mask: bool[S, S], the instance mask.
    asked_px: diameter asked for, canvas pixels; NaN: none.
    target_px: diameter that it was brought to, canvas pixels.
    ceiling: where its values are clipped, as in its donor; inf where some lie above.
    patch: where it comes from.
  """

  values: np.ndarray
  surround: np.ndarray
  alpha: np.ndarray
  mask: np.ndarray
  asked_px: float
  target_px: float
  ceiling: float
  patch: LesionPatch


def asked_px(asked: Diameter | None, rng: np.random.Generator, canvas: Canvas) -> float | None:
  """A diameter of the range that is asked for, in canvas pixels; None where none is."""
  if asked is None:
    return None
  value = float(rng.uniform(asked.low, asked.high))
  return value if asked.unit == "px" else value / canvas.mean_spacing_mm


def draw(
  source: Source, rng: np.random.Generator, canvas: Canvas, asked_px: float | None
) -> Fitted:
  """Draws a lesion and fits it to a canvas.

  Args:
    source: of lesions.
    rng: equal states give equal lesions.
    canvas: where it will be.
    asked_px: diameter in canvas pixels, met within 5 %, half a pixel below 10 px; None: the size
      that it has in mm, where both spacings are known, else in native pixels.

  Raises:
    NoLesion: none of that diameter, or the source has none.
    UserError: a lesion that is too large.
  """
  if asked_px is not None:
    patch = source.draw(rng, asked_px / canvas.mean_scale)
    return _fitted(patch, canvas, asked_px, asked_px)
  for _ in range(_DRAWS):
    patch = source.draw(rng, None)
    enlarged = _spacing_ratio(patch, canvas)
    if SMALLEST_SCALE <= enlarged <= LARGEST_SCALE:
      return _fitted(patch, canvas, patch.diameter_px * enlarged * canvas.mean_scale, None)
  # Pixels of another size: a donor that has about as many of them gets the size in mm of another.
  native = source.native_px
  sizes = native * np.float32(enlarged)
  reached = (sizes >= SMALLEST_SCALE * native.min()) & (sizes <= LARGEST_SCALE * native.max())
  if reached.any():
    wanted = float(rng.choice(sizes[reached]))
    return _fitted(source.draw(rng, wanted), canvas, wanted * canvas.mean_scale, None)
  raise NoLesion(
    "no lesion of that diameter: the pixels of this background and those of the lesions' images "
    f"differ by more than {SMALLEST_SCALE} to {LARGEST_SCALE} times",
    "--diameter-px asks for a size that can be made",
  )


def require_diameter(asked: Diameter, native_px: np.ndarray, sides: np.ndarray) -> str:
  """Refuses a range of diameters that holds some which no lesion has on any background.

  Args:
    asked: in the unit of the sides.
    native_px: f32[N], see `Source`.
    sides: f64[M], of a pixel of the record of each background: in mm, or in pixels of the output.

  Returns:
    What can be made, in words.

  Raises:
    UserError: a side that is not known, or diameters that cannot be made.
  """
  if unknown := int(np.count_nonzero(~np.isfinite(sides))):
    raise UserError(
      f"--diameter-mm: {unknown} of {len(sides)} images have no known pixel spacing; use "
      "--diameter-px, or prepare the images with --spacing-mm"
    )
  natives = np.unique(np.outer(np.unique(sides), native_px.astype(np.float64)))
  ranges: list[list[float]] = []
  for low, high in zip(natives * SMALLEST_SCALE, natives * LARGEST_SCALE):
    if ranges and low <= ranges[-1][1]:
      ranges[-1][1] = float(high)
    else:
      ranges.append([float(low), float(high)])
  # Rounded inwards: what is told can be asked for.
  told = " and ".join(f"{math.ceil(a * 100) / 100:g} to {math.floor(b * 100) / 100:g}"
                      for a, b in ranges)  # fmt: skip
  told = f"diameters of {told} {asked.unit} can be made"
  if not any(low <= asked.low and asked.high <= high for low, high in ranges):
    raise UserError(
      f"--diameter-{asked.unit} {asked.low:g}-{asked.high:g}: {told}, as a lesion is used at "
      f"{SMALLEST_SCALE} to {LARGEST_SCALE} times its size"
    )
  return told


def sham(patch: LesionPatch, canvas: Canvas, target_px: float) -> Fitted:
  """Lesion-free content with a lesion's occupancy, fitted as a lesion of this diameter is."""
  return _fitted(patch, canvas, target_px, None)


def unit(physics: str, value_range: tuple[float, float]) -> float:
  """What contrasts are compared in: radiographs have no unit in common but their value range."""
  return value_range[1] - value_range[0] if physics == "projection" else 1.0


def require_one_scale(physics: Iterable[str], ranges: Iterable[tuple[float, float]]) -> None:
  """Refuses images of 8 bits beside deeper ones, but radiographs, whose ranges are scaled.

  Args:
    physics: of the lesions.
    ranges: value ranges of lesions and backgrounds.

  Raises:
    UserError: a lesion of one of them would be black or white in another.
  """
  ranges = list(ranges)
  most = max((high for _, high in ranges), default=0.0)
  if (0.0, 255.0) in ranges and most > _DEEPER * 255 and set(physics) - {"projection"}:
    raise UserError(
      f"some images have values from 0 to 255 and others up to {most:g}, so that a lesion of one "
      "would be black or white in another: prepare images of one depth alone, or say what they are "
      "with prepare --physics projection"
    )


def _spacing_ratio(patch: LesionPatch, canvas: Canvas) -> float:
  """Pixels of the background's record per pixel of the donor for equal mm; 1 where not known."""
  donor = float(np.sqrt(patch.spacing_mm[0] * patch.spacing_mm[1]))
  here = canvas.mean_spacing_mm * canvas.mean_scale
  ratio = donor / here if here > 0 else np.nan
  return float(ratio) if np.isfinite(ratio) and ratio > 0 else 1.0


def _fitted(patch: LesionPatch, canvas: Canvas, target_px: float, asked_px: float | None) -> Fitted:
  values, surround = (
    with_channels(image, canvas.values.shape[-1]) for image in (patch.values, patch.surround)
  )
  alpha = patch.alpha
  scale = tuple(target_px / patch.diameter_px / canvas.mean_scale * side for side in canvas.scale)
  if not _meets(patch.diameter_px, target_px) or not np.allclose(scale, 1.0, atol=0.02):
    values, surround, alpha = _resized(values, surround, alpha, scale, target_px)
  alpha = one_piece(alpha)
  if not (alpha >= MASK_LEVEL).any():
    raise NoLesion("a lesion beside the middle of its window: nothing of it is inserted")
  if patch.physics == "projection":
    # The donor's shown range becomes that of the canvas.
    low, first = canvas.value_range[0], patch.value_range[0]
    here, there = (unit(patch.physics, ends) for ends in (canvas.value_range, patch.value_range))
    gain = np.float32(here / there)
    values, surround = (
      (image - np.float32(first)) * gain + np.float32(low) for image in (values, surround)
    )
    # At its native scale a lesion is as thick as it is wide; the contrast is scaled by the rest.
    thicker = target_px / (patch.diameter_px * _spacing_ratio(patch, canvas) * canvas.mean_scale)
    values = surround + np.float32(thicker) * (values - surround)
  low, high = canvas.value_range if patch.physics == "projection" else patch.value_range
  rounding = 1e-5 * (high - low)
  return Fitted(
    values=values,
    surround=surround,
    alpha=alpha,
    mask=alpha >= MASK_LEVEL,
    asked_px=float("nan") if asked_px is None else asked_px,
    target_px=target_px,
    ceiling=high if values.max() <= high + rounding else np.inf,
    patch=patch,
  )


def _meets(diameter_px: float, target_px: float) -> bool:
  """Nine tenths of the tolerance that `draw` promises."""
  return abs(diameter_px - target_px) <= 0.9 * (0.5 if target_px < 10 else 0.05 * target_px)


def _resized(
  values: np.ndarray,
  surround: np.ndarray,
  alpha: np.ndarray,
  scale: tuple[float, ...],
  target_px: float,
) -> tuple[np.ndarray, ...]:
  """The three resampled until the mask has its diameter."""
  factor, tried = 1.0, []
  side = _side(long_side(alpha >= MASK_LEVEL) * max(scale))
  for _ in range(_TRIES):
    scales = np.asarray(scale, np.float32) * np.float32(factor)
    made = [np.asarray(a) for a in _resample(values, surround, alpha, scales, side=side)]
    # Cubic interpolation overshoots at the edge of a bright lesion.
    made[:2] = [np.clip(a, b.min(), b.max()) for a, b in zip(made, (values, surround))]
    found_px = diameter(one_piece(made[2]) >= MASK_LEVEL)
    tried.append((abs(found_px - target_px), made))
    if tried[-1][0] <= 0.02 * target_px:
      break
    # The area of a small mask changes in steps: a whole correction may jump over one.
    factor *= (target_px / found_px) ** 0.7 if found_px else 1.15
  error, made = min(tried, key=lambda one: one[0])
  if not _meets(target_px - error, target_px):
    raise NoLesion(
      f"no lesion of that diameter: {target_px:.3g} px of the output are too few for its shape"
    )
  return tuple(made)


@functools.partial(jax.jit, static_argnames="side")
def _resample(values: Any, surround: Any, alpha: Any, scale: Any, *, side: int) -> Any:
  return insertion.resample(
    values, surround, alpha, scale=(scale[0], scale[1]), shift_yx=(0.0, 0.0), side=side
  )


def _side(length: float) -> int:
  """The window for a lesion of this length."""
  need = length * 1.2 + 2 * _AROUND
  for side in _SIDES:
    if side >= need:
      return side
  raise UserError(f"a lesion of {length:.0f} px is larger than this program can insert")
