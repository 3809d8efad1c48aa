"""One lesion in a square window: the type that every source of lesions gives, and its measures.

S rows and columns of the window, C channels (1 grey, 3 RGB). Values have the units of the record.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from hiresmed_jax.errors import UserError

MASK_LEVEL = 0.5  # pixels of at least this occupancy belong to the lesion
BELOW_MASK_LEVEL = 0.499  # occupancy of pixels that must not belong to it
SMALLEST_SCALE, LARGEST_SCALE = 0.7, 1.4  # beyond, a resized lesion is visibly too sharp or blurred
SIDES = (32, 48, 64, 96, 128)  # of the windows, pixels
CONTEXT = 3  # a window's side is at least this many times the lesion's long side
MIDDLE_PX = 2.0  # from the window's middle: no lesion begins farther away
LEAST_PIXELS = 5  # a lesion has at least this many
EIGHT_CONNECTED = np.ones((3, 3), bool)


class NoLesion(UserError):
  """A source of lesions has none that fits.

  Attributes:
    reason: why, without what helps.
  """

  def __init__(self, reason: str, helps: str = "") -> None:
    super().__init__(f"{reason}: {helps}" if helps else reason)
    self.reason = reason


class SourceEmpty(NoLesion):
  """A source of lesions has none, whatever the image and the diameter."""


class LesionPatch(NamedTuple):
  """A lesion in the middle of a square window, at the resolution it was imaged with.

  Attributes:
    values: f32[S, S, C], the lesion with its context, value units.
    surround: f32[S, S, C], the estimated image without the lesion; equals `values` away from it.
    alpha: f32[S, S] in [0, 1], the share of each pixel that the lesion fills. `alpha >= MASK_LEVEL`
      is the instance mask: one component, its centroid within a pixel of the window's centre.
    diameter_px: 2 sqrt(area / pi) of that mask.
    spacing_mm: (row, column) of the donor's pixels; NaN when unknown.
    physics: "projection", "ct" or "none".
    donor: hash of the image that the lesion comes from.
    donor_group: hash of its patient group.
    kind: "singan", "copy", "parametric" or "sham".
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


def side_for(length: float) -> int | None:
  """The smallest window with enough context for a lesion of this long side; None if none."""
  return min((side for side in SIDES if side >= CONTEXT * length), default=None)


def central_component(mask: np.ndarray, *, reach: float = 0.0) -> np.ndarray:
  """The largest 8-connected component of bool[S, S] that comes near the window's centre.

  Args:
    mask: bool[S, S].
    reach: largest distance to the centre, pixels; 0: it holds one of the pixels at the centre.

  Returns:
    bool[S, S], all False where no component is near enough.
  """
  labels, count = ndimage.label(mask, structure=EIGHT_CONNECTED)
  if not count:
    return np.zeros_like(mask)
  rows, columns = np.indices(mask.shape) + 0.5
  away = np.hypot(rows - mask.shape[0] / 2, columns - mask.shape[1] / 2)
  near = np.unique(labels[(away <= reach + math.sqrt(0.5)) & mask])
  if not near.size:
    return np.zeros_like(mask)
  areas = np.bincount(labels.ravel())
  return labels == near[np.argmax(areas[near])]


def one_piece(alpha: np.ndarray) -> np.ndarray:
  """Occupancy f32[S, S] with all parts of the mask but the central one below MASK_LEVEL."""
  mask = alpha >= MASK_LEVEL
  body = central_component(mask, reach=MIDDLE_PX)
  return np.where(mask & ~body, np.float32(BELOW_MASK_LEVEL), alpha)


def touches_border(mask: np.ndarray) -> bool:
  """Whether any pixel of the outermost rows and columns is set."""
  return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def diameters(lesions: Sequence[Any]) -> np.ndarray:
  """f32[N], pixels, of what has a `diameter_px`."""
  return np.array([lesion.diameter_px for lesion in lesions], np.float32)


def fitting(native_px: np.ndarray, wanted_px: float | None) -> np.ndarray:
  """Indices of the lesions that reach a diameter within the limits of scale.

  Args:
    native_px: f32[N], native diameters, in pixels of the image to be made.
    wanted_px: wanted diameter; None takes them all.

  Raises:
    NoLesion: there is none.
    SourceEmpty: there are no lesions at all.
  """
  native_px = np.asarray(native_px, np.float64)
  if not native_px.size:
    raise SourceEmpty("no lesion to draw from: the training split holds none that can be used")
  if wanted_px is None:
    return np.arange(native_px.size)
  scale = wanted_px / native_px
  fits = np.flatnonzero((scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE))
  if not fits.size:
    ends = np.concatenate([SMALLEST_SCALE * native_px, LARGEST_SCALE * native_px])
    nearest = ends[np.argmin(np.abs(ends - wanted_px))]
    raise NoLesion(
      f"no lesion of that diameter: {wanted_px:.3g} px asked for, the nearest that can be made is "
      f"{nearest:.3g} px (of {native_px.min():.3g} to {native_px.max():.3g} px, used at "
      f"{SMALLEST_SCALE} to {LARGEST_SCALE} times their size)"
    )
  return fits


def spread(patches: Sequence[LesionPatch], limit: int) -> list[LesionPatch]:
  """At most `limit` lesions from as many patient groups as possible.

  The first lesion of every group comes first, then the second of every group, and so on.

  Args:
    patches: any number; a group's lesions keep their order.
    limit: 0 keeps all of them.
  """
  if not limit or len(patches) <= limit:
    return list(patches)
  taken: Counter[str] = Counter()
  rounds = []
  for number, patch in enumerate(patches):
    rounds.append((taken[patch.donor_group], number))
    taken[patch.donor_group] += 1
  return [patches[number] for _, number in sorted(rounds)[:limit]]


def normal(patch: LesionPatch) -> np.ndarray:
  """f32[S, S, C] in [-1, 1]: the window's values, scaled by the donor's range of values."""
  low, high = patch.value_range
  return np.clip(2 * (patch.values - low) / (high - low) - 1, -1, 1).astype(np.float32)


def nearest(
  image: np.ndarray, training: Sequence[np.ndarray], other_than: int = -1
) -> tuple[int, float]:
  """The training crop that is most like an image.

  The middle half of the window is compared: the lesion and a rim, not the whole context.

  Args:
    image: f32[S, S, C] in [-1, 1].
    training: the same; crops of another shape are not compared.
    other_than: index of a crop that is left out; -1: none.

  Returns:
    (index of the crop, root mean squared difference in [0, 1]).
  """
  side = image.shape[0]
  core = slice(side // 4, side - side // 4)
  differences = [
    np.inf
    if number == other_than or crop.shape != image.shape
    else float(np.sqrt(np.mean((image - crop)[core, core] ** 2))) / 2
    for number, crop in enumerate(training)
  ]
  return int(np.argmin(differences)), min(differences)
