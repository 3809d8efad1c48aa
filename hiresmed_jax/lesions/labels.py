"""Boxes around lesions: tight, or padded as the dataset's own boxes are."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import crops, outline
from hiresmed_jax.lesions.patch import diameter

BOXES = ("tight", "dataset")

_FLOOR = 0.04  # of the value range: a lesion of less contrast is not seen
_NEAREST = 25  # real lesions, in diameter, whose padding a box gets


def tight(mask: np.ndarray) -> tuple[float, float, float, float]:
  """xyxy pixels, half-open, around bool[H, W] that is not empty."""
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def padding(item: Mapping[str, Any]) -> np.ndarray:
  """How the boxes of a record lie around its lesions, f32[N, 5].

  Diameter of the lesion in pixels, then how far its box reaches beyond it to the left, above, to
  the right and below. Lesions whose border cannot be seen are left out.
  """
  values, (low, high) = crops.canvas(item)
  grey = values.mean(axis=-1)
  rows = []
  for index, box in enumerate(item["boxes"]):
    mask = item["lesion_mask"] == index + 1
    if not mask.any():
      found = outline.find(grey, box, _FLOOR * (high - low))
      if isinstance(found, str):
        continue
      mask = found.mask
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
    UserError: there is no real lesion to learn from.
  """
  if not len(paddings):
    raise UserError(
      "labels.box=dataset: no training lesion has a border that can be seen, so there is no "
      "padding to learn; use labels.box=tight"
    )
  order = np.argsort(np.abs(paddings[:, 0] * scale - diameter_px), kind="stable")[:_NEAREST]
  left, above, right, below = (np.median(paddings[order, 1:], axis=0) * scale).tolist()
  x1, y1, x2, y2 = box
  # Never narrower than a pixel, where the real boxes cut their lesions.
  x1, x2 = min(x1 - left, (x1 + x2 - 1) / 2), max(x2 + right, (x1 + x2 + 1) / 2)
  y1, y2 = min(y1 - above, (y1 + y2 - 1) / 2), max(y2 + below, (y1 + y2 + 1) / 2)
  height, width = shape
  return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
