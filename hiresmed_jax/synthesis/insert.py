"""Lesions inserted into a canvas, and shams: lesion-free content inserted in the same way."""

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

_SHAM_TRIES = 20  # images in which room for a sham is looked for
_AROUND_BOX = 10  # pixels around a box that a sham does not cover
_MARGIN_PX = 2.0


def inserted(
  values: np.ndarray, lesions: Sequence[Fitted], sites: Sequence[Site], *, mode: str
) -> np.ndarray:
  """A copy of f32[H, W, C] with the lesions at their sites; `mode` as of `insertion.insert`."""
  values = values.copy()
  for lesion, site in zip(lesions, sites, strict=True):
    side = len(lesion.mask)
    around = _window(values, site.origin, side)
    made = np.asarray(_insert(around, lesion.values, lesion.surround, lesion.alpha, mode=mode))
    in_canvas, in_window = _overlap(site.origin, side, values.shape[:2])
    values[in_canvas] = made[in_window]
  return values


def instances(
  lesions: Sequence[Fitted], sites: Sequence[Site], shape: tuple[int, int]
) -> np.ndarray:
  """uint16[H, W] instance ids, 1 for the first lesion, 0 elsewhere."""
  ids = np.zeros(shape, np.uint16)
  for number, (lesion, site) in enumerate(zip(lesions, sites, strict=True), 1):
    in_canvas, in_window = _overlap(site.origin, len(lesion.mask), shape)
    ids[in_canvas][lesion.mask[in_window]] = number
  return ids


def draw_sham(
  rng: np.random.Generator, source: Records, where: atlas.Atlas, lesion: LesionPatch
) -> LesionPatch:
  """A window without a lesion, taken where lesions occur, with the occupancy of a lesion in it.

  Args:
    rng: equal states give equal windows.
    source: the training split.
    where: the places of lesions.
    lesion: gives the occupancy.

  Returns:
    A patch of kind "sham": values are the image, surround what is estimated from around the mask.

  Raises:
    UserError: no image has room for one.
  """
  mask = lesion.mask
  for _ in range(_SHAM_TRIES):
    item = source[int(rng.integers(len(source)))]
    values, value_range = transforms.values_of(item)
    content = body.content(values, value_range=value_range)
    free = allowed_pixels(near_boxes(item["boxes"], content.shape), content, _MARGIN_PX)
    try:
      (site,) = place(rng, atlas.score_map(where, content), free, [mask], min_gap_px=0.0)
    except UserError:
      continue
    window = _window(values, site.origin, len(mask))
    return lesion._replace(
      values=window,
      surround=crops.without(window, mask),
      spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
      donor=item["image_id"],
      donor_group=item["group"],
      kind="sham",
      value_range=value_range,
    )
  raise UserError("no training image has room for lesion-free content of that size: use --shams 0")


def near_boxes(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """uint8[H, W], 1 in the boxes and around them."""
  inside = np.zeros(shape, np.uint8)
  for x1, y1, x2, y2 in boxes:
    rows = slice(int(max(y1 - _AROUND_BOX, 0)), int(np.ceil(y2)) + _AROUND_BOX)
    inside[rows, int(max(x1 - _AROUND_BOX, 0)) : int(np.ceil(x2)) + _AROUND_BOX] = 1
  return inside


@functools.partial(jax.jit, static_argnames="mode")
def _insert(around: Any, values: Any, surround: Any, alpha: Any, *, mode: str) -> Any:
  return insertion.insert(around, values, surround, alpha, mode=mode)


def _window(values: np.ndarray, origin: tuple[int, int], side: int) -> np.ndarray:
  """A copy of a square window of f32[H, W, C]; beyond the border the image is mirrored."""
  rows, columns = (_mirrored(start, side, size) for start, size in zip(origin, values.shape[:2]))
  return values[np.ix_(rows, columns)]


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
  """Indices start .. start + length - 1 on an axis of `size`, mirrored at its ends."""
  index = np.abs(np.arange(start, start + length))
  if size == 1:
    return np.zeros_like(index)
  index %= 2 * (size - 1)
  return np.minimum(index, 2 * (size - 1) - index)


def _overlap(
  origin: tuple[int, int], side: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
  """(slices of the canvas, slices of the window) where the two overlap."""
  in_canvas, in_window = [], []
  for start, size in zip(origin, shape):
    first, last = max(start, 0), min(start + side, size)
    in_canvas.append(slice(first, last))
    in_window.append(slice(first - start, last - start))
  return (in_canvas[0], in_canvas[1]), (in_window[0], in_window[1])
