"""Boxes around lesions: tight, or with the padding that the dataset's own boxes have."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import outline
from hiresmed_jax.lesions.patch import diameter

BOXES = ("tight", "dataset")

_NEAREST = 25  # real lesions of the nearest diameters, whose median padding a box gets


def tight(mask: np.ndarray) -> tuple[float, float, float, float]:
  """The box (xyxy pixels, half-open) around bool[H, W] that is not empty."""
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def padding(item: Mapping[str, Any]) -> np.ndarray:
  """How far the boxes of a record reach beyond its lesions.

  Returns:
    f32[N, 5], pixels: diameter of the lesion, then the padding to the left, above, to the right and
    below. Lesions whose outline is not found are left out.
  """
  values, (low, high) = transforms.values_of(item)
  grey = values.mean(axis=-1)
  rows = []
  for index, box in enumerate(item["boxes"]):
    known = item["lesion_mask"] == index + 1
    mask = outline.mask_of(grey, box, known, outline.VISIBLE_CONTRAST * (high - low))
    if mask is None:
      continue
    inner = tight(mask)
    beyond = [inner[0] - box[0], inner[1] - box[1], box[2] - inner[2], box[3] - inner[3]]
    rows.append([diameter(mask), *beyond])
  return np.asarray(rows, np.float32).reshape(-1, 5)


def padded(
  box: tuple[float, float, float, float],
  diameter_px: float,
  paddings: np.ndarray,
  *,
  scale: float,
  shape: tuple[int, int],
) -> tuple[float, float, float, float]:
  """A tight box with the median padding of the real lesions nearest in size, within the image.

  Args:
    box: xyxy pixels.
    diameter_px: of its lesion, in pixels of the canvas.
    paddings: f32[N, 5] of `padding`, in pixels of the records.
    scale: canvas pixels per pixel of the records.
    shape: (rows, columns) of the canvas.

  Raises:
    UserError: there is no real lesion to measure the padding of.
  """
  if not len(paddings):
    raise UserError(
      "labels.box=dataset: no training lesion has a border that can be seen, so there is no "
      "padding to learn; use labels.box=tight"
    )
  order = np.argsort(np.abs(paddings[:, 0] * scale - diameter_px), kind="stable")[:_NEAREST]
  left, above, right, below = (np.median(paddings[order, 1:], axis=0) * scale).tolist()
  x1, y1, x2, y2 = box
  # Real boxes may cut their lesions: the result is at least a pixel wide.
  x1, x2 = min(x1 - left, (x1 + x2 - 1) / 2), max(x2 + right, (x1 + x2 + 1) / 2)
  y1, y2 = min(y1 - above, (y1 + y2 - 1) / 2), max(y2 + below, (y1 + y2 + 1) / 2)
  height, width = shape
  return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
