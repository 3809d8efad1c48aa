"""One lesion with what is around it, which every source of lesions gives, and how alike two are.

S rows and columns of the window, C channels (1 grey, 3 RGB). Value units are those of the record.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from hiresmed_jax.errors import UserError

MASK_LEVEL = 0.5  # occupancy from which on a pixel belongs to the lesion
SMALLEST_SCALE, LARGEST_SCALE = 0.7, 1.4  # beyond, a resized lesion is visibly too sharp or dull
SIDES = (32, 48, 64, 96, 128)
CONTEXT = 3  # a window's side is at least so many times the lesion's long side

_NEIGHBOURS = np.ones((3, 3), bool)


class LesionPatch(NamedTuple):
  """A lesion in the middle of a square window, at the resolution it was imaged with.

  Attributes:
    values: f32[S, S, C], the lesion with its context, value units.
    surround: f32[S, S, C], the same place without the lesion, estimated; equals `values` away
      from the lesion.
    alpha: f32[S, S] in [0, 1], how much of each pixel the lesion fills. `alpha >= MASK_LEVEL` is
      the instance mask: one component, its centroid within a pixel of the window's centre.
    diameter_px: 2 sqrt(area / pi) of that mask.
    spacing_mm: (row, column) of the donor's pixels; NaN when unknown.
    physics: "projection", "ct" or "none".
    donor: hash of the image that the lesion comes from.
    donor_group: hash of its patient group.
    kind: "singan", "copy" or "parametric".
    value_range: (low, high) of the donor image, value units.
  """

  values: np.ndarray
  surround: np.ndarray
  alpha: np.ndarray
  diameter_px: float
  spacing_mm: tuple[float, float]
  physics: str
  donor: str
  donor_group: str
  kind: str
  value_range: tuple[float, float]

  @property
  def mask(self) -> np.ndarray:
    """bool[S, S]."""
    return self.alpha >= MASK_LEVEL


def diameter(mask: np.ndarray) -> float:
  """2 sqrt(area / pi) of a bool[H, W] mask, in pixels."""
  return 2.0 * math.sqrt(float(np.count_nonzero(mask)) / math.pi)


def centroid(mask: np.ndarray) -> tuple[float, float]:
  """(x, y) of a bool[H, W] mask that is not empty; the first pixel's centre is (.5, .5)."""
  rows, columns = np.nonzero(mask)
  return float(columns.mean() + 0.5), float(rows.mean() + 0.5)


def long_side(mask: np.ndarray) -> int:
  """Longer side of the box around a bool[H, W] mask that is not empty, in pixels."""
  rows, columns = np.nonzero(mask)
  return int(max(np.ptp(rows), np.ptp(columns))) + 1


def side_for(length: float, sides: Sequence[int] = SIDES) -> int | None:
  """The smallest of `sides` that gives a lesion of this long side its context; None if none."""
  return min((side for side in sides if side >= CONTEXT * length), default=None)


def central_component(mask: np.ndarray, *, reach: float = 0.0) -> np.ndarray:
  """The largest 8-connected component of bool[S, S] within `reach` pixels of the window's centre.

  Without `reach` it must hold one of the pixels that meet at the centre. All False if none does.
  """
  labels, count = ndimage.label(mask, structure=_NEIGHBOURS)
  if not count:
    return np.zeros_like(mask)
  rows, columns = np.indices(mask.shape) + 0.5
  away = np.hypot(rows - mask.shape[0] / 2, columns - mask.shape[1] / 2)
  near = np.unique(labels[(away <= reach + math.sqrt(0.5)) & mask])
  if not near.size:
    return np.zeros_like(mask)
  areas = np.bincount(labels.ravel())
  return labels == near[np.argmax(areas[near])]


def touches_border(mask: np.ndarray) -> bool:
  """Whether any pixel of the outermost rows and columns is set."""
  return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def fitting(native_px: np.ndarray, wanted_px: float | None, *, what: str = "lesion") -> np.ndarray:
  """Indices of the lesions that can be shown at a diameter without resizing them too far.

  Args:
    native_px: f32[N], native diameters, in pixels of the image to be made.
    wanted_px: diameter asked for; None takes them all.
    what: how the lesions are called in the message.

  Raises:
    UserError: there is none.
  """
  native_px = np.asarray(native_px, np.float64)
  if not native_px.size:
    raise UserError(f"no {what} to draw from: the training split holds none that can be used")
  if wanted_px is None:
    return np.arange(native_px.size)
  scale = wanted_px / native_px
  fits = np.flatnonzero((scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE))
  if not fits.size:
    ends = np.concatenate([SMALLEST_SCALE * native_px, LARGEST_SCALE * native_px])
    nearest = ends[np.argmin(np.abs(ends - wanted_px))]
    raise UserError(
      f"no {what} of that diameter: {wanted_px:.3g} px asked for, the nearest that can be made is "
      f"{nearest:.3g} px (of {native_px.min():.3g} to {native_px.max():.3g} px, used at "
      f"{SMALLEST_SCALE} to {LARGEST_SCALE} times their size)"
    )
  return fits


def spread(patches: Sequence[LesionPatch], limit: int) -> list[LesionPatch]:
  """At most so many lesions, of as many patient groups as there are: one of each, then a second.

  Args:
    patches: any number, in the order that is kept within a round.
    limit: 0 keeps all of them.
  """
  if not limit or len(patches) <= limit:
    return list(patches)
  seen: dict[str, int] = {}
  rounds = []
  for number, patch in enumerate(patches):
    turn = seen[patch.donor_group] = seen.get(patch.donor_group, -1) + 1
    rounds.append((turn, number))
  return [patches[number] for _, number in sorted(rounds)[:limit]]


def normal(patch: LesionPatch) -> np.ndarray:
  """f32[S, S, C] in [-1, 1]: the lesion in its window, its donor's range of values as the scale."""
  low, high = patch.value_range
  return np.clip(2 * (patch.values - low) / (high - low) - 1, -1, 1).astype(np.float32)


def nearest(
  image: np.ndarray, training: Sequence[np.ndarray], other_than: int = -1
) -> tuple[int, float]:
  """(number, root mean squared difference in [0, 1]) of the training crop most like an image.

  The middle half of the window is compared: the lesion and a rim, not the whole context.

  Args:
    image: f32[S, S, C] in [-1, 1].
    training: the same; those of another S are no candidates.
    other_than: number of one that is left out: the image itself.
  """
  side = image.shape[0]
  core = slice(side // 4, side - side // 4)
  apart = [
    np.inf
    if number == other_than or crop.shape != image.shape
    else float(np.sqrt(np.mean((image - crop)[core, core] ** 2))) / 2
    for number, crop in enumerate(training)
  ]
  return int(np.argmin(apart)), min(apart)
