"""Labels, and their boxes and outlines checked against their image.

Boxes are f32[N, 4], half-open xyxy pixels. Only an overhang of up to one pixel, which rounding and
counting from 1 make, is clipped.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from hiresmed_jax.data.readers.text import BadBoxes

OVERHANG = 1.0  # pixels
_OUTLINE_EDGES = 2.0  # pixels between the edges of a box and of the outline in it


class Outside(BadBoxes):
  """Boxes that lie outside of their image."""


class Mark(NamedTuple):
  """One thing that is marked in an image.

  Attributes:
    name: of its class.
    corners: (x1, y1, x2, y2); None takes those of the outline.
    where: its place in the label, for messages.
    outline: polygons, each x1, y1, x2, y2, ...; or COCO's run lengths; None: a box.
  """

  name: str
  corners: Sequence[float] | None
  where: str
  outline: Any = None


@dataclasses.dataclass(frozen=True)
class Label:
  """What a label says of one image.

  Attributes:
    name: of the image, as the label gives it.
    path: of the label file.
    marks: none says that the image is negative.
    size: (width, height) of the image that was labelled; None when it is not told.
    in_shares: positions are shares of the image's width and height, not pixels.
    refused: why the label cannot be used; "" when it can.
    notes: what is odd in it, as `Sample.notes`.
    own_name: of the image, as the content of a file of one image gives it; "" for none.
    numbers: of the classes, by name, where the format has numbers.
  """

  name: str
  path: Path
  marks: tuple[Mark, ...] = ()
  size: tuple[int, int] | None = None
  in_shares: bool = False
  refused: str = ""
  notes: tuple[str, ...] = ()
  own_name: str = ""
  numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)


def boxes_of(label: Label, marks: Sequence[Mark], width: int, height: int) -> np.ndarray:
  """Boxes f32[N, 4] xyxy pixels of some marks of a label, in an image of width x height.

  Raises:
    BadBoxes: NaN, no area, or further outside than rounding makes.
  """
  found = []
  for mark in marks:
    corners = mark.corners if mark.corners is not None else _around(mark, height, width)
    found.append(fitted(corners, width, height, mark.where, in_shares=label.in_shares))
  return np.stack(found) if found else np.zeros((0, 4), np.float32)


def fitted(
  corners: Sequence[float], width: int, height: int, where: str, *, in_shares: bool = False
) -> np.ndarray:
  """One box of a label in its image; see `inside`. Raises BadBoxes, with a word on its order."""
  x1, y1, x2, y2 = corners
  scale = (width, height, width, height) if in_shares else (1, 1, 1, 1)
  try:
    return inside(np.asarray(corners, np.float64) * scale, width, height, where)
  except BadBoxes as error:
    x, y, w, h = x1, y1, x2 - x1, y2 - y1
    if in_shares:
      x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, 1, 1
    if math.isfinite(w + h) and 0 <= x < w <= width and 0 <= y < h <= height:
      raise type(error)(f"{error}; its numbers fit as two corners: is it xyxy?") from None
    raise


def _around(mark: Mark, height: int, width: int) -> tuple[float, float, float, float]:
  if isinstance(mark.outline, list):
    points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in mark.outline])
    return (*points.min(0).tolist(), *points.max(0).tolist())
  rows, columns = np.nonzero(outline_of(mark, height, width))
  if not len(rows):
    raise BadBoxes(f"{mark.where} has an empty mask")
  return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def outline_of(mark: Mark, height: int, width: int, scale: tuple[float, float] = (1, 1)) -> Any:
  """bool[H, W] of a mark's polygons or run lengths, by pycocotools.

  Raises:
    BadBoxes: damaged, or of another size.
    ImportError: pycocotools is not installed.
  """
  from pycocotools import mask as coco_masks

  shape = mark.outline
  if isinstance(shape, dict) and list(shape.get("size", ())) != [height, width]:
    raise BadBoxes(f"{mark.where} has a mask of another size")
  try:
    if isinstance(shape, dict):
      if isinstance(shape["counts"], list):
        shape = coco_masks.frPyObjects(shape, height, width)
      return _decoded(shape) > 0
    turned = [(np.reshape(p, (-1, 2)) * scale).ravel().tolist() for p in shape]
    if min(map(len, turned), default=0) < 6:
      raise ValueError
    return _decoded(coco_masks.frPyObjects(turned, height, width)).any(-1)
  except (KeyError, TypeError, ValueError) as error:
    raise BadBoxes(f"{mark.where} has a mask that cannot be read") from error


def check_outline(drawn: np.ndarray, box: np.ndarray, where: str) -> None:
  """Raises BadBoxes where an outline does not fit its box.

  It may lie anywhere in a box that is too large, but not where the box has its edges because its
  two corners were given as corner and size.

  Args:
    drawn: bool[H, W], its pixels.
    box: f32[4] xyxy pixels.
    where: its place in the label.
  """
  x, y, w, h = cv2.boundingRect(drawn.view(np.uint8))
  if not w:
    raise BadBoxes(f"{where} has an empty mask")
  own = np.array([x, y, x + w, y + h])
  if np.abs(own - box).max() <= _OUTLINE_EDGES:
    return
  as_corners = np.array([*box[:2], *(box[2:] - box[:2])])
  if np.abs(own - as_corners).max() <= _OUTLINE_EDGES:
    raise BadBoxes(f"{where} has a bbox whose numbers are the corners of its outline: is it xyxy?")
  over = np.maximum(box[:2] - own[:2], own[2:] - box[2:]).max()
  if over > _OUTLINE_EDGES and not overlap(np.stack([own, box])):
    raise BadBoxes(f"{where} has an outline that does not fit its bbox")


def _decoded(run_lengths: Any) -> np.ndarray:
  from pycocotools import mask as coco_masks

  with warnings.catch_warnings():  # of NumPy 2, about how pycocotools gives its arrays
    warnings.simplefilter("ignore", DeprecationWarning)
    return np.asarray(coco_masks.decode(run_lengths))


def tight_boxes(mask: np.ndarray) -> np.ndarray:
  """Boxes f32[N, 4] around the ids 1 to N of a mask [H, W]."""
  found = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(mask)]
  return np.array(found, np.float32).reshape(-1, 4)


def overlap(boxes: np.ndarray) -> bool:
  """Whether two boxes share more than half of their union."""
  for n, box in enumerate(boxes[:-1]):
    rest = boxes[n + 1 :]
    both = np.minimum(box[2:], rest[:, 2:]) - np.maximum(box[:2], rest[:, :2])
    common = np.clip(both, 0, None).prod(1)
    if (common > 0.5 * ((box[2:] - box[:2]).prod() + areas_of(rest) - common)).any():
      return True
  return False


def areas_of(boxes: np.ndarray) -> np.ndarray:
  """Pixels of boxes f32[N, 4]."""
  return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def inside(box: Sequence[float] | np.ndarray, width: int, height: int, where: str) -> np.ndarray:
  """One box f32[4], clipped to its image.

  Raises:
    BadBoxes: not finite, no area, corners the wrong way round, or further outside.
  """
  corners = np.asarray(box, np.float64)
  limits = np.array([width, height, width, height], np.float64)
  if not np.isfinite(corners).all():
    raise BadBoxes(f"{where} is not finite")
  if corners[0] >= corners[2] or corners[1] >= corners[3]:
    raise BadBoxes(f"{where} has no area, or its corners are the wrong way round")
  if (corners < -OVERHANG).any() or (corners > limits + OVERHANG).any():
    raise Outside(f"{where} lies outside the image of {width} x {height} pixels")
  clipped = np.clip(corners, 0.0, limits).astype(np.float32)
  if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
    raise BadBoxes(f"{where} has no area inside the image")
  return clipped
