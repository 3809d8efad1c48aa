"""Lesion-free content shaped as a lesion, so that a detector cannot learn the seam."""

import numpy as np

from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.placement import atlas, body
from hiresmed_jax.placement.candidates import allowed, place
from hiresmed_jax.synthesis import put

_TRIES = 20  # images looked at for a place without lesions
_AROUND = 10  # pixels around a lesion of the image that are not taken either
_MARGIN_PX = 2.0


def draw(
  rng: np.random.Generator, source: Records, where: atlas.Atlas, shape: LesionPatch
) -> LesionPatch:
  """A window without a lesion, from where lesions are, with the occupancy of a lesion in it.

  Args:
    rng: equal states give equal windows.
    source: the training split.
    where: places like those of lesions; others would look out of place.
    shape: lends its occupancy.

  Returns:
    A patch of kind "sham": values are the image, surround what is estimated from around the mask.

  Raises:
    UserError: no image has room for one.
  """
  mask = shape.mask
  for _ in range(_TRIES):
    item = source[int(rng.integers(len(source)))]
    values, value_range = crops.canvas(item)
    content = body.content(values, value_range=value_range)
    free = allowed(_own_lesions(item["boxes"], content.shape), content, _MARGIN_PX)
    try:
      (site,) = place(rng, atlas.score_map(where, content), free, [mask], min_gap_px=0.0)
    except UserError:
      continue
    window = put.window(values, site.origin, len(mask))
    return shape._replace(
      values=window,
      surround=crops.without(window, mask),
      spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
      donor=item["image_id"],
      donor_group=item["group"],
      kind="sham",
      value_range=value_range,
    )
  raise UserError("no training image has room for lesion-free content of that size: use --shams 0")


def _own_lesions(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """uint8[H, W], 1 in the boxes and around them."""
  inside = np.zeros(shape, np.uint8)
  for x1, y1, x2, y2 in boxes:
    rows = slice(int(max(y1 - _AROUND, 0)), int(np.ceil(y2)) + _AROUND)
    inside[rows, int(max(x1 - _AROUND, 0)) : int(np.ceil(x2)) + _AROUND] = 1
  return inside
