"""The pixels at which a lesion's footprint fits, found exactly and in a few milliseconds.

H, W: image; h, w: footprint. A footprint is *at* the pixel that holds its centroid.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_HEIGHTS = (0.2, 0.45, 0.65, 0.8, 0.92)  # of rectangles that fill most of a round mask


class Footprint(NamedTuple):
  """A lesion's mask without empty rows and columns around it."""

  mask: np.ndarray  # uint8[h, w] of 0 and 1
  corner: tuple[int, int]  # (row, column) of the mask in the array it was cut from
  # (row, column), floats, from the mask's corner; pixel i covers [i, i + 1).
  centroid: tuple[float, float]
  area: int  # pixels

  @classmethod
  def of(cls, array: np.ndarray) -> "Footprint":
    """Cuts bool[h, w]; raises ValueError when nothing is set."""
    rows, columns = np.nonzero(array)
    if array.ndim != 2 or not len(rows):
      raise ValueError(f"a footprint of {array.shape} without a pixel")
    top, left = int(rows.min()), int(columns.min())
    mask = array[top : rows.max() + 1, left : columns.max() + 1].astype(bool).astype(np.uint8)
    centroid = (float(rows.mean()) + 0.5 - top, float(columns.mean()) + 0.5 - left)
    return cls(np.ascontiguousarray(mask), (top, left), centroid, len(rows))

  @property
  def diameter_px(self) -> float:
    """Of the disc of the same area."""
    return 2.0 * math.sqrt(self.area / math.pi)

  @property
  def anchor(self) -> tuple[int, int]:
    """(row, column) of the pixel of the mask that holds the centroid."""
    return int(self.centroid[0]), int(self.centroid[1])

  def origin_at(self, pixel: tuple[int, int]) -> tuple[int, int]:
    """(row, column) at which the whole array begins when the footprint is at a pixel."""
    row, column = (p - a - c for p, a, c in zip(pixel, self.anchor, self.corner))
    return int(row), int(column)

  def centre_at(self, origin: tuple[int, int]) -> tuple[float, float]:
    """(x, y) of the centroid when the whole array begins at `origin`."""
    y, x = (o + c + m for o, c, m in zip(origin, self.corner, self.centroid))
    return x, y

  def pixel_for(self, point: tuple[float, float]) -> tuple[int, int]:
    """The pixel at which the centroid is nearest to (x, y)."""
    x, y = point
    row, column = (round(v - c) + a for v, c, a in zip((y, x), self.centroid, self.anchor))
    return int(row), int(column)

  def inside(self, pixel: tuple[int, int], shape: tuple[int, ...]) -> bool:
    """Whether the footprint at this pixel lies in an image of `shape`."""
    first = [p - a for p, a in zip(pixel, self.anchor)]
    return all(f >= 0 and f + m <= n for f, m, n in zip(first, self.mask.shape, shape))


def fits(allowed: np.ndarray, shape: Footprint) -> np.ndarray:
  """Pixels of bool[H, W] at which the whole footprint lies in the image and on allowed pixels."""
  return erode(allowed, shape.mask, shape.anchor, beyond=False)


def erode(
  pixels: np.ndarray, mask: np.ndarray, anchor: tuple[int, int], *, beyond: bool
) -> np.ndarray:
  """Pixels at which the whole mask lies on True ones; exact.

  OpenCV's time for a rectangle grows with its sides, that for another mask with its area. So most
  of the mask is tested as rectangles, and only the rest as it is.

  Args:
    pixels: bool[H, W].
    mask: uint8[h, w] of 0 and 1.
    anchor: (row, column) of the mask's element that lies on the tested pixel.
    beyond: the value of pixels outside the image.

  Returns:
    bool[H, W].
  """
  rectangles, rest = _rectangles_and_rest(mask)
  image = pixels.view(np.uint8)
  out: np.ndarray = np.ones(pixels.shape, np.uint8)
  kernels = [(np.ones(size, np.uint8), corner) for corner, size in rectangles]
  if rest.any():
    kernels.append((rest, (0, 0)))
  for kernel, (top, left) in kernels:
    out &= _eroded(image, kernel, (anchor[0] - top, anchor[1] - left), beyond)
  return out > 0


def _eroded(
  image: np.ndarray, kernel: np.ndarray, anchor: tuple[int, int], beyond: bool
) -> np.ndarray:
  """The same for one kernel, whose anchor may lie outside of it, unlike OpenCV's."""
  inside = tuple(min(max(a, 0), n - 1) for a, n in zip(anchor, kernel.shape))
  down, right = (i - a for i, a in zip(inside, anchor))
  height, width = image.shape
  framed = cv2.copyMakeBorder(
    image, max(0, -down), max(0, down), max(0, -right), max(0, right), cv2.BORDER_CONSTANT,
    value=float(beyond),
  )  # fmt: skip
  eroded = cv2.erode(
    framed, kernel, anchor=inside[::-1], borderType=cv2.BORDER_CONSTANT, borderValue=float(beyond)
  )
  top, left = max(0, down), max(0, right)
  return np.asarray(eroded[top : top + height, left : left + width])


_Rectangle = tuple[tuple[int, int], tuple[int, int]]  # (row, column) of its corner, (rows, columns)


def _rectangles_and_rest(mask: np.ndarray) -> tuple[list[_Rectangle], np.ndarray]:
  """Rectangles of several heights inside a mask, around its middle, and the rest of the mask."""
  rest, rectangles = mask.copy(), []
  height = mask.shape[0]
  for rows in sorted({round(share * height) for share in _HEIGHTS} - {0}):
    top = (height - rows) // 2
    full = np.flatnonzero(np.diff(mask[top : top + rows].all(0), prepend=0, append=0))
    if len(full):
      starts, ends = full[::2], full[1::2]
      longest = int((ends - starts).argmax())
      left, columns = int(starts[longest]), int(ends[longest] - starts[longest])
      rectangles.append(((top, left), (rows, columns)))
      rest[top : top + rows, left : left + columns] = 0
  return rectangles, rest


def clear_of(
  room: np.ndarray,
  shape: Footprint,
  placed: Sequence[tuple[Footprint, tuple[int, int]]],
  gap: float,
) -> np.ndarray:
  """The pixels of bool[H, W] `room` at which a footprint keeps its distance from those placed.

  `placed` has each with the (row, column) at which its whole array begins; `gap` is the least
  distance between the pixel centres of two footprints, at least 1. -> bool[H, W]; `room` itself
  when nothing is placed yet.
  """
  free = room.copy() if placed else room
  for other, origin in placed:
    reach = math.ceil(gap) + max(shape.mask.shape)
    near = _near(other, shape, reach, gap)
    corner = [o + c - reach for o, c in zip(origin, other.corner)]
    first = [max(0, c) for c in corner]
    last = [max(f, min(n, c + m)) for f, c, m, n in zip(first, corner, near.shape, room.shape)]
    window = tuple(slice(a, b) for a, b in zip(first, last))
    free[window] &= ~near[tuple(slice(a - c, b - c) for a, b, c in zip(first, last, corner))]
  return free


def _near(other: Footprint, shape: Footprint, reach: int, gap: float) -> np.ndarray:
  """bool: pixels at which `shape` is too near to the other mask, which is padded by `reach`."""
  distance = cv2.distanceTransform(
    1 - np.pad(other.mask, reach), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
  )
  far = np.rint(distance**2) >= gap**2 - 1e-9  # squares of distances are integers
  return ~erode(far, shape.mask, shape.anchor, beyond=True)
