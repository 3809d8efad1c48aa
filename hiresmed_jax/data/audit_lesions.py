"""What the boxes hold, and what looks like a lesion but has no box."""

import dataclasses

import cv2
import numpy as np

_RING = 4  # pixels around a box that give the background
_BLOBS_MAX = 1000


@dataclasses.dataclass(frozen=True)
class Lesion:
  """One box.

  Attributes:
    width: of the box, in pixels.
    height: of the box, in pixels.
    extent: mean side of the box around the half-maximum region; NaN if there is none.
    tightness: area of the box over the area of the box around the half-maximum region.
    level: the half maximum, display units (0 to 255).
    area: pixels of the half-maximum region.
    censored: the brightest stored value is at the ceiling.
  """

  width: float
  height: float
  extent: float
  tightness: float
  level: float
  area: int
  censored: bool


def mask_areas(mask: np.ndarray) -> np.ndarray:
  """Pixels of each lesion, int64[M]; none when the mask [H, W] of ids is (0, 0), not known."""
  areas = np.bincount(mask.ravel(), minlength=1)[1:]
  return areas[areas > 0].astype(np.int64)


def measure(grey: np.ndarray, image: np.ndarray, box: np.ndarray, ceiling: int) -> Lesion | None:
  """Measures what lies in a box; None when no pixel does.

  The half maximum lies midway between the brightest pixel of the box and the median of a ring
  around it; the region is the connected one, in the box, that holds the brightest pixel.

  Args:
    grey: uint8 [H, W], the display image.
    image: uint8 | uint16 [H, W, C], stored values.
    box: f32[4] xyxy pixels.
    ceiling: stored value that counts as saturated.
  """
  height, width = grey.shape
  x1, y1 = (int(v) for v in np.maximum(np.floor(box[:2] + 0.5), 0))
  x2, y2 = (int(v) for v in np.minimum(np.floor(box[2:] + 0.5), (width, height)))
  x2, y2 = min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)
  crop = grey[y1:y2, x1:x2]
  if crop.size == 0:
    return None
  top, left = max(y1 - _RING, 0), max(x1 - _RING, 0)
  around = grey[top : y2 + _RING, left : x2 + _RING]
  outside = np.ones(around.shape, bool)
  outside[y1 - top : y2 - top, x1 - left : x2 - left] = False
  background = float(np.median(around[outside])) if outside.any() else float(crop.min())
  peak = int(crop.argmax())
  level = (float(crop.ravel()[peak]) + background) / 2
  _, labels, stats, _ = cv2.connectedComponentsWithStats((crop >= level).astype(np.uint8))
  region = stats[labels.ravel()[peak]]
  box_width, box_height = float(box[2] - box[0]), float(box[3] - box[1])
  # A lesion no brighter than its surroundings has no half maximum.
  area = int(region[cv2.CC_STAT_AREA]) if crop.ravel()[peak] > background else 0
  sides = float(region[cv2.CC_STAT_WIDTH]), float(region[cv2.CC_STAT_HEIGHT])
  return Lesion(
    width=box_width,
    height=box_height,
    extent=sum(sides) / 2 if area else float("nan"),
    tightness=box_width * box_height / (sides[0] * sides[1]) if area else float("nan"),
    level=level,
    area=area,
    censored=bool(image[y1:y2, x1:x2].max() >= ceiling),
  )


def unboxed_blobs(grey: np.ndarray, boxes: np.ndarray, lesions: list[Lesion]) -> int | None:
  """Counts regions as bright, small and compact as this image's own lesions that have no box.

  It is a hint to look: the cross-section of a rib or a vessel can be among them. None without
  lesions to compare with.

  Args:
    grey: uint8 [H, W], the display image.
    boxes: f32[N, 4].
    lesions: the measured ones.
  """
  measured = [lesion for lesion in lesions if lesion.area >= 4]
  if not measured:
    return None
  level = float(np.median([lesion.level for lesion in measured]))
  smallest = min(lesion.area for lesion in measured) / 2
  largest = max(lesion.area for lesion in measured) * 2
  mask = (grey >= level).astype(np.uint8)
  for x1, y1, x2, y2 in boxes:
    mask[max(int(y1) - 2, 0) : int(y2) + 3, max(int(x1) - 2, 0) : int(x2) + 3] = 0
  _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
  left, top, width, height, area = stats[1:].T
  inside = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
  compact = (area >= 0.5 * width * height) & (
    np.maximum(width, height) <= 2.5 * np.minimum(width, height)
  )
  return min(int((inside & compact & (area >= smallest) & (area <= largest)).sum()), _BLOBS_MAX)
