"""Lesions put into a canvas, and shams: lesion-free content put in by the same way."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.ops import insertion
from hiresmed_jax.placement import atlas, body
from hiresmed_jax.placement.candidates import Site, allowed_pixels, place
from hiresmed_jax.synthesis.fitting import Fitted


def put_in(
  values: np.ndarray, lesions: Sequence[Fitted], sites: Sequence[Site], *, mode: str
) -> np.ndarray:
  """A copy of f32[H, W, C] with the lesions at their sites."""
  values = values.copy()
  for lesion, site in zip(lesions, sites, strict=True):
    rows, columns = (
      _mirrored(start, len(lesion.mask), size) for start, size in zip(site.origin, values.shape[:2])
    )
    window = values[np.ix_(rows, columns)]
    made = np.asarray(_insert(window, lesion.values, lesion.surround, lesion.alpha, mode=mode))
    to, of = _overlap(site.origin, len(lesion.mask), values.shape[:2])
    values[to] = made[of]
  return values


def window(values: np.ndarray, origin: tuple[int, int], side: int) -> np.ndarray:
  """A copy of a square window of f32[H, W, C]; beyond the border the image is mirrored."""
  rows, columns = (_mirrored(start, side, size) for start, size in zip(origin, values.shape[:2]))
  return values[np.ix_(rows, columns)]


def instances(
  lesions: Sequence[Fitted], sites: Sequence[Site], shape: tuple[int, int], *, first: int = 1
) -> np.ndarray:
  """uint16[H, W] instance ids, `first` for the first lesion, 0 elsewhere."""
  ids = np.zeros(shape, np.uint16)
  for number, (lesion, site) in enumerate(zip(lesions, sites, strict=True), first):
    to, of = _overlap(site.origin, len(lesion.mask), shape)
    ids[to][lesion.mask[of]] = number
  return ids


@functools.partial(jax.jit, static_argnames="mode")
def _insert(around: Any, values: Any, surround: Any, alpha: Any, *, mode: str) -> Any:
  return insertion.insert(around, values, surround, alpha, mode=mode)


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
  """Indices of a window that may overhang an axis: beyond the border it is mirrored."""
  index = np.abs(np.arange(start, start + length))
  if size == 1:
    return np.zeros_like(index)
  index %= 2 * (size - 1)
  return np.minimum(index, 2 * (size - 1) - index)


def _overlap(
  origin: tuple[int, int], side: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
  """(where in the canvas, where in the window)."""
  to, of = [], []
  for start, size in zip(origin, shape):
    first, last = max(start, 0), min(start + side, size)
    to.append(slice(first, last))
    of.append(slice(first - start, last - start))
  return (to[0], to[1]), (of[0], of[1])


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
    values, value_range = transforms.values_of(item)
    content = body.content(values, value_range=value_range)
    free = allowed_pixels(_own_lesions(item["boxes"], content.shape), content, _MARGIN_PX)
    try:
      (site,) = place(rng, atlas.score_map(where, content), free, [mask], min_gap_px=0.0)
    except UserError:
      continue
    patch = window(values, site.origin, len(mask))
    return shape._replace(
      values=patch,
      surround=crops.without(patch, mask),
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
