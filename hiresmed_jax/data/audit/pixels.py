"""Facts of one image for the audit: its grey values, its boxes, and blobs without a box."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# First and last row of the luminance table of annex K.1 of the JPEG standard (ITU-T T.81).
_STANDARD_ROWS = np.array([*(16, 11, 10, 16, 24, 40, 51, 61), *(72, 92, 95, 98, 112, 100, 103, 99)])
_RING = 4  # pixels around a box that give the background
_BLOBS_MAX = 1000
_COLOURED = 0.25  # of the type's range, between the channels of a pixel


def display(
  image: np.ndarray,
  value_range: tuple[float, float],
  slope: float,
  intercept: float,
  *,
  inverted: bool = False,
) -> np.ndarray:
  """The image as displayed: uint8 [H, W].

  Args:
    image: uint8 | uint16 [H, W, C], stored values.
    value_range: (low, high) in rescaled units.
    slope: value = slope * stored + intercept.
    intercept: see `slope`.
    inverted: low values are bright (MONOCHROME1).
  """
  levels = np.arange(256 if image.dtype == np.uint8 else 65536, dtype=np.float64)
  low, high = value_range
  table = np.clip((levels * slope + intercept - low) / (high - low) * 255.0, 0, 255)
  shades = np.round(table).astype(np.uint8)
  shown = (255 - shades if inverted else shades)[image]
  return shown[..., 0] if shown.shape[-1] == 1 else cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)


def brightness(image: np.ndarray, *, inverted: bool = False) -> np.ndarray:
  """Stored values of which the greatest is the brightest: the image, or its negative."""
  return ~image if inverted else image


def censoring_level(image: np.ndarray) -> int:
  """Value from which on an image is saturated: 250 of 8 bits, else its maximum.

  Where fewer than 16 pixels, or one in 5,000, of a 16-bit image hold its maximum, the level lies
  above it.

  Args:
    image: uint8 | uint16, of `brightness`.
  """
  if image.dtype == np.uint8:
    return 250
  top = int(image.max())
  plateau = int(np.count_nonzero(image == top))
  return top if plateau >= max(16, image.size // 5000) else top + 1


def column_gradients(image: np.ndarray, *, typical: bool = False) -> np.ndarray:
  """Mean |horizontal gradient| by column modulo 8, over its mean: f32[8], all 1 without a grid.

  JPEG codes blocks of 8 x 8: phase 7 is the step from column 8k + 7 to 8k + 8.

  Args:
    image: uint8 | uint16 [H, W, C].
    typical: each block of 8 columns counts alike, and the highest and the lowest quarter of each
      phase not at all, so that a few straight edges of the picture leave no trace.
  """
  width = (image.shape[1] - 1) // 8 * 8
  if width == 0:
    return np.ones(8, np.float32)
  plane = image[..., 0]
  steps = cv2.absdiff(plane[:, 1 : width + 1], plane[:, :width])
  blocks = cv2.reduce(steps, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F).reshape(-1, 8)
  if typical:
    blocks = blocks[blocks.mean(1) > 0]
    blocks = np.sort(blocks / blocks.mean(1, keepdims=True), axis=0)
    blocks = blocks[len(blocks) // 4 : len(blocks) - len(blocks) // 4]
  profile = blocks.mean(0) if len(blocks) else np.zeros(8, np.float32)
  mean = float(profile.mean())
  return profile / mean if mean > 0 else np.ones(8, np.float32)


def coloured_share(image: np.ndarray) -> float:
  """Share of the pixels of uint8 | uint16 [H, W, C] that are clearly coloured."""
  if image.shape[-1] == 1:
    return 0.0
  red, green, blue = cv2.split(image)
  high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
  return float((high - low > _COLOURED * np.iinfo(image.dtype).max).mean())


def is_grid(typical: np.ndarray) -> bool:
  """Whether one of the phases f32[8] of `column_gradients` stands out of the others' scatter."""
  others = np.delete(typical, typical.argmax())
  top = float(typical.max())
  clear = top - 1.0 >= 2.0 * max(float(others.max()) - 1.0, 0.0)
  return clear and top - float(others.mean()) >= 5.0 * float(others.std())


def jpeg_quality(path: Path) -> int | None:
  """Quality (1 to 100, the scale of libjpeg) at which a JPEG was saved last, None for other files.

  Args:
    path: an image file; the header alone is read.
  """
  try:
    with Image.open(path) as image:
      tables = getattr(image, "quantization", None) if image.format == "JPEG" else None
  except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
    return None
  if not tables:
    return None
  # libjpeg scales it: (standard * S + 50) // 100, S = 200 - 2 q from q = 50 on, else 5000 // q.
  qualities = np.arange(1, 101)
  scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
  expected = np.clip((_STANDARD_ROWS * scales[:, None] + 50) // 100, 1, 255)
  found = np.array([*tables[0][:8], *tables[0][56:]])
  return int(qualities[np.abs(expected - found).sum(1).argmin()])


@dataclasses.dataclass(frozen=True)
class Lesion:
  """One box.

  Attributes:
    width: of the box, in pixels.
    height: of the box, in pixels.
    extent: mean side of the box around the half-maximum region; NaN if there is none.
    offset: (right, down) from the middle of the box to that of the region, in sides of the box;
      NaN if there is none.
    tightness: area of the box over the area of the box around the half-maximum region.
    level: the half maximum, display units (0 to 255).
    area: pixels of the half-maximum region.
    censored: the brightest stored value is at the ceiling.
  """

  width: float
  height: float
  extent: float
  offset: tuple[float, float]
  tightness: float
  level: float
  area: int
  censored: bool


def mask_areas(mask: np.ndarray) -> np.ndarray:
  """Pixels of each lesion, int64[M]; none when the mask [H, W] of ids is (0, 0), not known."""
  areas = np.bincount(mask.ravel(), minlength=1)[1:]
  return areas[areas > 0].astype(np.int64)


def measure(grey: np.ndarray, image: np.ndarray, box: np.ndarray, ceiling: int) -> Lesion | None:
  """Measures the lesion in a box; None when no pixel lies in it.

  The half maximum lies midway between the brightest pixel of the box and the median of a ring
  around it; the region is the connected one, in the box, that holds the brightest pixel.

  Args:
    grey: uint8 [H, W], the display image.
    image: uint8 | uint16 [H, W, C], of `brightness`.
    box: f32[4] xyxy pixels.
    ceiling: value of `image` that counts as saturated.
  """
  height, width = grey.shape
  x1, y1, x2, y2 = _pixels_of(box, width, height)
  crop = grey[y1:y2, x1:x2]
  if crop.size == 0:
    return None
  background = _background(grey, x1, y1, x2, y2)
  peak = int(crop.argmax())
  level = (float(crop.ravel()[peak]) + background) / 2
  _, labels, stats, _ = cv2.connectedComponentsWithStats((crop >= level).astype(np.uint8))
  region = stats[labels.ravel()[peak]]
  box_width, box_height = float(box[2] - box[0]), float(box[3] - box[1])
  # A lesion no brighter than its surroundings has no half maximum.
  area = int(region[cv2.CC_STAT_AREA]) if crop.ravel()[peak] > background else 0
  sides = float(region[cv2.CC_STAT_WIDTH]), float(region[cv2.CC_STAT_HEIGHT])
  middle_x = x1 + float(region[cv2.CC_STAT_LEFT]) + sides[0] / 2 - float(box[0] + box[2]) / 2
  middle_y = y1 + float(region[cv2.CC_STAT_TOP]) + sides[1] / 2 - float(box[1] + box[3]) / 2
  offset = (middle_x / box_width, middle_y / box_height)
  return Lesion(
    width=box_width,
    height=box_height,
    extent=sum(sides) / 2 if area else float("nan"),
    offset=offset if area else (float("nan"), float("nan")),
    tightness=box_width * box_height / (sides[0] * sides[1]) if area else float("nan"),
    level=level,
    area=area,
    censored=bool(image[y1:y2, x1:x2].max() >= ceiling),
  )


def _pixels_of(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
  """A box as whole pixels of an image, at least one where it lies inside."""
  x1, y1 = (int(v) for v in np.maximum(np.floor(box[:2] + 0.5), 0))
  x2, y2 = (int(v) for v in np.minimum(np.floor(box[2:] + 0.5), (width, height)))
  return x1, y1, min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)


def _background(grey: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> float:
  """The median around a box, else the least value in it."""
  top, left = max(y1 - _RING, 0), max(x1 - _RING, 0)
  around = grey[top : y2 + _RING, left : x2 + _RING]
  outside = np.ones(around.shape, bool)
  outside[y1 - top : y2 - top, x1 - left : x2 - left] = False
  return float(np.median(around[outside])) if outside.any() else float(grey[y1:y2, x1:x2].min())


def mirrored_gains(grey: np.ndarray, box: np.ndarray) -> tuple[float, float, float]:
  """How much brighter it is in a box mirrored left to right, top to bottom, and both, than in it.

  Args:
    grey: uint8 [H, W], the display image.
    box: f32[4] xyxy pixels.

  Returns:
    Differences of the contrast with what is around, 0 where a box holds no pixel.
  """
  height, width = grey.shape
  across = np.array([width - box[2], box[1], width - box[0], box[3]])
  down = np.array([box[0], height - box[3], box[2], height - box[1]])
  both = np.array([across[0], down[1], across[2], down[3]])
  found = []
  for one in (box, across, down, both):
    x1, y1, x2, y2 = _pixels_of(one, width, height)
    if x1 >= x2 or y1 >= y2:
      return 0.0, 0.0, 0.0
    found.append(float(grey[y1:y2, x1:x2].max()) - _background(grey, x1, y1, x2, y2))
  return found[1] - found[0], found[2] - found[0], found[3] - found[0]


def unboxed_blobs(grey: np.ndarray, boxes: np.ndarray, lesions: list[Lesion]) -> int | None:
  """Counts regions without a box that are as bright, small and compact as the image's lesions.

  Cross-sections of ribs and vessels can be among them. None without lesions to compare with.

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
