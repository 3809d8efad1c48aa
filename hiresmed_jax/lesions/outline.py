"""Where a lesion ends: its mask from a loose box and the image; how it fills each pixel.

H, W rows and columns of the image; values are in value units and dense is bright.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

_RING = 5  # pixels around a box that tell the background
_FAINT = 4.0  # a lesion's contrast must be so many standard deviations of its background
_LEAST = 5  # pixels of a lesion
_NEIGHBOURS = np.ones((3, 3), bool)
REACH = 2  # pixels beyond its mask that a lesion changes
BLUR_PX = 1.2  # of the widest edge that is taken for a lesion's own: a wider one is other tissue


@dataclasses.dataclass(frozen=True)
class Outline:
  """A lesion found in a box.

  Attributes:
    mask: bool[H, W], one component without holes.
    background: level around it, value units.
    peak: its plateau, value units.
  """

  mask: np.ndarray
  background: float
  peak: float


def find(grey: np.ndarray, box: np.ndarray, floor: float) -> Outline | str:
  """The lesion in a box, by half maximum; or, in a word or two, why there is none.

  The background is the median of what is dim in a ring around the box: half of the ring may be
  bone or chest wall. The lesion holds the brightest spot of the box, preferably a central one,
  and all that is connected to it above the level half way. People's boxes are loose, those made
  from a centre and a diameter can lie a pixel or two off; so it may reach a little out of its box.
  Where it would run on, into a vessel or the chest wall, it is cut at the neck.

  Args:
    grey: f32[H, W].
    box: f32[4] xyxy pixels.
    floor: contrast below which nothing is seen, value units.
  """
  slack = 2 + 0.1 * float(max(box[2] - box[0], box[3] - box[1]))
  wide = _window(box, slack + _RING, *grey.shape)
  if min(grey[wide].shape) < 1:
    return "outside"
  corner = np.array([wide[1].start, wide[0].start] * 2, np.float32)
  found = _find(grey[wide], box - corner, slack, floor)
  if isinstance(found, str):
    return found
  mask = np.zeros(grey.shape, bool)
  mask[wide] = found.mask
  return dataclasses.replace(found, mask=mask)


def _find(grey: np.ndarray, box: np.ndarray, slack: float, floor: float) -> Outline | str:
  """`find` in what is near the box."""
  tight, loose = (_window(box, by, *grey.shape) for by in (0.0, slack))
  if min(grey[tight].shape) < 1:
    return "outside"
  ring = np.ones(grey.shape, bool)
  ring[loose] = False
  smooth = ndimage.gaussian_filter(grey, 0.6, mode="nearest")
  seed = _brightest(smooth, tight)
  around = grey[ring] if ring.any() else grey[loose].ravel()
  dim = around[around <= (np.percentile(around, 10) + smooth[seed]) / 2]
  if not dim.size:
    return "faint"
  background = float(np.median(dim))
  spread = 1.4826 * float(np.median(np.abs(dim - background)))
  near = (slice(max(seed[0] - 1, 0), seed[0] + 2), slice(max(seed[1] - 1, 0), seed[1] + 2))
  peak = float(grey[near].max())
  if peak - background < max(floor, _FAINT * spread):
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
  if np.count_nonzero(mask) < _LEAST:
    return "too small"
  return Outline(mask, background, float(np.percentile(grey[mask], 90)))


def known(grey: np.ndarray, mask: np.ndarray) -> Outline:
  """The same for a lesion whose mask, bool[H, W], is known."""
  body = _whole(mask)
  inner = ndimage.binary_dilation(body, _NEIGHBOURS, iterations=REACH + 1)
  ring = ndimage.binary_dilation(inner, _NEIGHBOURS, iterations=_RING) & ~inner
  background = float(np.median(grey[ring])) if ring.any() else float(grey.min())
  return Outline(body, background, float(np.percentile(grey[body], 90)))


def occupancy(
  grey: np.ndarray, surround: np.ndarray, mask: np.ndarray, contrast: float
) -> np.ndarray:
  """How much of each pixel a lesion fills: f32[H, W] in [0, 1], 0.5 or more exactly on `mask`.

  In the rim it is the share of the contrast that is seen; inside, a lesion is full even where it is
  dimmer; outside it falls off as a blurred edge does, so that a neighbour is never part of it.

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
  edge = ndtr((1.0 - away) / BLUR_PX)  # an edge a pixel from the last pixel that is half full
  outside = np.where(away <= REACH, np.minimum(np.minimum(share, edge), 0.499), 0.0)
  return np.where(mask, inside, outside).astype(np.float32)


def _window(box: np.ndarray, by: float, height: int, width: int) -> tuple[slice, slice]:
  """Rows and columns of a box grown on all sides; empty when it lies outside."""
  x1, y1 = (max(math.floor(v - by + 0.5), 0) for v in box[:2])
  x2, y2 = math.floor(box[2] + by + 0.5), math.floor(box[3] + by + 0.5)
  x2, y2 = max(min(x2, width), 0), max(min(y2, height), 0)
  return slice(min(y1, y2), y2), slice(min(x1, x2), x2)


def _brightest(smooth: np.ndarray, tight: tuple[slice, slice]) -> tuple[int, int]:
  """Brightest pixel of a box, where brightness counts less towards the box's edges."""
  part = smooth[tight]
  rows, columns = (np.linspace(-1, 1, n) if n > 2 else np.zeros(n) for n in part.shape)
  weight = 1 - 0.4 * np.minimum(rows[:, None] ** 2 + columns[None] ** 2, 1.5)
  row, column = np.unravel_index(np.argmax((part - part.min()) * weight), part.shape)
  return tight[0].start + int(row), tight[1].start + int(column)


def _component(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
  labels, _ = ndimage.label(mask)
  return ndimage.binary_fill_holes(labels == labels[seed]) & bool(labels[seed])


def _whole(mask: np.ndarray) -> np.ndarray:
  """The largest 8-connected component, without holes."""
  labels, count = ndimage.label(mask, _NEIGHBOURS)
  if count > 1:
    mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
  return np.asarray(ndimage.binary_fill_holes(mask))


def _cut_loose(
  mask: np.ndarray, seed: tuple[int, int], loose: tuple[slice, slice]
) -> np.ndarray | None:
  """A component cut off from what it runs into; None if it cannot be.

  What touches the border of the loose box is opened with discs of growing radius: vessels go
  first, then the neck to a wall.
  """
  widest = 0.5 * min(loose[0].stop - loose[0].start, loose[1].stop - loose[1].start)
  radius = 0.0
  cut = mask
  while _runs_out(cut, loose):
    radius += 0.5
    if radius > 0.5 * widest:
      return None
    opened = _opened(mask, radius)
    if not opened.any():
      return None
    labels, _ = ndimage.label(opened)
    # The seed itself can be cut away with a vessel: the nearest component then.
    away, (rows, columns) = ndimage.distance_transform_edt(~opened, return_indices=True)
    if away[seed] > 2:
      return None
    cut = labels == labels[rows[seed], columns[seed]]
  return cut


def _runs_out(mask: np.ndarray, loose: tuple[slice, slice]) -> bool:
  """Whether a mask touches the border of the loose box."""
  part = mask[loose]
  return bool(part[[0, -1]].any() or part[:, [0, -1]].any())


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
  """Opening with a disc, by distances."""
  kept = ndimage.distance_transform_edt(mask) > radius
  if not kept.any():
    return kept
  return np.asarray((ndimage.distance_transform_edt(~kept) <= radius) & mask)
