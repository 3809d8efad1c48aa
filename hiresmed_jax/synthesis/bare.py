"""Images whose lesions are taken out, with holes filled where there was none.

A detector that is to say where lesions occur is trained and judged on such images: on whole ones it
would find the lesions. What fills a hole can be told from tissue, so that there are as many holes
elsewhere, at random places in the body: decoys. H, W rows and columns.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hiresmed_jax.data import detection, png
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.records import Records
from hiresmed_jax.data.writers import whole_file
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import crops
from hiresmed_jax.placement import body, candidates
from hiresmed_jax.synthesis import canvas, existing

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
  values, value_range = crops.canvas(item)
  lesions = existing.masks(values, item["boxes"], item["lesion_mask"], value_range)
  rng = np.random.default_rng(seed)
  elsewhere = _decoys(values, value_range, lesions, rng, decoys)
  key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
  return canvas.stored(existing.without(values, lesions + elsewhere, key), item)


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
      whole_file.write(path, png.encode(emptied(item, (seed, index), decoys=decoys)))

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
  taken = existing.grown(np.any(lesions, axis=0), int(_APART_PX))
  free = candidates.allowed(taken.astype(np.uint8), content, 0.0)
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
    free &= ~existing.grown(decoy, int(_APART_PX))
    found.append(decoy)
  return found


def cut(mask: np.ndarray) -> np.ndarray:
  """The part of bool[H, W] that holds all of its pixels."""
  rows, columns = np.nonzero(mask)
  return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
