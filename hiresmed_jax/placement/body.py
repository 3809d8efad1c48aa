"""Where in an image there is a body, and its box, in which places of different images compare.

H rows, W columns, C channels; points are (x, y) pixels, pixel i covers [i, i + 1); u and v run from
0 to 1 across the body box.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

_SIDE = 256  # the body is sought in an image of at most this side
_AIR = 0.08  # share of the shown range, from its low end, that may be air or padding
_BRIGHT = 99.5  # percentile that ends the range: metal and bone do not stretch it
_THIN = 0.01  # of the side: what is thinner is a cable, a table top, a letter
_GAP = 0.05  # of the side: fat and gas that are as dark as air, between organs
_PART = 0.05  # of the largest part: what is smaller may be no part of the body
_AMONG = 0.95  # of a small part's area lies in the convex hull of the large ones, if it is one


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
  """Finds the body: no padding, no wedge of a rotation, no air around it, no table under it.

  The large parts above the low end of the shown range, gaps between them closed and holes filled,
  so that lungs and bowel gas belong to it. It is a coarse mask: right to about 1/256 of the side,
  and rather too small than too large.

  Args:
    canvas: f32[H, W, C], any unit, dense tissue bright.
    value_range: (low, high), what is shown: values outside are clipped; None takes all there are.
    valid: bool[H, W], False on padding; None where there is none.

  Returns:
    bool[H, W]; all that is valid where the image shows nothing, a constant one for instance.
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
    # A coarse pixel on the rim is partly air.
    body = cv2.erode(body, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    body = cv2.resize(body, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
  return (body > 0) & everywhere


def _body(tissue: np.ndarray) -> np.ndarray:
  """uint8[h, w] of 0 and 1, the same type: the body that these pixels above air belong to."""
  side = max(tissue.shape)
  thin, gap = max(1, round(_THIN * side)), max(1, round(_GAP * side))
  # Beyond the frame the body goes on where it touches the frame, and air where air does.
  parts = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, _disc(thin), borderType=cv2.BORDER_REPLICATE)
  count, labels, stats, _ = cv2.connectedComponentsWithStats(parts, connectivity=8)
  if count < 2:
    return np.zeros_like(tissue)
  areas = stats[:, cv2.CC_STAT_AREA]
  large = areas >= _PART * areas[1:].max()
  large[0] = False
  # A kidney in fat lies among the large parts, a table top does not.
  hull = cv2.convexHull(cv2.findNonZero(large[labels].astype(np.uint8)))
  among = cv2.fillConvexPoly(np.zeros_like(tissue), hull, 1)
  inside = np.bincount(labels[among > 0], minlength=count)
  large[1:] |= inside[1:] >= _AMONG * areas[1:]
  # Closed on a plane without end: at the frame's own edge a wedge would be filled.
  plane = np.pad(large[labels].astype(np.uint8), 2 * gap)
  plane = cv2.morphologyEx(plane, cv2.MORPH_CLOSE, _disc(gap))
  closed = plane[2 * gap : -2 * gap, 2 * gap : -2 * gap]
  return _without_holes(np.ascontiguousarray(closed))


def _without_holes(mask: np.ndarray) -> np.ndarray:
  """Adds the dark parts that do not touch the frame."""
  _, labels = cv2.connectedComponents(1 - mask, connectivity=4)
  rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
  outside = np.isin(labels, np.unique(rim[rim > 0]))
  return (~outside).astype(np.uint8)


def _disc(radius: int) -> np.ndarray:
  return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def box(content: np.ndarray) -> BodyBox:
  """The box of bool[H, W] content; the whole image's where there is none.

  Half a percent of the content may lie beyond each side, so that an arm or a letter does not count.
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
  """Points f64[N, 2] (x, y) in pixels to (u, v) of the body."""
  corner, size = _corner_and_size(body)
  return (np.asarray(points, np.float64).reshape(-1, 2) - corner) / size


def in_pixels(points: np.ndarray, body: BodyBox) -> np.ndarray:
  """Points f64[N, 2] (u, v) of the body to (x, y) in pixels."""
  corner, size = _corner_and_size(body)
  return np.asarray(points, np.float64).reshape(-1, 2) * size + corner


def _corner_and_size(body: BodyBox) -> tuple[np.ndarray, np.ndarray]:
  return np.array([body.x1, body.y1]), np.array([body.x2 - body.x1, body.y2 - body.y1])


def content_of(item: Mapping[str, Any]) -> np.ndarray:
  """bool[H, W] content of an item of `records.Records`, whatever its photometric."""
  slope, intercept = float(item["rescale_slope"]), float(item["rescale_intercept"])
  low, high = (float(value) for value in item["value_range"])
  canvas = slope * item["image"].astype(np.float32) + intercept
  if item["photometric"] == "MONOCHROME1":
    canvas = low + high - canvas
  return content(canvas, value_range=(low, high))
