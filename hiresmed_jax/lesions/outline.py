"""A lesion's outline: its mask from the image and a loose box, and how far it fills each pixel.

H, W rows and columns of the image. Images are in value units, dense tissue bright.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

from hiresmed_jax.lesions.patch import (
  BELOW_MASK_LEVEL,
  EIGHT_CONNECTED,
  LEAST_PIXELS,
  touches_border,
)

VISIBLE_CONTRAST = 0.04  # of the value range: a lesion of less contrast is not detected
REACH = 2  # pixels beyond its mask that a lesion changes
_RING = 5  # pixels around a box in which the background is measured
_LEAST_SIGMAS = 4.0  # a lesion's contrast in standard deviations of its background, at least
_NOISE_SIGMAS = 3.0  # what is farther above its background is no noise
_LOOSE_PX = 2.0  # around a box, in which its lesion may reach
_BLUR_PX = 1.2  # sigma of the widest edge of a lesion; a wider one belongs to other tissue


@dataclasses.dataclass(frozen=True)
class Outline:
  """A lesion found in a box.

  Attributes:
    mask: bool[H, W], one component without holes.
    background: level around it, value units.
    peak: level of its plateau, value units.
  """

  mask: np.ndarray
  background: float
  peak: float


def find(grey: np.ndarray, box: np.ndarray, least_contrast: float) -> Outline | str:
  """Finds the lesion in a box by half maximum.

  The background is the median of the dim pixels in a ring around the box, since half of the ring
  may be bone or chest wall. The lesion is the brightest spot of the box, preferably a central one,
  and all pixels connected to it that are above the level half way to the background. Boxes drawn by
  people are loose, and boxes made from a centre and a diameter can be off by a pixel or two, so the
  lesion may reach slightly beyond its box. Where it would continue into a vessel or the chest wall,
  it is cut at the narrowest place.

  Args:
    grey: f32[H, W].
    box: f32[4] xyxy pixels.
    least_contrast: of a lesion over its background, value units; see `VISIBLE_CONTRAST`.

  Returns:
    The outline, or why there is none: "outside" the image, "faint", "not separate" from denser
    tissue, "too small".
  """
  slack = 2 + 0.1 * float(max(box[2] - box[0], box[3] - box[1]))
  wide = _window(box, slack + _RING, *grey.shape)
  if min(grey[wide].shape) < 1:
    return "outside"
  corner = np.array([wide[1].start, wide[0].start] * 2, np.float32)
  found = _find(grey[wide], box - corner, slack, least_contrast)
  if isinstance(found, str):
    return found
  mask = np.zeros(grey.shape, bool)
  mask[wide] = found.mask
  return dataclasses.replace(found, mask=mask)


def levels_in(
  grey: np.ndarray, box: np.ndarray, shares: Sequence[float]
) -> tuple[tuple[slice, slice], list[float]] | None:
  """Where a lesion may be, the box and 2 px around it, and levels at shares of its contrast.

  The levels are clear of the noise around the box. `grey` and `box` as of `find`; None where the
  box lies outside the image.
  """
  window = _window(box, _LOOSE_PX, *grey.shape)
  wide = _window(box, _LOOSE_PX + _RING, *grey.shape)
  tight = _window(box, 0.0, *grey.shape)
  if min(grey[tight].shape) < 1:
    return None
  corner = wide[0].start, wide[1].start
  inner, loose = (
    (slice(r.start - corner[0], r.stop - corner[0]), slice(c.start - corner[1], c.stop - corner[1]))
    for r, c in (tight, window)
  )
  levels = _levels(grey[wide], inner, loose)
  if levels is None:
    return window, [float(grey[window].max())] * len(shares)
  _, background, spread, peak = levels
  noise = _NOISE_SIGMAS * spread
  return window, [background + max(share * (peak - background), noise) for share in shares]


def _levels(
  grey: np.ndarray, tight: tuple[slice, slice], loose: tuple[slice, slice]
) -> tuple[tuple[int, int], float, float, float] | None:
  """Brightest pixel of a box, level and spread of its background, level of the pixel; see `find`.

  None: all that is around the loose box is as bright.
  """
  ring = np.ones(grey.shape, bool)
  ring[loose] = False
  smooth = ndimage.gaussian_filter(grey, 0.6, mode="nearest")
  seed = _brightest(smooth, tight)
  around = grey[ring] if ring.any() else grey[loose].ravel()
  dim = around[around <= (np.percentile(around, 10) + smooth[seed]) / 2]
  if not dim.size:
    return None
  background = float(np.median(dim))
  spread = 1.4826 * float(np.median(np.abs(dim - background)))
  return seed, background, spread, float(grey[_around(seed)].max())


def _around(pixel: tuple[int, int]) -> tuple[slice, slice]:
  """A pixel and its eight neighbours."""
  row, column = (slice(max(i - 1, 0), i + 2) for i in pixel)
  return row, column


def _find(grey: np.ndarray, box: np.ndarray, slack: float, least_contrast: float) -> Outline | str:
  """`find` in the part of the image near the box."""
  tight, loose = (_window(box, by, *grey.shape) for by in (0.0, slack))
  if min(grey[tight].shape) < 1:
    return "outside"
  levels = _levels(grey, tight, loose)
  if levels is None:
    return "faint"
  seed, background, spread, peak = levels
  near = _around(seed)
  if peak - background < max(least_contrast, _LEAST_SIGMAS * spread):
    return "faint"
  above = np.zeros(grey.shape, bool)
  above[loose] = grey[loose] >= (peak + background) / 2
  row, column = np.unravel_index(
    np.argmax(np.where(above[near], grey[near], -np.inf)), grey[near].shape
  )
  start = near[0].start + int(row), near[1].start + int(column)
  mask = _cut_loose(_component(above, start), start, loose)
  if mask is None:
    return "not separate"
  if np.count_nonzero(mask) < LEAST_PIXELS:
    return "too small"
  return Outline(mask, background, float(np.percentile(grey[mask], 90)))


def mask_of(grey: np.ndarray, box: np.ndarray, mask: np.ndarray, least: float) -> np.ndarray | None:
  """A lesion's known mask bool[H, W] if it is not empty, else that of `find`, or None."""
  if mask.any():
    return mask
  found = find(grey, box, least)
  return found.mask if isinstance(found, Outline) else None


def known(grey: np.ndarray, mask: np.ndarray) -> Outline:
  """The outline of a lesion whose mask bool[H, W] is known; its largest component, holes filled."""
  labels, count = ndimage.label(mask, EIGHT_CONNECTED)
  if count > 1:
    mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
  body = np.asarray(ndimage.binary_fill_holes(mask))
  inner = ndimage.binary_dilation(body, EIGHT_CONNECTED, iterations=REACH + 1)
  ring = ndimage.binary_dilation(inner, EIGHT_CONNECTED, iterations=_RING) & ~inner
  background = float(np.median(grey[ring])) if ring.any() else float(grey.min())
  return Outline(body, background, float(np.percentile(grey[body], 90)))


def occupancy(
  grey: np.ndarray, surround: np.ndarray, mask: np.ndarray, contrast: float
) -> np.ndarray:
  """How far a lesion fills each pixel: f32[H, W] in [0, 1], at least 0.5 exactly on `mask`.

  In the rim it is the pixel's share of the contrast. Inside it is 1, also where the lesion is
  dimmer. Outside it falls off like a blurred edge, so that neighbours are not part of the lesion.

  Args:
    grey: f32[H, W], the image.
    surround: f32[H, W], the image without the lesion.
    mask: bool[H, W].
    contrast: of the lesion's plateau over the surround, value units, positive.
  """
  share = np.clip((grey - surround) / contrast, 0.0, 1.0)
  depth = ndimage.distance_transform_edt(mask)
  inside = np.where(depth > 2.5, 1.0, np.maximum(share, 0.5))
  away = ndimage.distance_transform_edt(~mask)
  edge = ndtr((1.0 - away) / _BLUR_PX)  # its middle lies a pixel outside of the mask
  outside = np.where(away <= REACH, np.minimum(np.minimum(share, edge), BELOW_MASK_LEVEL), 0.0)
  return np.where(mask, inside, outside).astype(np.float32)


def _window(box: np.ndarray, by: float, height: int, width: int) -> tuple[slice, slice]:
  """Rows and columns of a box grown by `by` on all sides; empty when it lies outside the image."""
  x1, y1 = (max(math.floor(v - by + 0.5), 0) for v in box[:2])
  x2, y2 = math.floor(box[2] + by + 0.5), math.floor(box[3] + by + 0.5)
  x2, y2 = max(min(x2, width), 0), max(min(y2, height), 0)
  return slice(min(y1, y2), y2), slice(min(x1, x2), x2)


def _brightest(smooth: np.ndarray, tight: tuple[slice, slice]) -> tuple[int, int]:
  """(row, column) of the brightest pixel of a box; pixels near the box's edges weigh less."""
  part = smooth[tight]
  rows, columns = (np.linspace(-1, 1, n) if n > 2 else np.zeros(n) for n in part.shape)
  weight = 1 - 0.4 * np.minimum(rows[:, None] ** 2 + columns[None] ** 2, 1.5)
  row, column = np.unravel_index(np.argmax((part - part.min()) * weight), part.shape)
  return tight[0].start + int(row), tight[1].start + int(column)


def _component(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
  """The 4-connected component that holds a pixel, holes filled."""
  labels, _ = ndimage.label(mask)
  return ndimage.binary_fill_holes(labels == labels[seed]) & bool(labels[seed])


def _cut_loose(
  mask: np.ndarray, seed: tuple[int, int], loose: tuple[slice, slice]
) -> np.ndarray | None:
  """A component cut off from the tissue that it continues into; None if that is not possible.

  A component that touches the border of the loose box is opened with discs of growing radius:
  this removes vessels first, then the connection to a wall.
  """
  widest = 0.25 * min(loose[0].stop - loose[0].start, loose[1].stop - loose[1].start)
  radius = 0.0
  cut = mask
  while touches_border(cut[loose]):
    radius += 0.5
    if radius > widest:
      return None
    opened = _opened(mask, radius)
    if not opened.any():
      return None
    labels, _ = ndimage.label(opened)
    # The seed itself can be removed with a vessel: the nearest component is taken then.
    away, (rows, columns) = ndimage.distance_transform_edt(~opened, return_indices=True)
    if away[seed] > 2:
      return None
    cut = labels == labels[rows[seed], columns[seed]]
  return cut


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
  """Opening with a disc, by distance transforms."""
  kept = ndimage.distance_transform_edt(mask) > radius
  if not kept.any():
    return kept
  return np.asarray((ndimage.distance_transform_edt(~kept) <= radius) & mask)
