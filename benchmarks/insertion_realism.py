"""Can a small network tell inserted lesions from real ones, at the same sites?

  python -m benchmarks.insertion_realism --data data/stones_ct [--sheet FILE] [--out FILE]

At each real lesion of the training split that `lesions/crops.py` can use, the lesion is removed
(`ops/inpaint.py`) and the lesion of another patient is inserted, by each mode of
`ops/insertion.py`. A small network (`patch_classifier.py`) sees 33 x 33 pixels around the lesion's
centre and learns "real" against "inserted" on two thirds of the patients; it is tested on the rest,
for each third, with three seeds. Donor and site belong to the same third, so that no lesion of the
test is in the training. Beside the modes:

  real against real        half of the patients against the other half: what chance looks like
  sham against untouched   lesion-free sites: a hole is filled, and the filler is inserted there
  rectangle                the donor's box, pasted unchanged: the network must recognise it

No setting of the ops was chosen by these numbers. Prints a table and one JSON line.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
import scipy.ndimage

from benchmarks import harness, patch_classifier
from hiresmed_jax.data import records, transforms
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.ops import insertion
from hiresmed_jax.ops.inpaint import inpaint
from hiresmed_jax.runtime import cli

SIDE = 33  # of a patch
FOLDS = 3
_REMOVED_PX = 3  # beyond a lesion's mask
_LARGEST = 64  # window of a donor


class Site(NamedTuple):
  """A lesion where it is."""

  image: np.ndarray  # f32[H, W, 1]
  mask: np.ndarray  # bool[H, W], all of this lesion
  row: int  # the pixel its patch is centred on
  column: int
  patch: LesionPatch
  value_range: tuple[float, float]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--data", required=True, help="prepared dataset with lesions")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--limit", type=int, help="sites at most")
  parser.add_argument("--sheet", type=Path, help="PNG of the first sites, enlarged")
  options = parser.parse_args(argv)
  started = time.monotonic()
  dataset = records.open_dataset(options.data)
  sites = find_sites(records.source(dataset, "train"))[: options.limit]
  groups = np.unique([s.patch.donor_group for s in sites], return_inverse=True)[1]
  folds = fold_of(groups)
  sets = make(sites, groups, folds)
  if options.sheet:
    cv2.imwrite(str(options.sheet), sheet(sites, sets))
  comparisons = {}
  print(f"{len(sites)} lesions of {len(np.unique(groups))} groups")
  for name, (patches, labels, index) in compared(sets, groups).items():
    result = patch_classifier.cross_validate(
      patches, labels, groups[index], folds[index], seeds=range(options.seeds)
    )
    comparisons[name] = result._asdict()
    low, high = result.interval
    print(f"{name:26}{result.auc:6.3f}  ({low:.3f} to {high:.3f})", flush=True)
  facts = {
    "benchmark": "insertion_realism",
    **harness.environment(),
    "data": Path(options.data).name,
    "lesions": len(sites),
    "groups": len(np.unique(groups)),
    "patch_px": SIDE,
    "seeds": options.seeds,
    "physics": sites[0].patch.physics,
    "default_mode": insertion.DEFAULT_MODE[sites[0].patch.physics],
    "auc": comparisons,
    "seconds": round(time.monotonic() - started),
  }
  harness.publish(facts, options.out)


def find_sites(source: records.Records) -> list[Site]:
  """Lesions with room for a patch and for a donor's window around them, one in each image."""
  sites = []
  for item in source:
    image, value_range = transforms.values_of(item)
    image = image.mean(axis=-1, keepdims=True)
    for found in crops.crops_of(item):
      if isinstance(found, str) or len(found.alpha) > _LARGEST:
        continue
      corner = _position(image, found)
      row, column = (c + len(found.alpha) // 2 for c in corner)
      room = _LARGEST // 2
      if min(row, column) < room or row + room > image.shape[0] or column + room > image.shape[1]:
        continue
      mask = np.zeros(image.shape[:2], bool)
      _window(mask, row, column, len(found.alpha))[:] = found.mask
      sites.append(Site(image, mask, row, column, _grey(found), value_range))
      break  # every image has the same weight
  return sites


def fold_of(groups: np.ndarray) -> np.ndarray:
  """int[N]: the fold of each group; the largest groups are assigned first, to the smallest fold."""
  filled, fold = [0] * FOLDS, {}
  for group, count in Counter(groups.tolist()).most_common():
    fold[group] = int(np.argmin(filled))
    filled[fold[group]] += count
  return np.array([fold[g] for g in groups.tolist()])


def make(
  sites: Sequence[Site], groups: np.ndarray, folds: np.ndarray, seed: int = 0
) -> dict[str, np.ndarray]:
  """{kind: patches f32[N, 33, 33]}, one for each site."""
  rng = np.random.default_rng(seed)
  sets: dict[str, list[np.ndarray]] = {}
  for index, site in enumerate(sites):
    others = np.flatnonzero((folds == folds[index]) & (groups != groups[index]))
    donor = sites[rng.choice(others)].patch
    for name, patch in _site_patches(site, donor, jax.random.key(index), rng):
      sets.setdefault(name, []).append(patch)
  return {name: np.stack(patches) for name, patches in sets.items()}


def compared(
  sets: dict[str, np.ndarray], groups: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """{comparison: (patches, labels, index of their sites)}."""
  count = len(groups)
  twice = np.tile(np.arange(count), 2)
  labels = np.repeat([0, 1], count)
  half = np.random.default_rng(0).permutation(groups.max() + 1) % 2
  pairs = {"real against real": (sets["real"], half[groups], np.arange(count))}
  couples = {"sham against untouched": ("untouched", "sham")}
  couples |= {name: ("real", name) for name in (*insertion.MODES, "rectangle")}
  for name, (first, second) in couples.items():
    pairs[name] = (np.concatenate([sets[first], sets[second]]), labels, twice)
  return pairs


def sheet(sites: Sequence[Site], sets: dict[str, np.ndarray], count: int = 16) -> np.ndarray:
  """uint8 picture: a row for each of some sites, a column for each kind, enlarged."""
  names = ["real", "removed", *insertion.MODES, "rectangle", "untouched", "sham"]
  chosen = np.random.default_rng(0).permutation(len(sites))[:count]
  rows = []
  for index in chosen:
    tiles = [np.clip(127.5 * (sets[name][index] + 1), 0, 255).astype(np.uint8) for name in names]
    rows.append(np.concatenate([np.pad(
      cv2.resize(t, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC), 2, constant_values=255
    ) for t in tiles], 1))  # fmt: skip
  head = np.zeros((24, rows[0].shape[1]), np.uint8)
  for column, name in enumerate(names):
    cv2.putText(head, name, (column * rows[0].shape[1] // len(names) + 4, 17),
                cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255)  # fmt: skip
  return np.concatenate([head, *rows])


def _site_patches(
  site: Site, donor: LesionPatch, key: jax.Array, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
  """(kind, patch) of all kinds at one site."""
  hole = scipy.ndimage.distance_transform_edt(~site.mask) <= _REMOVED_PX
  removed = inpaint(site.image, hole, jax.random.fold_in(key, 0))
  yield "real", _patch(site, site.image)
  yield "removed", _patch(site, removed)
  for mode in insertion.MODES:
    yield mode, _patch(site, _inserted(removed, site.row, site.column, donor, mode))
  yield "rectangle", _patch(site, _rectangle(removed, site, donor))
  # The same at a lesion-free site: a filled hole, and a lesion without contrast.
  free = _lesion_free(site, rng)
  filled = inpaint(site.image, free.mask, jax.random.fold_in(key, 1))
  yield "untouched", _patch(free, site.image)
  mode = insertion.DEFAULT_MODE[donor.physics]
  nothing = _without_lesion(donor, filled, free, jax.random.fold_in(key, 2))
  yield "sham", _patch(free, _inserted(filled, free.row, free.column, nothing, mode))


_insert = jax.jit(insertion.insert, static_argnames="mode")


def _inserted(
  canvas: np.ndarray, row: int, column: int, donor: LesionPatch, mode: str
) -> np.ndarray:
  out = canvas.copy()
  window = _window(out, row, column, len(donor.alpha))
  window[:] = _insert(window.copy(), donor.values, donor.surround, donor.alpha, mode=mode)
  return out


def _rectangle(canvas: np.ndarray, site: Site, donor: LesionPatch) -> np.ndarray:
  """The donor's box, 3 px around its mask, pasted."""
  out = canvas.copy()
  (box,) = scipy.ndimage.find_objects(donor.mask.astype(int))
  wide = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in box)
  _window(out, site.row, site.column, len(donor.alpha))[wide] = donor.values[wide]
  return out


def _without_lesion(
  donor: LesionPatch, canvas: np.ndarray, site: Site, key: jax.Array
) -> LesionPatch:
  """The donor's shape with the site's own filler in it."""
  window = _window(canvas, site.row, site.column, len(donor.alpha)).copy()
  hole = scipy.ndimage.distance_transform_edt(~donor.mask) <= _REMOVED_PX
  return donor._replace(values=inpaint(window, hole, key), surround=inpaint(window, hole))


def _lesion_free(site: Site, rng: np.random.Generator) -> Site:
  """A place in the same image that resembles the lesion's surround, away from the lesion.

  It is one of the hundred places whose brightness and contrast are nearest to those around the
  lesion, without anything as bright as a lesion near them.
  """
  image, half = site.image[..., 0], _LARGEST // 2
  low, high = site.value_range
  mean = scipy.ndimage.uniform_filter(image, SIDE // 2)
  spread = scipy.ndimage.uniform_filter(np.square(image), SIDE // 2) - np.square(mean)
  spread = np.sqrt(np.maximum(spread, 0))
  middle = len(site.patch.alpha) // 2
  surround = _window(site.patch.surround, middle, middle, SIDE // 2)
  difference = np.abs(mean - surround.mean()) + np.abs(spread - surround.std())
  away = scipy.ndimage.distance_transform_edt(~site.mask)
  dim = scipy.ndimage.maximum_filter(image, SIDE // 2) < surround.mean() + 0.25 * (high - low)
  difference[~(dim & (away > SIDE))] += 10 * (high - low)
  inner = difference[half:-half, half:-half]
  best = np.argpartition(inner.ravel(), 100)[:100]
  row, column = (c + half for c in np.unravel_index(int(rng.choice(best)), inner.shape))
  moved = scipy.ndimage.shift(
    site.mask.astype(np.uint8), (row - site.row, column - site.column), order=0
  )
  hole = scipy.ndimage.distance_transform_edt(moved == 0) <= _REMOVED_PX
  return site._replace(row=int(row), column=int(column), mask=hole)


def _position(image: np.ndarray, patch: LesionPatch) -> tuple[int, int]:
  """Where in the image the window of a patch was cut out."""
  found = cv2.matchTemplate(image[..., 0], patch.values.mean(axis=-1), cv2.TM_SQDIFF)
  row, column = np.unravel_index(int(found.argmin()), found.shape)
  return int(row), int(column)


def _grey(patch: LesionPatch) -> LesionPatch:
  return patch._replace(
    values=patch.values.mean(axis=-1, keepdims=True),
    surround=patch.surround.mean(axis=-1, keepdims=True),
  )


def _window(image: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
  top, left = row - side // 2, column - side // 2
  return image[top : top + side, left : left + side]


def _patch(site: Site, image: np.ndarray) -> np.ndarray:
  """f32[33, 33] in [-1, 1], clipped and rounded to whole values, as an image is stored."""
  low, high = site.value_range
  values = np.round(np.clip(_window(image, site.row, site.column, SIDE)[..., 0], low, high))
  return (2 * (values - low) / (high - low) - 1).astype(np.float32)


if __name__ == "__main__":
  cli.run(main)
