"""The body in an image, and its box: coordinates in which places of different images compare.

H rows, W columns, C channels. Points are (x, y) pixels, pixel i covers [i, i + 1). u and v run from
0 to 1 across the body box.
"""

from typing import NamedTuple

import cv2
import numpy as np

_SIDE = 256  # the image is reduced to at most this side
_AIR = 0.08  # share of the shown range, from its low end, that may be air or padding
_BRIGHT = 99.5  # percentile that ends the range, so that metal and bone do not stretch it
_THIN = 0.01  # of the side: thinner parts are cables, table tops, letters
_GAP = 0.05  # of the side: width of dark fat and gas between organs
_PART = 0.05  # of the largest part's area: smaller parts may not belong to the body
_INSIDE = 0.95  # of a small part's area must lie in the convex hull of the large ones


class BodyBox(NamedTuple):
  """The body's extent in pixels, x1 < x2 and y1 < y2."""

  x1: float
  y1: float
  x2: float
  y2: float


def content(
  canvas: np.ndarray,
  *,
  value_range: tuple[float, float] | None = None,
  valid: np.ndarray | None = None,
) -> np.ndarray:
  """Finds the body, without padding, wedges of a rotation, surrounding air and the table.

  The body is the large parts above the low end of the shown range, with gaps between them closed
  and holes filled, so that it includes lungs and bowel gas. The mask is accurate to about 1/256 of
  the side, and rather too small than too large.

  Args:
    canvas: f32[H, W, C], any unit, dense tissue bright.
    value_range: (low, high) that is shown, to which values are clipped; None: no clipping.
    valid: bool[H, W], False on padding; None: there is none.

  Returns:
    bool[H, W]; `valid` where nothing is found, as in a constant image.
  """
  grey = canvas.mean(-1, dtype=np.float32)
  height, width = grey.shape
  everywhere = np.ones((height, width), bool) if valid is None else valid.astype(bool)
  step = max(1.0, max(height, width) / _SIDE)
  small = (max(1, round(width / step)), max(1, round(height / step)))
  coarse = cv2.resize(grey, small, interpolation=cv2.INTER_AREA) if step > 1 else grey
  if value_range is not None:
    coarse = np.clip(coarse, *value_range)
  low, high = float(coarse.min()), float(np.percentile(coarse, _BRIGHT))
  if not low < high:
    return everywhere
  body = _body((coarse > low + _AIR * (high - low)).astype(np.uint8))
  if not body.any():
    return everywhere
  if step > 1:
    # Coarse pixels at the rim are partly air.
    body = cv2.erode(body, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    body = cv2.resize(body, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
  return (body > 0) & everywhere


def _body(tissue: np.ndarray) -> np.ndarray:
  """The body, uint8[h, w], from the mask of pixels brighter than air; 0 and 1."""
  side = max(tissue.shape)
  thin, gap = max(1, round(_THIN * side)), max(1, round(_GAP * side))
  # Body and air continue beyond the border that they touch.
  parts = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, disc(thin), borderType=cv2.BORDER_REPLICATE)
  count, labels, stats, _ = cv2.connectedComponentsWithStats(parts, connectivity=8)
  if count < 2:
    return np.zeros_like(tissue)
  areas = stats[:, cv2.CC_STAT_AREA]
  large = areas >= _PART * areas[1:].max()
  large[0] = False
  # A kidney in fat lies between the large parts, a table top does not.
  hull = cv2.convexHull(cv2.findNonZero(large[labels].astype(np.uint8)))
  filled = cv2.fillConvexPoly(np.zeros_like(tissue), hull, 1)
  inside = np.bincount(labels[filled > 0], minlength=count)
  large[1:] |= inside[1:] >= _INSIDE * areas[1:]
  # Padded, since closing would fill wedges at the image's border.
  plane = np.pad(large[labels].astype(np.uint8), 2 * gap)
  plane = cv2.morphologyEx(plane, cv2.MORPH_CLOSE, disc(gap))
  closed = plane[2 * gap : -2 * gap, 2 * gap : -2 * gap]
  # Holes are dark parts that do not touch the border.
  _, labels = cv2.connectedComponents(1 - closed, connectivity=4)
  rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
  outside = np.isin(labels, np.unique(rim[rim > 0]))
  return (~outside).astype(np.uint8)


def disc(radius: int) -> np.ndarray:
  """uint8 mask of a disc, a structuring element."""
  return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def box(content: np.ndarray) -> BodyBox:
  """The box of bool[H, W] content, or of the whole image where there is none.

  Half a percent of the content lies beyond each side, so that an arm or a letter has no effect.
  """
  edges = []
  for axis, length in ((0, content.shape[1]), (1, content.shape[0])):
    sums = cv2.reduce(content.view(np.uint8), axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    shares = np.cumsum(sums)
    if shares[-1] == 0:
      edges.append((0.0, float(length)))
      continue
    first, last = np.searchsorted(shares, [0.005 * shares[-1] + 1e-9, 0.995 * shares[-1]])
    edges.append((float(first), float(last + 1)))
  (x1, x2), (y1, y2) = edges
  return BodyBox(x1, y1, x2, y2)


def normalised(points: np.ndarray, body: BodyBox) -> np.ndarray:
  """Converts points f64[N, 2] from (x, y) pixels to (u, v) of the body."""
  points = np.asarray(points, np.float64).reshape(-1, 2)
  return (points - body[:2]) / np.subtract(body[2:], body[:2])


def in_pixels(points: np.ndarray, body: BodyBox) -> np.ndarray:
  """Converts points f64[N, 2] from (u, v) of the body to (x, y) pixels."""
  points = np.asarray(points, np.float64).reshape(-1, 2)
  return points * np.subtract(body[2:], body[:2]) + body[:2]
