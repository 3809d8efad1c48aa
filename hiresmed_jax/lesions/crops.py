"""Lesions of an image cut out as square windows, not resampled: what all sources start from.

A window has the lesion in its middle and is the smallest of `patch.SIDES` that is at least three
times as long as the lesion.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from hiresmed_jax.data import transforms
from hiresmed_jax.lesions import outline
from hiresmed_jax.lesions.patch import LesionPatch, centroid, diameter, long_side, side_for
from hiresmed_jax.ops.inpaint import inpaint_window


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
  surround = without(values, mask)
  behind = surround.mean(axis=-1)
  contrast = found.peak - float(np.median(behind[mask]))
  if contrast < outline.VISIBLE_CONTRAST / 2 * (value_range[1] - value_range[0]):
    return "faint"
  # Dense tissue touches the lesion: the surround cannot be estimated.
  if np.percentile(behind[mask], 90) > found.background + 0.5 * (found.peak - found.background):
    return "not separate"
  return LesionPatch(
    values=values,
    surround=surround,
    alpha=outline.occupancy(values.mean(axis=-1), behind, mask, contrast),
    diameter_px=diameter(mask),
    spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
    physics=item["physics"],
    donor=item["image_id"],
    donor_group=item["group"],
    kind="copy",
    value_range=value_range,
  )


def without(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """A window f32[S, S, C] whose lesion bool[S, S] is replaced by the estimated local background."""
  # One pixel more than a lesion changes: the end of its blur must not spread into the hole.
  around = ndimage.distance_transform_edt(~mask) <= outline.REACH + 1
  filled = np.asarray(inpaint_window(values, around))
  # The interpolation may overshoot next to a bone.
  return np.where(
    around[..., None], np.clip(filled, values[~around].min(), values[~around].max()), values
  )
