"""The lesions of a record: cut out as square windows, and how the record's boxes lie around them.

A window has the lesion in its middle and is the smallest of `patch.SIDES` that is at least three
times as long as the lesion. It is not resampled. All sources of lesions start from these windows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from hiresmed_jax.data import transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import outline
from hiresmed_jax.lesions.patch import LesionPatch, centroid, diameter, long_side, side_for
from hiresmed_jax.ops.inpaint import inpaint_window
from hiresmed_jax.ops.insertion_parts import TAIL_PX

BOXES = ("tight", "dataset")  # around inserted lesions

_NEAREST = 25  # real lesions of the nearest diameters, whose median padding a box gets


def crops_of(item: Mapping[str, Any]) -> Iterator[LesionPatch | str]:
  """Each lesion of an image as a patch, or why it cannot be used.

  Args:
    item: a record of `records.Records`. Where it has an instance mask, the mask is the lesion;
      elsewhere the lesion is found in its box.

  Yields:
    For each box a patch of kind "copy", or a reason: one of `outline.find`, "too large" for the
    largest window, or "at the border" of the image.
  """
  image, (low, high) = transforms.values_of(item)
  grey = image.mean(axis=-1)
  ids = item["lesion_mask"]
  for index, box in enumerate(item["boxes"]):
    mask = ids == index + 1
    if mask.any():
      found: outline.Outline | str = outline.known(grey, mask)
    else:
      found = outline.find(grey, box, outline.VISIBLE_CONTRAST * (high - low))
    yield found if isinstance(found, str) else _patch(item, image, found, (low, high))


def _patch(
  item: Mapping[str, Any],
  image: np.ndarray,
  found: outline.Outline,
  value_range: tuple[float, float],
) -> LesionPatch | str:
  side = side_for(long_side(found.mask))
  if side is None:
    return "too large"
  x, y = centroid(found.mask)
  left, top = round(x - side / 2), round(y - side / 2)
  if min(left, top) < 0 or top + side > image.shape[0] or left + side > image.shape[1]:
    return "at the border"
  window = (slice(top, top + side), slice(left, left + side))
  values, mask = image[window].copy(), found.mask[window]
  behind = without(values, mask, outline.REACH + 1).mean(axis=-1)
  contrast = found.peak - float(np.median(behind[mask]))
  if contrast < outline.VISIBLE_CONTRAST / 2 * (value_range[1] - value_range[0]):
    return "faint"
  # Dense tissue touches the lesion: the surround cannot be estimated.
  if np.percentile(behind[mask], 90) > found.background + 0.5 * (found.peak - found.background):
    return "not separate"
  return LesionPatch(
    values=values,
    surround=without(values, mask),
    alpha=outline.occupancy(values.mean(axis=-1), behind, mask, contrast),
    diameter_px=diameter(mask),
    spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
    physics=item["physics"],
    donor=item["image_id"],
    donor_group=item["group"],
    kind="copy",
    value_range=value_range,
  )


def without(values: np.ndarray, mask: np.ndarray, reach: float = TAIL_PX + 1) -> np.ndarray:
  """A window whose lesion is replaced by the estimated local background.

  Args:
    values: f32[S, S, C].
    mask: bool[S, S], the lesion.
    reach: pixels around it that are replaced too: one more than is inserted of its blur, since the
      end of the blur must not spread into the hole.

  Returns:
    f32[S, S, C].
  """
  around = ndimage.distance_transform_edt(~mask) <= reach
  filled = np.asarray(inpaint_window(values, around))
  # The interpolation may overshoot next to a bone.
  return np.where(
    around[..., None], np.clip(filled, values[~around].min(), values[~around].max()), values
  )


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
