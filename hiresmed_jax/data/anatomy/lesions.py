"""Lesions with exact outlines: their sites, their masks, and the share of each pixel they fill."""

import dataclasses

import cv2
import numpy as np

from hiresmed_jax.data.anatomy.shapes import Window
from hiresmed_jax.data.readers.boxes import tight_boxes
from hiresmed_jax.errors import UserError

_FINER = 8  # subpixels per pixel, along each side, in which an outline is drawn
SMALLEST_PX = 2.5  # smaller lesions would not be visible: diameters are raised to it


@dataclasses.dataclass(frozen=True, eq=False)
class Lesion:
  """One lesion in its window of the image.

  Attributes:
    window: rows and columns, with room around for blur.
    filled: f32[h, w], share of each pixel inside the outline.
    chord: f32[h, w], length of the ray inside a body of that outline, 1 at most; means of pixels.
    diameter_mm: 2 sqrt(area / pi) of the outline.
  """

  window: Window
  filled: np.ndarray
  chord: np.ndarray
  diameter_mm: float

  def blurred(self, image: np.ndarray, sigma: float) -> np.ndarray:
    """`filled` or `chord`, blurred by `sigma` pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)


def draw(
  rng: np.random.Generator,
  allowed: np.ndarray,
  spacing: float,
  *,
  count: int,
  must: bool,
  diameter_mm: tuple[float, float],
  median_mm: float,
  rough: tuple[float, float],
  margin: int,
) -> list[Lesion]:
  """Places `count` lesions whose whole outlines lie in `allowed`, two pixels or more apart.

  Args:
    rng: source of sites, sizes and shapes.
    allowed: bool[H, W].
    spacing: mm per pixel.
    count: lesions wanted.
    must: whether fewer are an error.
    diameter_mm: range of diameters; both ends are raised to `SMALLEST_PX` pixels where need be.
    median_mm: of the log-normal that diameters are drawn from, within the range.
    rough: range of the relative swing of an outline's radius.
    margin: pixels kept in the window around the outline, for blur.

  Raises:
    UserError: `must`, and there is no room for all.
  """
  free = np.pad(allowed.astype(np.uint8), 1)
  low = max(diameter_mm[0], SMALLEST_PX * spacing)
  high = max(diameter_mm[1], 1.2 * low)
  lesions: list[Lesion] = []
  for _ in range(count):
    room = cv2.distanceTransform(free, cv2.DIST_L2, 5)
    for attempt in range(12):
      drawn = float(np.exp(np.log(median_mm) + 0.55 * rng.standard_normal()))
      # Where little fits, later attempts are smaller.
      diameter = float(np.clip(drawn, low, low + (high - low) * 0.75**attempt))
      outline = _outline(rng, diameter / spacing, float(rng.uniform(*rough)))
      reach = float(np.hypot(*outline.T).max())
      sites = np.flatnonzero(room > reach + 1.0)
      if sites.size:
        break
    else:
      if must:
        raise UserError(
          f"no room for {count} lesions in an image of {allowed.shape[1]} x {allowed.shape[0]}: "
          "ask for fewer or smaller ones, or a larger image"
        )
      break
    row, column = np.unravel_index(sites[rng.integers(sites.size)], room.shape)
    center = np.array([column - 1, row - 1]) + rng.uniform(0.2, 0.8, 2)
    lesions.append(_lesion(center, outline, spacing, margin, allowed.shape, rng.uniform(2, 4)))
    cv2.circle(free, (int(column), int(row)), int(np.ceil(reach)) + 3, 0, -1)
  return lesions


def masks(lesions: list[Lesion], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """(uint16[H, W] instance ids, f32[N, 4] tight xyxy boxes) of the pixels that are half inside."""
  ids = np.zeros(shape, np.uint16)
  for number, lesion in enumerate(lesions, 1):
    ids[lesion.window][lesion.filled >= 0.5] = number
  return ids, tight_boxes(ids)


def _outline(rng: np.random.Generator, diameter: float, rough: float) -> np.ndarray:
  """A lumpy closed curve [96, 2] around the origin, of the area of a disc of `diameter`."""
  angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
  order = np.arange(2, 9)
  weight = rng.normal(size=order.size) / order
  phase = rng.uniform(0, 2 * np.pi, order.size)
  radius = 1 + 1.3 * rough * (weight * np.cos(angle[:, None] * order + phase)).sum(1)
  radius = np.clip(radius, 0.45, 1.7)
  stretch = np.exp(rng.uniform(-0.28, 0.28))
  turn = rng.uniform(0, np.pi)
  x, y = stretch * radius * np.cos(angle), radius * np.sin(angle) / stretch
  points = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], 1)
  return points * (diameter * np.sqrt(np.pi / 4 / _area(points)))


def _area(points: np.ndarray) -> float:
  x, y = points.T
  return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _lesion(
  center: np.ndarray,
  outline: np.ndarray,
  spacing: float,
  margin: int,
  shape: tuple[int, int],
  roundness: float,
) -> Lesion:
  points = outline + center
  low = np.maximum(np.floor(points.min(0)).astype(int) - margin, 0)
  high = np.minimum(np.ceil(points.max(0)).astype(int) + margin, shape[::-1])
  width, height = high - low
  # Distance of each subpixel from the centre, as a share of that of the outline.
  y, x = np.mgrid[0 : height * _FINER, 0 : width * _FINER].astype(np.float32)
  x = (x + 0.5) / _FINER + low[0] - center[0]
  y = (y + 0.5) / _FINER + low[1] - center[1]
  bearing = np.arctan2(outline[:, 1], outline[:, 0])
  turn = np.argsort(bearing)
  edge = np.interp(
    np.arctan2(y, x), bearing[turn], np.hypot(*outline.T)[turn], period=2 * np.pi
  ).astype(np.float32)
  share = np.hypot(x, y) / edge
  inside = (share < 1).astype(np.float32)
  chord = np.sqrt(np.maximum(1 - share ** np.float32(roundness), 0))
  size = (int(width), int(height))
  return Lesion(
    (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))),
    cv2.resize(inside, size, interpolation=cv2.INTER_AREA),
    cv2.resize(chord, size, interpolation=cv2.INTER_AREA),
    spacing * 2 * float(np.sqrt(_area(outline) / np.pi)),
  )
