"""The lesions that a background has of its own: taken out, or kept and labelled."""

from collections.abc import Mapping
from typing import Any

import cv2
import jax
import numpy as np

from hiresmed_jax.lesions import crops, outline
from hiresmed_jax.ops import inpaint
from hiresmed_jax.synthesis import canvas

_FLOOR = 0.04  # of the value range: a lesion of less contrast is not seen
_RING = 5  # pixels around a lesion that tell its background


def masks(values: np.ndarray, boxes: np.ndarray, lesion_mask: np.ndarray,
          value_range: tuple[float, float]) -> list[np.ndarray]:  # fmt: skip
  """bool[H, W] of each lesion in a box: as it is known, else as it is seen, else all of its box.

  Args:
    values: f32[H, W, C], dense bright.
    boxes: f32[N, 4] xyxy pixels.
    lesion_mask: uint16[H, W] with id = box index + 1, or (0, 0).
    value_range: (low, high) that is shown.
  """
  grey = values.mean(axis=-1)
  floor = _FLOOR * (value_range[1] - value_range[0])
  found = []
  for index, box in enumerate(boxes):
    known = lesion_mask == index + 1
    seen = outline.find(grey, box, floor) if not known.any() else None
    if known.any():
      found.append(known)
    elif isinstance(seen, outline.Outline):
      found.append(seen.mask)
    else:
      found.append(_ellipse(box, grey.shape))
  return [mask for mask in found if mask.any()]


def without(
  values: np.ndarray, lesions: list[np.ndarray], key: Any, *, reach: int = outline.REACH + 1
) -> np.ndarray:
  """f32[H, W, C] with the lesions, and so many pixels that they blur into, taken out."""
  if not lesions:
    return values
  holes = np.any(lesions, axis=0)
  return inpaint.inpaint(values, grown(holes, reach), key)


def taken_out_of(item: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
  """A record of `records.Records` whose pixels have no lesions left; `key` of the noise."""
  if not len(item["boxes"]):
    return dict(item)
  values, value_range = crops.canvas(item)
  found = masks(values, item["boxes"], item["lesion_mask"], value_range)
  return {
    **item,
    "image": canvas.stored(without(values, found, key), item),
    "boxes": np.zeros((0, 4), np.float32),
    "lesion_mask": np.zeros((0, 0), np.uint16),
  }


def contrast(values: np.ndarray, mask: np.ndarray) -> float:
  """Mean of a lesion over the median of a ring around it, value units."""
  grey = values.mean(axis=-1)
  inner = grown(mask, outline.REACH)
  ring = grown(inner, _RING) & ~inner
  around = float(np.median(grey[ring])) if ring.any() else float(np.median(grey))
  return float(grey[mask].mean()) - around


def grown(mask: np.ndarray, by: int) -> np.ndarray:
  """The pixels within `by` of a mask."""
  if not mask.any():
    return mask
  # Exact, and ten times as fast as SciPy's, which also looks for the nearest pixel.
  away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  return np.asarray(away <= by)


def _ellipse(box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """What a box holds when nothing in it can be told apart."""
  rows, columns = np.ogrid[: shape[0], : shape[1]]
  x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
  half = np.maximum((box[2:] - box[:2]) / 2, 0.5)
  return ((columns + 0.5 - x) / half[0]) ** 2 + ((rows + 0.5 - y) / half[1]) ** 2 <= 1
