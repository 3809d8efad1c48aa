"""Copies: real lesions of the training split, as they are, or deformed to another size.

This is the simplest source of lesions: the baseline for those that are learned. At its own size a
lesion keeps its pixels: interpolation dulls its grain and its clipped plateau, by which a judge
told warped stones from real ones more easily (benchmarks/README.md).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from hiresmed_jax.lesions.patch import (
  MASK_LEVEL,
  LesionPatch,
  centroid,
  diameter,
  diameters,
  fitting,
  long_side,
  one_piece,
  side_for,
)

_TURN_DEG = 15.0
_BEND = 0.06  # standard deviation of the elastic shift, in diameters
_BEND_SMOOTHNESS = 0.5  # Gaussian sigma that smooths the shift, in diameters
_TRIES = 8  # at reaching a diameter; each costs two interpolations of a small window


@dataclasses.dataclass(frozen=True)
class Copies:
  """Draws copies of real lesions.

  Attributes:
    patches: the lesions of the training split (`inference.survey`).
    flip_columns: exchange left and right half of the time. The body is not symmetric: only for
      datasets that show both sides.
    flip_rows: exchange up and down half of the time.
  """

  patches: Sequence[LesionPatch]
  flip_columns: bool = False
  flip_rows: bool = False

  @property
  def native_px(self) -> np.ndarray:
    """f32[N], diameters of the lesions that are drawn from."""
    return diameters(self.patches)

  def draw(self, rng: np.random.Generator, diameter_px: float | None = None) -> LesionPatch:
    """A real lesion: kind "copy".

    Args:
      rng: equal states give equal bytes.
      diameter_px: wanted; reached within 5 %, or half a pixel below 10 px, by scaling, with a
        slight rotation and deformation; None: the donor's own, with its pixels but for the flips.

    Raises:
      UserError: no lesion of that diameter within the limits of scale.
    """
    patch = self.patches[int(rng.choice(fitting(diameters(self.patches), diameter_px)))]
    flips = (self.flip_rows and rng.random() < 0.5, self.flip_columns and rng.random() < 0.5)
    if diameter_px is None:
      return mirrored(patch, flips)
    turn = np.deg2rad(rng.uniform(-_TURN_DEG, _TURN_DEG))
    bend = _smooth_field(rng, patch.alpha.shape[0], patch.diameter_px)
    return scaled(patch, float(diameter_px), turn=float(turn), flips=flips, bend=bend)


def mirrored(patch: LesionPatch, flips: tuple[bool, bool]) -> LesionPatch:
  """A patch whose rows, columns or both are in the other order: `flips` is (rows, columns)."""
  axes = tuple(axis for axis, flipped in enumerate(flips) if flipped)
  values, surround, alpha = (
    np.ascontiguousarray(np.flip(image, axes))
    for image in (patch.values, patch.surround, patch.alpha)
  )
  return patch._replace(values=values, surround=surround, alpha=alpha)


def scaled(
  patch: LesionPatch,
  diameter_px: float,
  *,
  turn: float = 0.0,
  flips: tuple[bool, bool] = (False, False),
  bend: np.ndarray | None = None,
) -> LesionPatch:
  """Resizes a patch so that its mask has a diameter and its centroid is the window's centre.

  A lesion becomes thicker as it becomes wider: in a projection its contrast is scaled, too.

  Args:
    patch: any lesion.
    diameter_px: of the result.
    turn: radians, counter-clockwise on the screen.
    flips: (rows, columns).
    bend: f32[2, S, S], shift (rows, columns) of each pixel of the donor's window, in pixels.

  Raises:
    ValueError: the patch has no mask.
  """
  scale, best, best_error = diameter_px / patch.diameter_px, None, np.inf
  side = patch.alpha.shape[0]
  if scale < 1:  # the context shrinks, too: a smaller window needs less mirrored context
    side = min(side, side_for(scale * long_side(patch.mask)) or side)
  shift = np.zeros(2)
  for _ in range(_TRIES):
    where = _source_pixels(patch, side, scale, turn, flips, bend, shift)
    alpha = one_piece(np.clip(_interpolated(patch.alpha, where), 0.0, 1.0))
    mask = alpha >= MASK_LEVEL
    if not mask.any():
      scale *= 1.1
      continue
    found = diameter(mask)
    x, y = centroid(mask)
    off = np.array([y, x]) - side / 2
    error = abs(found - diameter_px) + 0.25 * float(np.hypot(*off))
    if error < best_error:
      best, best_error = (where, alpha, scale), error
    if abs(found - diameter_px) < 0.01 * diameter_px and np.hypot(*off) < 0.25:
      break
    shift = shift + off
    # The diameter of a small mask changes in steps: small corrections do not oscillate around one.
    scale *= (diameter_px / found) ** 0.7
  if best is None:
    raise ValueError("a patch without a mask")
  where, alpha, scale = best
  channels = range(patch.values.shape[-1])
  surround = np.stack([_within_range(patch.surround[..., c], where) for c in channels], axis=-1)
  values = np.stack([_within_range(patch.values[..., c], where) for c in channels], axis=-1)
  gain = scale if patch.physics == "projection" else 1.0
  return patch._replace(
    values=(surround + gain * (values - surround)).astype(np.float32),
    surround=surround.astype(np.float32),
    alpha=alpha,
    diameter_px=diameter(alpha >= MASK_LEVEL),
  )


def _source_pixels(
  patch: LesionPatch,
  side: int,
  scale: float,
  turn: float,
  flips: tuple[bool, bool],
  bend: np.ndarray | None,
  shift: np.ndarray,
) -> np.ndarray:
  """f64[2, side, side]: (row, column) index in the donor's window that each pixel comes from."""
  offsets = np.arange(side) + 0.5 - side / 2
  rows, columns = np.meshgrid(offsets + shift[0], offsets + shift[1], indexing="ij")
  sine, cosine = np.sin(turn), np.cos(turn)
  back = np.stack([cosine * rows + sine * columns, cosine * columns - sine * rows]) / scale
  for axis, flipped in enumerate(flips):
    if flipped:
      back[axis] = -back[axis]
  x, y = centroid(patch.mask)
  where = back + np.array([y - 0.5, x - 0.5])[:, None, None]
  if bend is not None:
    where = where + np.stack([ndimage.map_coordinates(b, where, order=1, mode="nearest")
                              for b in bend])  # fmt: skip
  return where


def _interpolated(image: np.ndarray, where: np.ndarray) -> np.ndarray:
  """f32, by cubic splines; the image is mirrored at its border."""
  found = ndimage.map_coordinates(image, where, order=3, mode="mirror", prefilter=True)
  return np.asarray(found, np.float32)


def _within_range(image: np.ndarray, where: np.ndarray) -> np.ndarray:
  """The same, clipped: splines overshoot at the edge of a bright stone."""
  return np.clip(_interpolated(image, where), image.min(), image.max())


def _smooth_field(rng: np.random.Generator, side: int, size: float) -> np.ndarray:
  """f32[2, S, S], an elastic shift (rows, columns) for a lesion of this diameter."""
  sigma = max(_BEND_SMOOTHNESS * size, 1.5)
  field = np.stack([ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma, mode="wrap")
                    for _ in range(2)])  # fmt: skip
  return np.asarray(_BEND * size * field / field.std(), np.float32)
