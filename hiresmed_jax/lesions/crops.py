"""Lesions of the training split as square windows, never resampled: all sources start here.

A window holds a lesion in its middle and context of twice its size around it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import outline
from hiresmed_jax.lesions.patch import SIDES, LesionPatch, centroid, diameter, long_side, side_for
from hiresmed_jax.ops.inpaint import inpaint_window

_FLOOR = 0.04  # of the value range: a lesion of less contrast is not seen


def gather(
  source: Records,
  *,
  sides: Sequence[int] = SIDES,
  limit: int | None = None,
  skipped: Counter[str] | None = None,
) -> list[LesionPatch]:
  """Every lesion of the training split that can be used, in the order of the records.

  Args:
    source: `records.source(dataset, "train")`, with its masks where it has any.
    sides: windows to choose from: the smallest that is three times as long as the lesion.
    limit: stop after so many lesions.
    skipped: counts the lesions left out, by reason: "at the border" of the image, "too large" for
      the largest window, "too small", "faint", "not separate" from denser tissue, "outside".

  Returns:
    Patches of kind "copy"; see `crop`.

  Raises:
    UserError: the images are not those of the training split.
  """
  if source.split != "train":
    raise UserError(
      f"lesions are taken from the training split alone, not from {source.split!r}: a donor that "
      "is held out would make every later number worthless"
    )
  patches: list[LesionPatch] = []
  skipped = Counter() if skipped is None else skipped
  for item in source:
    for found in crops_of(item, sides=sides):
      if limit is not None and len(patches) >= limit:
        return patches
      if isinstance(found, str):
        skipped[found] += 1
      else:
        patches.append(found)
  return patches


def crops_of(
  item: Mapping[str, Any], *, sides: Sequence[int] = SIDES
) -> Iterable[LesionPatch | str]:
  """Each lesion of an image as a patch, or why it is left out (see `gather`).

  Args:
    item: a record of `records.Records`. With its instance mask each lesion is what the mask says;
      without, what stands out in the box.
  """
  image, (low, high) = canvas(item)
  grey = image.mean(axis=-1)
  ids = item["lesion_mask"]
  for index, box in enumerate(item["boxes"]):
    mask = ids == index + 1
    if mask.any():
      found: outline.Outline | str = outline.known(grey, mask)
    else:
      found = outline.find(grey, box, _FLOOR * (high - low))
    yield found if isinstance(found, str) else _patch(item, image, found, (low, high), sides)


def canvas(item: Mapping[str, Any]) -> tuple[np.ndarray, tuple[float, float]]:
  """-> (f32[H, W, C] in value units, dense bright, (low, high)) of a record."""
  low, high = (float(v) for v in item["value_range"])
  values = item["image"].astype(np.float32) * np.float32(item["rescale_slope"])
  values += np.float32(item["rescale_intercept"])
  if item["photometric"] == "MONOCHROME1":
    values = np.float32(low + high) - values
  return values, (low, high)


def _patch(
  item: Mapping[str, Any],
  image: np.ndarray,
  found: outline.Outline,
  value_range: tuple[float, float],
  sides: Sequence[int],
) -> LesionPatch | str:
  side = side_for(long_side(found.mask), sides)
  if side is None:
    return "too large"
  x, y = centroid(found.mask)
  left, top = round(x - side / 2), round(y - side / 2)
  if min(left, top) < 0 or top + side > image.shape[0] or left + side > image.shape[1]:
    return "at the border"
  window = (slice(top, top + side), slice(left, left + side))
  values, mask = image[window].copy(), found.mask[window]
  surround = without(values, mask)
  grey, bare = values.mean(axis=-1), surround.mean(axis=-1)
  contrast = found.peak - float(np.median(bare[mask]))
  if contrast < _FLOOR / 2 * (value_range[1] - value_range[0]):
    return "faint"
  # Something dense lies against it: what is behind the lesion would be guesswork.
  if np.percentile(bare[mask], 90) > found.background + 0.5 * (found.peak - found.background):
    return "not separate"
  return LesionPatch(
    values=values,
    surround=surround,
    alpha=outline.occupancy(grey, bare, mask, contrast),
    diameter_px=diameter(mask),
    spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
    physics=item["physics"],
    donor=item["image_id"],
    donor_group=item["group"],
    kind="copy",
    value_range=value_range,
  )


def without(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """f32[S, S, C], a window without the lesion of bool[S, S]: the estimated local background."""
  # A pixel more than a lesion changes, so that the last of its blur does not spread into the hole.
  around = ndimage.distance_transform_edt(~mask) <= outline.REACH + 1
  filled = np.asarray(inpaint_window(values, around))
  # The plate may swing beyond what is there, next to a bone.
  return np.where(
    around[..., None], np.clip(filled, values[~around].min(), values[~around].max()), values
  )
