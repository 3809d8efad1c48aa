"""The lesions that an image has of its own: found, measured, and taken out.

A detector that is to say where lesions occur is trained and scored on images without their lesions,
or it would find the lesions themselves. The fill of a hole can be told from tissue, so that as many
holes are filled elsewhere in the body: decoys. H, W rows and columns.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import detection, stored, transforms
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.lesions import outline
from hiresmed_jax.ops import inpaint
from hiresmed_jax.placement import body, candidates

_RING = 5  # pixels around a lesion that tell its background


def masks(values: np.ndarray, boxes: np.ndarray, lesion_mask: np.ndarray,
          value_range: tuple[float, float]) -> list[np.ndarray]:  # fmt: skip
  """bool[H, W] of each lesion: its known mask, else its outline, else the ellipse in its box.

  Args:
    values: f32[H, W, C], dense bright.
    boxes: f32[N, 4] xyxy pixels.
    lesion_mask: uint16[H, W] with id = box index + 1, or (0, 0).
    value_range: (low, high) that is shown.
  """
  grey = values.mean(axis=-1)
  least = outline.VISIBLE_CONTRAST * (value_range[1] - value_range[0])
  found = []
  for index, box in enumerate(boxes):
    mask = outline.mask_of(grey, box, lesion_mask == index + 1, least)
    found.append(_ellipse(box, grey.shape) if mask is None else mask)
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
  values, value_range = transforms.values_of(item)
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
  """The ellipse in a box, for a lesion whose outline is not found."""
  rows, columns = np.ogrid[: shape[0], : shape[1]]
  x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
  half = np.maximum((box[2:] - box[:2]) / 2, 0.5)
  return ((columns + 0.5 - x) / half[0]) ** 2 + ((rows + 0.5 - y) / half[1]) ** 2 <= 1


_APART_PX = 10.0  # between a decoy and a lesion


def emptied(item: Mapping[str, Any], seed: tuple[int, int], *, decoys: float) -> np.ndarray:
  """A record's image with its lesions taken out, and decoys.

  Args:
    item: of `records.Records`, with a lesion.
    seed: equal seeds give equal images.
    decoys: for each lesion, as a mean; where no room is left there are fewer.

  Returns:
    As stored: dtype and shape of item["image"].
  """
  values, value_range = transforms.values_of(item)
  lesions = masks(values, item["boxes"], item["lesion_mask"], value_range)
  rng = np.random.default_rng(seed)
  elsewhere = _decoys(values, value_range, lesions, rng, decoys)
  key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
  return canvas.stored(without(values, lesions + elsewhere, key), item)


def write(
  source: Records,
  folder: Path,
  *,
  decoys: float,
  seed: int,
  workers: int = 1,
  tell: Callable[[], None] = lambda: None,
) -> None:
  """Writes the emptied image of every record with a lesion to `detection.bare_path`.

  What is there already is left, so that a second call goes on.

  Args:
    source: whose images.
    folder: of the files, one PNG an image.
    decoys: see `emptied`.
    seed: of places and noise; the record's number is the other half.
    workers: threads.
    tell: called after every record.
  """

  def one(index: int) -> None:
    item = source[index]
    path = detection.bare_path(folder, item["image_id"])
    if len(item["boxes"]) and not path.is_file():
      files.write(path, stored.encode_png(emptied(item, (seed, index), decoys=decoys)))

  for _ in ordered_map(one, range(len(source)), workers=workers):
    tell()


def _decoys(
  values: np.ndarray,
  value_range: tuple[float, float],
  lesions: list[np.ndarray],
  rng: np.random.Generator,
  share: float,
) -> list[np.ndarray]:
  """bool[H, W] each: the lesions' own outlines at other places of the body."""
  count = int(share * len(lesions) + rng.random())
  if not count or not lesions:
    return []
  content = body.content(values, value_range=value_range)
  taken = grown(np.any(lesions, axis=0), int(_APART_PX))
  free = candidates.allowed_pixels(taken.astype(np.uint8), content, 0.0)
  found = []
  for number in rng.integers(len(lesions), size=count):
    outline = cut(lesions[number])
    try:
      (site,) = candidates.place(
        rng, np.ones(free.shape, np.float32), free, [outline], floor=1.0, min_gap_px=0.0
      )
    except UserError:  # no room in this body
      continue
    decoy = np.zeros(free.shape, bool)
    row, column = site.origin
    decoy[row : row + outline.shape[0], column : column + outline.shape[1]] = outline
    free &= ~grown(decoy, int(_APART_PX))
    found.append(decoy)
  return found


def cut(mask: np.ndarray) -> np.ndarray:
  """The part of bool[H, W] that holds all of its pixels."""
  rows, columns = np.nonzero(mask)
  return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
