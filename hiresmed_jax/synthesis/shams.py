"""Shams: lesion-free content inserted as lesions are, which no one can take for a lesion.

A sham comes from a calm place and goes to a calm place: nothing there stands out from its
surroundings by more than the faintest real lesions do. So it holds no bone, contrast or gas. That
is tested again after the insertion. H, W rows and columns; C channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import ndimage

from hiresmed_jax.data import transforms
from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference.canvas import Canvas
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch, long_side
from hiresmed_jax.ops import inpaint
from hiresmed_jax.ops.insertion_parts import TAIL_PX
from hiresmed_jax.placement import atlas, body
from hiresmed_jax.placement.candidates import Site, allowed_pixels, place
from hiresmed_jax.synthesis import fitting, insert
from hiresmed_jax.synthesis.background import Background
from hiresmed_jax.synthesis.fitting import Fitted

_PLACES = 8  # in the image, tried until a sham is found
_SOURCES = 6  # images in which content for one place is looked for
_AROUND_BOX = 10  # pixels around a box that a sham does not cover
_MARGIN_PX = 2.0
_ENDS = 0.08  # of the range, at both ends: air and bone
_FAINTEST = 1.0  # percentile of real lesions' contrast
_LEVEL = 0.04  # of the range: content of that much another level is half as likely
_GRAIN = 0.25  # of the logarithm of its spread, likewise
_BLOCK = 8  # rows and columns of a block of a JPEG


class Sham(NamedTuple):
  """A sham in an image.

  Attributes:
    image: f32[H, W, C], with it.
    lesion: what was inserted, brought to the level of the place.
    site: where.
    drawn_again: how often before something stood out.
  """

  image: np.ndarray
  lesion: Fitted
  site: Site
  drawn_again: int


def faintest(patches: Sequence[LesionPatch]) -> float:
  """The contrast that 99 of 100 real lesions exceed, in `fitting.unit`; 0 where there are none."""
  found = [
    float((p.values - p.surround).mean(axis=-1)[p.mask].mean())
    / fitting.unit(p.physics, p.value_range)
    for p in patches
  ]
  return max(float(np.percentile(found, _FAINTEST)), 0.0) if found else 0.0


def several(
  rng: np.random.Generator,
  count: int,
  ground: Background,
  mask: np.ndarray,
  allowed: np.ndarray,
  score: np.ndarray,
  like: Fitted,
  source: Records | Sequence[Any],
  where: atlas.Atlas,
  *,
  most: float,
  mode: str,
  min_gap_px: float,
) -> list[Sham]:
  """So many shams, each inserted into the image of the one before; see `inserted`.

  Args:
    ground: the background, which they go into without its own lesions.
    mask: uint16[H, W], above 0 where there is a new lesion.
    where: the places of lesions in the training split.
    most: what may stand out, in the canvas' units.
    min_gap_px: from lesions and between shams.

  Raises:
    UserError: see `inserted`.
  """
  made, image = list[Sham](), ground.lesion_free
  taken = (mask > 0) | np.any([np.zeros(mask.shape, bool), *ground.own_lesions], axis=0)
  for _ in range(count):
    away = ndimage.distance_transform_edt(~taken) > max(min_gap_px, 1.0) + TAIL_PX
    made.append(
      inserted(
        rng,
        ground.canvas,
        image,
        allowed & (away | ~taken.any()),
        score,
        like,
        source,
        where,
        most=most,
        mode=mode,
      )
    )
    image = made[-1].image
    taken |= instances(made[-1:], taken.shape) > 0
  return made


def inserted(
  rng: np.random.Generator,
  scene: Canvas,
  image: np.ndarray,
  allowed: np.ndarray,
  score: np.ndarray,
  like: Fitted,
  source: Records | Sequence[Any],
  where: atlas.Atlas,
  *,
  most: float,
  mode: str,
) -> Sham:
  """Inserts a sham of a lesion's shape.

  Args:
    rng: equal states give equal shams.
    scene: the canvas.
    image: f32[H, W, C], the canvas with what is in it already.
    allowed: bool[H, W], pixels that it may cover.
    score: f32[H, W], how likely a lesion is there.
    like: the lesion that gives size and shape.
    source: records of the training split.
    where: the places of lesions.
    most: what may stand out, value units of the canvas, of `faintest`.
    mode: of `insertion.insert`.

  Raises:
    UserError: no place, or no image, is calm enough.
  """
  reach = _reach(like.mask)
  out, level, spread = calmness(image, scene.value_range, reach)
  free = score * (out < most)
  again = 0
  if not (free * allowed).any():
    raise UserError(_NONE)
  for _ in range(_PLACES):
    (site,) = place(rng, free, allowed, [like.mask], floor=0.0, min_gap_px=0.0, prior="sham")
    at = int(site.centre[1]), int(site.centre[0])
    if out[at] >= most:  # the footprint has room at such places alone
      again += 1
      continue
    patch = _content(rng, source, where, like.patch, scene, at, level[at], spread[at], most, reach)
    if patch is None:
      again += 1
      continue
    sham = _level_with(image, fitting.sham(patch, scene, like.target_px), site)
    made = insert.inserted(image, [sham], [site], mode=mode)
    if calmness_at(made, at, reach) < most:
      return Sham(made, sham, site, again)
    again += 1
  raise UserError(_NONE)


_NONE = (
  "no place is calm enough for lesion-free content of that size that nobody takes for a lesion: "
  "use --shams 0"
)


def instances(made: Sequence[Sham], shape: tuple[int, int]) -> np.ndarray:
  """uint16[H, W] ids of shams, 1 for the first."""
  return insert.instances([sham.lesion for sham in made], [sham.site for sham in made], shape)


def calmness(
  image: np.ndarray, value_range: tuple[float, float], reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """How far the brightest and darkest spots near each pixel depart from the level around it.

  Args:
    image: f32[H, W, C].
    value_range: of it; near its ends nothing is calm.
    reach: pixels to all sides that are looked at.

  Returns:
    f32[H, W] each: the departure of means of 3 x 3 pixels, inf near the range's ends; the level;
    the standard deviation.
  """
  grey, side = image.mean(axis=-1), 2 * reach + 1
  spots = ndimage.uniform_filter(grey, 3)
  level = ndimage.uniform_filter(grey, side)
  bright = ndimage.maximum_filter(spots, side) - level
  dark = level - ndimage.minimum_filter(spots, side)
  out = np.maximum(bright, dark)
  low, high = value_range
  ends = _ENDS * (high - low)
  out[(level < low + ends) | (level > high - ends)] = np.inf
  square = ndimage.uniform_filter(np.square(grey - level), side)
  return out, level, np.sqrt(np.maximum(square, 0.0))


def calmness_at(image: np.ndarray, at: tuple[int, int], reach: int) -> float:
  """The departure of `calmness` at one pixel (row, column)."""
  around = 2 * reach + 2
  rows, columns = (slice(max(c - around, 0), c + around + 1) for c in at)
  part = image[rows, columns]
  ends = float(part.min()) - 1e9, float(part.max()) + 1e9
  out, _, _ = calmness(part, ends, reach)
  return float(out[at[0] - rows.start, at[1] - columns.start])


def _reach(mask: np.ndarray) -> int:
  return long_side(mask) // 2 + TAIL_PX


def _content(
  rng: np.random.Generator,
  source: Records | Sequence[Any],
  where: atlas.Atlas,
  like: LesionPatch,
  scene: Canvas,
  at: tuple[int, int],
  level: float,
  spread: float,
  most: float,
  reach: int,
) -> LesionPatch | None:
  """A calm window of a training image with a lesion's occupancy, kind "sham"; None: none found.

  Its level and grain are like those of the place (row, column) that it is for, and so is its
  phase in the blocks of a JPEG; level, grain and what may stand out are in the units of the canvas.
  """
  mask = like.mask
  for _ in range(_SOURCES):
    item = source[int(rng.integers(len(source)))]
    values, value_range = transforms.values_of(item)
    content = body.content(values, value_range=value_range)
    free = allowed_pixels(near_boxes(item["boxes"], content.shape), content, _MARGIN_PX)
    out, there, grain = calmness(values, value_range, reach)
    gain = fitting.unit(like.physics, scene.value_range) / fitting.unit(like.physics, value_range)
    if like.physics == "projection":
      there = (there - value_range[0]) * gain + scene.value_range[0]
    out, grain = out * gain, grain * gain
    width = _LEVEL * (value_range[1] - value_range[0]) * gain
    alike = np.square((there - level) / width)
    alike += np.square(np.log((grain + 1e-3) / (spread + 1e-3)) / _GRAIN)
    score = atlas.score_map(where, content) * np.exp2(-alike) * (out < most)
    in_phase = score[at[0] % _BLOCK :: _BLOCK, at[1] % _BLOCK :: _BLOCK].copy()
    score[:] = 0.0
    score[at[0] % _BLOCK :: _BLOCK, at[1] % _BLOCK :: _BLOCK] = in_phase
    if not (score * free).any():
      continue
    try:
      (site,) = place(rng, score, free, [mask], floor=0.0, min_gap_px=0.0)
    except UserError:
      continue
    if score[int(site.centre[1]), int(site.centre[0])] <= 0:  # no room but at other places
      continue
    window = insert.window(values, site.origin, len(mask))
    return like._replace(
      values=window,
      surround=crops.without(window, mask),
      spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
      donor=item["image_id"],
      donor_group=item["group"],
      kind="sham",
      value_range=value_range,
    )
  return None


def _level_with(image: np.ndarray, sham: Fitted, site: Site) -> Fitted:
  """A sham's values with the smooth part of the place where it goes: no step at its edge."""
  here = insert.window(image, site.origin, len(sham.mask))
  offset = np.asarray(_continuation(here - sham.values, sham.mask))
  return sham._replace(values=sham.values + offset, surround=sham.surround + offset)


_continuation = jax.jit(inpaint.continuation)


def near_boxes(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """uint8[H, W], 1 in the boxes and around them."""
  inside = np.zeros(shape, np.uint8)
  for x1, y1, x2, y2 in boxes:
    rows = slice(int(max(y1 - _AROUND_BOX, 0)), int(np.ceil(y2)) + _AROUND_BOX)
    inside[rows, int(max(x1 - _AROUND_BOX, 0)) : int(np.ceil(x2)) + _AROUND_BOX] = 1
  return inside
