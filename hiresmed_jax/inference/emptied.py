"""The lesions that an image has of its own: found, measured, and removed.

The route `location` trains on images without their lesions, and priors are scored on them: else a
detector finds the lesions themselves. A filled hole can be told from tissue, so as many holes are
filled elsewhere in the body: decoys. H, W rows and columns.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from scipy import ndimage

from hiresmed_jax import files
from hiresmed_jax.data import records, stored, transforms
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.lesions import outline
from hiresmed_jax.lesions.patch import LEAST_PIXELS
from hiresmed_jax.ops import inpaint
from hiresmed_jax.placement import body, candidates

_RING = 5  # pixels around a lesion in which its background is measured
_TRACE = 0.25  # of a lesion's contrast: what is left of it is fainter
_WIDER_PX = 8  # around a box, in which it is seen whether a spot goes on
_APART_PX = 10  # between a decoy and a lesion


def lesion_masks(
  values: np.ndarray,
  boxes: np.ndarray,
  lesion_mask: np.ndarray,
  value_range: tuple[float, float],
) -> list[np.ndarray]:
  """Masks of the lesions in boxes; those without a pixel are left out.

  Args:
    values: f32[H, W, C], dense bright.
    boxes: f32[N, 4] xyxy pixels.
    lesion_mask: uint16[H, W] with id = box index + 1, or (0, 0).
    value_range: (low, high) that is shown.

  Returns:
    bool[H, W] each: the instance mask where it is known, else the outline that is found in the box,
    else the ellipse in the box.
  """
  grey = values.mean(axis=-1)
  floor = outline.VISIBLE_CONTRAST * (value_range[1] - value_range[0])
  masks = []
  for index, box in enumerate(boxes):
    mask = outline.mask_of(grey, box, _known(lesion_mask, index, box), floor)
    masks.append(_ellipse(box, grey.shape) if mask is None else mask)
  return [mask for mask in masks if mask.any()]


def contrast(values: np.ndarray, mask: np.ndarray) -> float:
  """Mean of a lesion over the median of a ring around it, value units."""
  grey = values.mean(axis=-1)
  inner = dilated(mask, outline.REACH)
  ring = dilated(inner, _RING) & ~inner
  around = float(np.median(grey[ring])) if ring.any() else float(np.median(grey))
  return float(grey[mask].mean()) - around


def inpainted(
  values: np.ndarray, lesions: list[np.ndarray], key: Any, *, reach: int = outline.REACH + 1
) -> np.ndarray:
  """f32[H, W, C] with the lesions, bool[H, W] each, and `reach` pixels around them filled."""
  if not lesions:
    return values
  return inpaint.inpaint(values, dilated(np.any(lesions, axis=0), reach), key)


def _known(lesion_mask: np.ndarray, index: int, box: np.ndarray) -> np.ndarray:
  """bool[H, W]: the instance mask of a box; no pixel where it lies beside its box, as another's."""
  own = lesion_mask == index + 1
  x1, y1, x2, y2 = np.floor(box[:2]).tolist() + np.ceil(box[2:]).tolist()
  inside = own[max(int(y1), 0) : max(int(y2), 0), max(int(x1), 0) : max(int(x2), 0)]
  return own if inside.any() else np.zeros_like(own)


class Bounds(NamedTuple):
  """Boxes of lesions, and levels of the mean of all channels."""

  boxes: list[tuple[slice, slice]]  # rows and columns, slightly loosened
  halves: list[float]  # half maximum: a lesion; inf where its mask is known
  traces: list[float]  # a quarter of its contrast, half for a known mask: what may not be left


def bounds(values: np.ndarray, boxes: np.ndarray, lesion_mask: np.ndarray) -> Bounds:
  """Those of the boxes f32[N, 4] of an image; arguments as of `lesion_masks`."""
  grey, found = values.mean(axis=-1), Bounds([], [], [])
  for index, box in enumerate(boxes):
    if (at := outline.levels_in(grey, box, (0.5, _TRACE))) is not None:
      known = _known(lesion_mask, index, box).any()
      found.boxes.append(at[0])
      found.halves.append(float("inf") if known else at[1][0])
      # Of a known mask less is doubted: bone beside a lesion stands out in a box as well.
      found.traces.append(at[1][0] if known else at[1][1])
  return found


def standing(values: np.ndarray, own: Bounds, levels: Sequence[float]) -> np.ndarray:
  """bool[H, W]: where an image stands above the level of each box, in spots, not by noise.

  A spot that lies for the most part outside of the boxes is other tissue, such as a chest wall.
  """
  grey = values.mean(axis=-1)
  found, inside = np.zeros(grey.shape, bool), np.zeros(grey.shape, bool)
  for box in own.boxes:
    inside[box] = True
  for box, level in zip(own.boxes, levels, strict=True):
    by = max(_WIDER_PX, max(s.stop - s.start for s in box) // 2)
    wide = tuple(slice(max(s.start - by, 0), s.stop + by) for s in box)
    parts, count = ndimage.label(grey[wide] >= level)
    size = np.bincount(parts.ravel(), minlength=count + 1)
    own_size = np.bincount(parts[inside[wide]], minlength=count + 1)
    part_of_box = np.zeros(grey.shape, bool)
    part_of_box[box] = True
    here = np.bincount(parts[part_of_box[wide]], minlength=count + 1)
    lesion = (here >= LEAST_PIXELS) & (2 * own_size >= size)
    lesion[0] = False
    found[wide] |= lesion[parts]
  return found


def cleared(
  values: np.ndarray,
  lesions: list[np.ndarray],
  own: Bounds,
  key: Any,
  *,
  reach: int = outline.REACH + 1,
) -> np.ndarray | None:
  """`inpainted`, and all that stands out of boxes of lesions without a mask is taken out too.

  None where something of a lesion still stands out then: another lesion or bone beside the hole
  goes on into it; and where a lesion fills the image, so that nothing is known around it.
  """
  try:
    filled = inpainted(values, [*lesions, standing(values, own, own.halves)], key, reach=reach)
  except inpaint.NothingKnown:
    return None
  return None if standing(filled, own, own.traces).any() else filled


def without_lesions(item: Mapping[str, Any], key: jax.Array) -> dict[str, Any] | None:
  """A record of `records.Records` whose lesions are inpainted; `key` as of `inpaint.inpaint`.

  None where something of a lesion is left, see `cleared`.
  """
  if not len(item["boxes"]):
    return dict(item)
  values, value_range = transforms.values_of(item)
  lesions = lesion_masks(values, item["boxes"], item["lesion_mask"], value_range)
  filled = cleared(values, lesions, bounds(values, item["boxes"], item["lesion_mask"]), key)
  if filled is None:
    return None
  return {
    **item,
    "image": canvas.stored(filled, item),
    "boxes": np.zeros((0, 4), np.float32),
    "lesion_mask": np.zeros((0, 0), np.uint16),
  }


def with_decoys(
  item: Mapping[str, Any], seed: tuple[int, int], *, decoys: float
) -> np.ndarray | None:
  """A record's image with its lesions inpainted, and holes filled elsewhere in the body.

  Args:
    item: of `records.Records`, with a lesion.
    seed: equal seeds give equal images.
    decoys: mean number for each lesion; there are fewer where no room is left.

  Returns:
    As stored: dtype and shape of item["image"]; None where something of a lesion is left.
  """
  values, value_range = transforms.values_of(item)
  lesions = lesion_masks(values, item["boxes"], item["lesion_mask"], value_range)
  own = bounds(values, item["boxes"], item["lesion_mask"])
  content = body.content(values, value_range=value_range)
  holes = holes_elsewhere(content, lesions, np.random.default_rng(seed), decoys)
  key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
  filled = cleared(values, lesions + holes, own, key)
  return None if filled is None else canvas.stored(filled, item)


def write_all(
  source: records.Records,
  folder: Path,
  *,
  decoys: float,
  seed: int,
  workers: int = 1,
  advance: Callable[[], None] = lambda: None,
) -> None:
  """Writes `with_decoys` of every record with a lesion to `records.png_path`, one PNG an image.

  An image in which something of a lesion is left gets no file: it is trained on as it is. Files
  that are there are left, so that a second call goes on. `seed` is that of places and noise, beside
  the record's number; `advance` is called after every record.
  """

  def write(index: int) -> None:
    item = source[index]
    path = records.png_path(folder, item["image_id"])
    if not len(item["boxes"]) or path.is_file():
      return
    image = with_decoys(item, (seed, index), decoys=decoys)
    if image is not None:
      files.write(path, stored.encode_png(image))

  for _ in ordered_map(write, range(len(source)), workers=workers):
    advance()


def dilated(mask: np.ndarray, by: int) -> np.ndarray:
  """The pixels within `by` of a mask."""
  if not mask.any():
    return mask
  # Exact, and ten times as fast as SciPy's, which also looks for the nearest pixel.
  away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  return np.asarray(away <= by)


def cropped(mask: np.ndarray) -> np.ndarray:
  """The part of bool[H, W] that holds all of its pixels."""
  rows, columns = np.nonzero(mask)
  return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _ellipse(box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """bool[H, W], the ellipse in a box."""
  rows, columns = np.ogrid[: shape[0], : shape[1]]
  x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
  half = np.maximum((box[2:] - box[:2]) / 2, 0.5)
  mask = ((columns + 0.5 - x) / half[0]) ** 2 + ((rows + 0.5 - y) / half[1]) ** 2 <= 1
  if not mask.any() and 0 <= x < shape[1] and 0 <= y < shape[0]:
    mask[int(y), int(x)] = True  # a box of a pixel, between the centres of pixels
  return mask


def holes_elsewhere(
  allowed: np.ndarray,
  lesions: list[np.ndarray],
  rng: np.random.Generator,
  share: float,
  *,
  host: np.ndarray | None = None,
) -> list[np.ndarray]:
  """Outlines of lesions at other places.

  Args:
    allowed: bool[H, W], pixels that they may cover.
    lesions: bool[H, W] each, whose outlines are taken.
    rng: draws outlines and places.
    share: mean number for each lesion; there are fewer where no room is left.
    host: bool[H, W], where their centres may lie; None: anywhere.

  Returns:
    bool[H, W] each.
  """
  count = int(share * len(lesions) + rng.random())
  if not count or not lesions:
    return []
  near_lesions = dilated(np.any(lesions, axis=0), _APART_PX)
  free = candidates.allowed_pixels(near_lesions.astype(np.uint8), allowed, 0.0)
  score = np.ones(free.shape, np.float32) if host is None else host.astype(np.float32)
  decoys = []
  for number in rng.integers(len(lesions), size=count):
    shape = cropped(lesions[number])
    try:
      (site,) = candidates.place(rng, score, free, [shape], likely=host, floor=1.0, min_gap_px=0.0)
    except UserError:  # no room in this body
      continue
    decoy = np.zeros(free.shape, bool)
    row, column = site.origin
    decoy[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    free &= ~dilated(decoy, _APART_PX)
    decoys.append(decoy)
  return decoys
