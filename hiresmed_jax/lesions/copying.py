"""Copies: real lesions of the training split, turned, bent and scaled a little.

The plainest source of lesions. What is learned has to beat it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from hiresmed_jax.lesions.patch import (
  MASK_LEVEL,
  LesionPatch,
  central_component,
  centroid,
  diameter,
  fitting,
  long_side,
  side_for,
)

_TURN_DEG = 15.0
_BEND = 0.06  # standard deviation of the elastic shift, in diameters
_BEND_WAVES = 0.5  # and over how many diameters it is smooth
_TRIES = 8  # at meeting a diameter; each costs two interpolations of a small window


@dataclasses.dataclass(frozen=True)
class Copies:
  """Draws warped copies of real lesions.

  Attributes:
    patches: the lesions of the training split (crops.gather).
    flip_columns: whether left and right may be exchanged. The body has sides: only where the
      dataset shows both anyway.
    flip_rows: whether up and down may be.
  """

  patches: Sequence[LesionPatch]
  flip_columns: bool = False
  flip_rows: bool = False

  @property
  def native_px(self) -> np.ndarray:
    """f32[N], the diameters at hand."""
    return np.array([p.diameter_px for p in self.patches], np.float32)

  def draw(self, rng: np.random.Generator, diameter_px: float | None = None) -> LesionPatch:
    """A real lesion, warped: kind "copy".

    Args:
      rng: equal states give equal bytes.
      diameter_px: wanted, met within 5 % (half a pixel below 10 px); None keeps the donor's.

    Raises:
      UserError: no lesion of that diameter within the limits of scale.
    """
    patch = self.patches[int(rng.choice(fitting(self.native_px, diameter_px)))]
    flips = (self.flip_rows and rng.random() < 0.5, self.flip_columns and rng.random() < 0.5)
    turn = np.deg2rad(rng.uniform(-_TURN_DEG, _TURN_DEG))
    bend = _smooth_field(rng, patch.alpha.shape[0], patch.diameter_px)
    wanted = patch.diameter_px if diameter_px is None else float(diameter_px)
    return scaled(patch, wanted, turn=float(turn), flips=flips, bend=bend)


def scaled(
  patch: LesionPatch,
  diameter_px: float,
  *,
  turn: float = 0.0,
  flips: tuple[bool, bool] = (False, False),
  bend: np.ndarray | None = None,
) -> LesionPatch:
  """A patch resized until its mask has a diameter, its centroid in the middle of the window.

  Thickness grows with width: in a projection the contrast is scaled along.

  Args:
    patch: any lesion.
    diameter_px: of the result.
    turn: radians, counter-clockwise on the screen.
    flips: (rows, columns).
    bend: f32[2, S, S], shift (rows, columns) of each pixel of the donor's window, in pixels.
  """
  scale, best, best_error = diameter_px / patch.diameter_px, None, np.inf
  side = patch.alpha.shape[0]
  if scale < 1:  # its context shrinks along: a smaller window, so that little of it is mirrored
    side = min(side, side_for(scale * long_side(patch.mask)) or side)
  shift = np.zeros(2)
  for _ in range(_TRIES):
    where = _grid(patch, side, scale, turn, flips, bend, shift)
    alpha = _one_piece(np.clip(_at(patch.alpha, where), 0.0, 1.0))
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
    # Small masks change in steps: creep, so that a step is not jumped over back and forth.
    scale *= (diameter_px / found) ** 0.7
  if best is None:
    raise ValueError("a patch without a mask")
  where, alpha, scale = best
  channels = range(patch.values.shape[-1])
  surround = np.stack([_kept(patch.surround[..., c], where) for c in channels], axis=-1)
  values = np.stack([_kept(patch.values[..., c], where) for c in channels], axis=-1)
  gain = scale if patch.physics == "projection" else 1.0
  return patch._replace(
    values=(surround + gain * (values - surround)).astype(np.float32),
    surround=surround.astype(np.float32),
    alpha=alpha,
    diameter_px=diameter(alpha >= MASK_LEVEL),
  )


def _grid(
  patch: LesionPatch,
  side: int,
  scale: float,
  turn: float,
  flips: tuple[bool, bool],
  bend: np.ndarray | None,
  shift: np.ndarray,
) -> np.ndarray:
  """f64[2, side, side]: where in the donor's window (row, column indices) each pixel comes from."""
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


def _at(image: np.ndarray, where: np.ndarray) -> np.ndarray:
  """f32, cubic spline; beyond the window it is mirrored."""
  found = ndimage.map_coordinates(image, where, order=3, mode="mirror", prefilter=True)
  return np.asarray(found, np.float32)


def _kept(image: np.ndarray, where: np.ndarray) -> np.ndarray:
  """The same within the range of the image: splines overshoot at the edge of a bright stone."""
  return np.clip(_at(image, where), image.min(), image.max())


def _one_piece(alpha: np.ndarray) -> np.ndarray:
  """Occupancy whose mask is the central component alone."""
  mask = alpha >= MASK_LEVEL
  body = central_component(mask, reach=2.0)
  return np.where(mask & ~body, np.float32(0.499), alpha)


def _smooth_field(rng: np.random.Generator, side: int, size: float) -> np.ndarray:
  """f32[2, S, S], an elastic shift of a lesion of this diameter."""
  smooth = max(_BEND_WAVES * size, 1.5)
  field = np.stack([ndimage.gaussian_filter(rng.standard_normal((side, side)), smooth, mode="wrap")
                    for _ in range(2)])  # fmt: skip
  return np.asarray(_BEND * size * field / field.std(), np.float32)
