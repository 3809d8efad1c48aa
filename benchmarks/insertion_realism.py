"""Can judges tell inserted lesions from real ones at the same sites, and shams from nothing?

  python -m benchmarks.insertion_realism --data data/stones_ct [--sheet FILE] [--out FILE]

At one real lesion of each image of the training and the validation split, the lesion is removed
(`ops/inpaint.py`) and a copy of another patient's, of nearly the same diameter, is fitted and
inserted as `synthesize` does it. The judges of `evaluation/realism.py` see the pixels as exported.
Donor and site belong to the same fold, so that no lesion of a judge's test is in its training.

  inserted    real against inserted, by mode
  sham        the untouched place against the sham that `synthesize` puts there
  context     real against chosen places (atlas), the lesion taken out and covered
  null        real against real: what chance looks like
  controls    a pasted rectangle, a dark halo of 8 grey levels, a real lesion with its noise
              smoothed: a judge that misses them is blind

--further adds a judge that no choice was made by. Held-out patients are never opened.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from scipy import ndimage

from benchmarks import harness
from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import networks, patch_features, realism
from hiresmed_jax.evaluation.realism import Patches
from hiresmed_jax.inference import canvas
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.ops import insertion
from hiresmed_jax.ops.inpaint import inpaint
from hiresmed_jax.placement import atlas, candidates
from hiresmed_jax.runtime import cli
from hiresmed_jax.synthesis import fitting, insert, shams

SIDE = 49  # of a patch
MODES = ("feather", "ct")  # the defaults of images that are no projections
_REMOVED_PX = 3  # beyond a lesion's mask
_LARGEST = 64  # window of a lesion
_DONORS = 6  # of the nearest diameters, of which one is drawn
_LIKES = 8  # other lesions that give a sham its size where one has no place
_COVERED_PX = 4  # beyond a lesion's radius, where only the context is judged
_HALO = 8.0  # grey levels
_CONTROLS = ("rectangle", "halo", "smooth noise")


class Site(NamedTuple):
  """A lesion where it is."""

  item: Any  # the record
  scene: canvas.Canvas
  mask: np.ndarray  # bool[H, W], all of this lesion
  row: int  # the pixel its patch is centred on
  column: int
  patch: LesionPatch


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--data", required=True, help="prepared dataset with lesions")
  parser.add_argument("--modes", nargs="+", default=MODES, choices=insertion.MODES)
  parser.add_argument("--limit", type=int, help="sites at most")
  parser.add_argument("--only", nargs="+", help="judge these comparisons alone")
  parser.add_argument("--reasons", action="store_true", help="what the forest goes by")
  parser.add_argument("--sheet", type=Path, help="PNG of some sites, enlarged")
  parser.add_argument(
    "--further", type=Path, metavar="WEIGHTS",
    help="of Inception up to mixed_8: a logistic regression on its features judges too; look once",
  )  # fmt: skip
  parser.add_argument(
    "--patches", type=Path, help="npz of all patches; those in it are judged again"
  )
  options = parser.parse_args(argv)
  started = time.monotonic()
  dataset = records.open_dataset(options.data)
  sites = find_sites(item for split in ("train", "val") for item in records.source(dataset, split))
  sites = sites[: options.limit]
  groups = np.unique([s.patch.donor_group for s in sites], return_inverse=True)[1]
  folds = realism.fold_of(groups)
  if options.patches and options.patches.is_file():
    sets = stored(options.patches)
  else:
    sets = make(sites, groups, folds, modes=options.modes)
  if options.patches:
    files.write_npz(options.patches, flat(sets, groups, folds))
  if options.sheet:
    cv2.imwrite(str(options.sheet), sheet(sets))
  print(f"{len(sites)} lesions of {len(np.unique(groups))} groups, made in "
        f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
  comparisons, why = {}, {}
  pretrained = None if options.further is None else features_by(options.further)
  pairs = couples(options.modes)
  for name in options.only or ["null", *pairs]:
    if name == "null":
      verdicts = realism.null(sets["real"], groups, folds)
    else:
      first, second = (sets[kind] for kind in pairs[name])
      verdicts = realism.compare(first, second, groups, folds)
      both = Patches(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
      labels, twice = np.repeat([0, 1], len(groups)), np.tile(folds, 2)
      if options.reasons and name not in _CONTROLS:
        why[name] = realism.reasons(both, labels, twice)
      if pretrained is not None:
        seen = pretrained(both.pixels)
        verdicts["pretrained"] = realism.logistic(seen, labels, np.tile(groups, 2), twice)
    comparisons[name] = {judge: verdict._asdict() for judge, verdict in verdicts.items()}
    print(f"{name:18}" + "".join(
      f"{judge} {v.auc:.3f} ({v.interval[0]:.2f} to {v.interval[1]:.2f})  "
      for judge, v in verdicts.items()), flush=True)  # fmt: skip
    if name in why:
      print("   " + ", ".join(f"{f} {v['alone']:.2f}/{v['importance']:.2f}"
                              for f, v in why[name].items()), flush=True)  # fmt: skip
  facts = {
    "benchmark": "insertion_realism",
    **harness.environment(),
    "data": Path(options.data).name,
    "lesions": len(sites),
    "groups": len(np.unique(groups)),
    "patch_px": SIDE,
    "physics": sites[0].patch.physics,
    "auc": comparisons,
    **({"reasons": why} if why else {}),
    "clipped": clipped(sets, options.modes),
    "seams": seams(sets, options.modes),
    "seconds": round(time.monotonic() - started),
  }
  print(facts["clipped"], facts["seams"], flush=True)
  harness.publish(facts, options.out)


def features_by(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
  """u8[N, S, S] -> f32[N, 768], by a network that never saw a judge's or our images."""
  found = networks.load((), tap=768, file=weights).features
  assert found is not None  # weights that are named are there, or it has raised
  program = jax.jit(found.net.features)

  def features(pixels: np.ndarray) -> np.ndarray:
    fed = (found.feed(one[..., None] / np.float32(255.0))[None] for one in pixels)
    return np.concatenate([np.asarray(program(found.net.weights, one)) for one in fed])

  return features


def flat(sets: dict[str, Patches], groups: np.ndarray, folds: np.ndarray) -> dict[str, np.ndarray]:
  """The patches of all kinds as named arrays."""
  made = {"groups": groups, "folds": folds}
  for kind, patches in sets.items():
    made |= {f"{kind}/pixels": patches.pixels, f"{kind}/diameters": patches.diameters}
  return made


def stored(path: Path) -> dict[str, Patches]:
  """The inverse of `flat`."""
  with np.load(path) as arrays:
    kinds = [name.removesuffix("/pixels") for name in arrays if name.endswith("/pixels")]
    return {k: Patches(arrays[f"{k}/pixels"], arrays[f"{k}/diameters"]) for k in kinds}


def couples(modes: Sequence[str]) -> dict[str, tuple[str, str]]:
  """{comparison: (kind of patches, the other kind)}."""
  return {
    **{f"inserted, {mode}": ("real", mode) for mode in modes},
    **{f"sham, {mode}": (f"untouched, {mode}", f"sham, {mode}") for mode in modes},
    "context": ("context, real", "context, chosen"),
    **{name: ("real", name) for name in _CONTROLS},
  }


def clipped(sets: dict[str, Patches], modes: Sequence[str]) -> dict[str, list[float]]:
  """Share of lesions with a clipped plateau, real and by mode, for 6 to 8, 8 to 11 and more px."""
  found = {}
  for name in ("real", *modes):
    patches = sets[name]
    shares = patch_features.share_clipped(*patches)
    size = patches.diameters
    bins = [(size >= a) & (size < b) for a, b in ((6, 8), (8, 11), (11, 1e9), (6, 1e9))]
    found[name] = [round(float(shares[b].mean()), 3) if b.any() else float("nan") for b in bins]
  return found


def seams(sets: dict[str, Patches], modes: Sequence[str]) -> dict[str, dict[str, float]]:
  """By mode, how far shams' gradient, noise and change around them are from those of lesions: D."""
  found = {}
  for mode in modes:
    pairs = (("removed", mode), (f"untouched, {mode}", f"sham, {mode}"))
    lesion, sham = (
      patch_features.seam(sets[before].pixels, *sets[after]) for before, after in pairs
    )
    found[mode] = {name: round(realism.distance(lesion[name], sham[name]), 2) for name in lesion}
  return found


def find_sites(items: Iterator[Any], seed: int = 0) -> list[Site]:
  """One lesion of each image, with room for its patch."""
  sites, rng = [], np.random.default_rng(seed)
  for item in items:
    scene = canvas.real(item)
    found = []
    for patch in crops.crops_of(item):
      if isinstance(patch, str) or len(patch.alpha) > _LARGEST:
        continue
      row, column = (c + len(patch.alpha) // 2 for c in _position(scene.values, patch))
      room = SIDE // 2 + 1
      if min(row, column) < room or row + room > scene.shape[0] or column + room > scene.shape[1]:
        continue
      mask = np.zeros(scene.shape, bool)
      _window(mask, row, column, len(patch.alpha))[:] = patch.mask
      found.append(Site(item, scene, mask, row, column, patch))
    if found:  # every image has the same weight
      sites.append(found[int(rng.integers(len(found)))])
  return sites


def make(
  sites: Sequence[Site], groups: np.ndarray, folds: np.ndarray, *, modes: Sequence[str]
) -> dict[str, Patches]:
  """{kind: patches}, a row for each site."""
  where = atlas.fit(site.item for site in sites)
  most = shams.faintest([site.patch for site in sites])
  most *= fitting.unit(sites[0].patch.physics, sites[0].scene.value_range)
  rows: dict[str, list[tuple[np.ndarray, float]]] = {}
  for index, site in enumerate(sites):
    near = np.flatnonzero((folds == folds[index]) & (groups != groups[index]))
    sizes = np.array([sites[i].patch.diameter_px for i in near.tolist()])
    best = near[np.argsort(np.abs(np.log(sizes / site.patch.diameter_px)))[:_DONORS]]
    donors = Copies([sites[i].patch for i in best.tolist()])
    same_fold = [sites[i].item for i in near.tolist()]
    rng = np.random.default_rng(index)
    everyone = Copies([sites[i].patch for i in near.tolist()])
    made_here = _kinds(site, donors, everyone, same_fold, where, modes, index, rng, most)
    for kind, pixels, size in made_here:
      rows.setdefault(kind, []).append((pixels, size))
  sets = {}
  for kind, made in rows.items():
    pixels = np.stack([patch for patch, _ in made])
    sizes = np.array([size for _, size in made], np.float32)
    if kind in ("real", *modes, *_CONTROLS):  # of a mask, or of what is seen: judged alike
      sizes = patch_features.measured_diameters(pixels, sizes)
    sets[kind] = Patches(pixels, sizes)
  return sets


def _kinds(
  site: Site,
  donors: Copies,
  any_donors: Copies,
  items: Sequence[Any],
  where: atlas.Atlas,
  modes: Sequence[str],
  index: int,
  rng: np.random.Generator,
  most: float,
) -> Iterator[tuple[str, np.ndarray, float]]:
  """(kind, patch, diameter) of all kinds at one site."""
  values, size, key = site.scene.values, site.patch.diameter_px, jax.random.key(index)
  away = ndimage.distance_transform_edt(~site.mask)
  removed = inpaint(values, away <= _REMOVED_PX, key)
  shown = _shown(site)
  yield "real", shown(values), size
  yield "removed", shown(removed), size
  lesion = fitting.draw(donors, rng, site.scene._replace(values=removed), None)
  here = candidates.Site((0, 0), _origin(site, len(lesion.mask)), 0.0, "")
  for mode in modes:
    made = insert.inserted(removed, [lesion], [here], mode=mode)
    yield mode, shown(made), lesion.patch.diameter_px
  yield "rectangle", shown(_rectangle(removed, site, lesion)), lesion.patch.diameter_px
  ring = ((away > 1.5) & (away <= 4))[..., None]
  yield "halo", shown(values - _HALO * ring), size
  smoothed = ndimage.gaussian_filter(values, (1, 1, 0))
  yield "smooth noise", shown(np.where((away <= 4)[..., None], smoothed, values)), size
  likes = [lesion, *(fitting.draw(any_donors, rng, site.scene, None) for _ in range(_LIKES))]
  yield from _shams(site, likes, items, where, modes, rng, most)
  yield "context, real", _covered(shown(removed), size), size
  score = atlas.score_map(where, site.scene.content)
  (chosen,) = candidates.place(rng, score, _room(site), [np.ones((1, 1), bool)], min_gap_px=0.0)
  row, column = chosen.origin
  mask = ndimage.shift(site.mask.astype(np.uint8), (row - site.row, column - site.column), order=0)
  hole = ndimage.distance_transform_edt(mask == 0) <= _REMOVED_PX
  filled = inpaint(values, hole, jax.random.fold_in(key, 1))
  there = _shown(site._replace(row=row, column=column))(filled)
  yield "context, chosen", _covered(there, size), size


def _shams(
  site: Site,
  likes: Sequence[fitting.Fitted],
  items: Sequence[Any],
  where: atlas.Atlas,
  modes: Sequence[str],
  rng: np.random.Generator,
  most: float,
) -> Iterator[tuple[str, np.ndarray, float]]:
  """A sham as `synthesize` draws, places and inserts it, and its place before."""
  scene, score = site.scene, atlas.score_map(where, site.scene.content)
  for mode in modes:
    for like in likes:
      try:
        made = shams.inserted(
          rng, scene, scene.values, _room(site), score, like, items, where, most=most, mode=mode
        )
        break
      except UserError:  # a large one: as `synthesize` goes on, so with another
        continue
    else:
      raise UserError("no image has a place that is calm enough for a sham")
    row, column = int(made.site.centre[1]), int(made.site.centre[0])
    shown = _shown(site._replace(row=row, column=column))
    size = made.lesion.patch.diameter_px
    yield f"untouched, {mode}", shown(scene.values), size
    yield f"sham, {mode}", shown(made.image), size


def _room(site: Site) -> np.ndarray:
  """bool[H, W], in the body, away from lesions, with room for a patch."""
  half = SIDE // 2
  inside = np.zeros(site.scene.shape, bool)
  inside[half:-half, half:-half] = True
  content = site.scene.content & inside
  near = shams.near_boxes(site.item["boxes"], site.scene.shape)
  return candidates.allowed_pixels(near, content, 2.0) & inside


def _rectangle(removed: np.ndarray, site: Site, lesion: fitting.Fitted) -> np.ndarray:
  """The donor's box, 3 px around its mask, pasted."""
  out = removed.copy()
  (box,) = ndimage.find_objects(lesion.mask.astype(int))
  wide = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in box)
  top, left = _origin(site, len(lesion.mask))
  rows, columns = (slice(start + s.start, start + s.stop) for start, s in zip((top, left), wide))
  out[rows, columns] = lesion.values[wide][: out[rows, columns].shape[0]]
  return out


def _origin(site: Site, side: int) -> tuple[int, int]:
  return site.row - side // 2, site.column - side // 2


def _position(image: np.ndarray, patch: LesionPatch) -> tuple[int, int]:
  """Where in the image the window of a patch was cut out."""
  grey = [values.mean(axis=-1) for values in (image, patch.values)]
  found = cv2.matchTemplate(grey[0], grey[1], cv2.TM_SQDIFF)
  row, column = np.unravel_index(int(found.argmin()), found.shape)
  return int(row), int(column)


def _window(image: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
  top, left = row - side // 2, column - side // 2
  return image[top : top + side, left : left + side]


def _shown(site: Site) -> Callable[[np.ndarray], np.ndarray]:
  """Cuts a site's patch u8[49, 49] out of an image, with grey values as they are exported."""
  low, high = site.scene.value_range

  def shown(image: np.ndarray) -> np.ndarray:
    part = _window(image, site.row, site.column, SIDE).mean(axis=-1)
    grey = np.round((np.clip(part, low, high) - low) / (high - low) * 255)
    return grey.astype(np.uint8)

  return shown


def _covered(pixels: np.ndarray, size: float) -> np.ndarray:
  """The patch with a disc over the lesion."""
  offsets = np.arange(SIDE) - SIDE // 2
  disc = np.hypot(offsets[:, None], offsets[None]) <= size / 2 + _COVERED_PX
  return np.where(disc, np.uint8(0), pixels)


def sheet(sets: dict[str, Patches], count: int = 16) -> np.ndarray:
  """uint8 picture: a row for each of some sites, a column for each kind, enlarged."""
  names = [name for name in sets if not name.startswith("context")]
  chosen = np.random.default_rng(0).permutation(len(sets["real"].pixels))[:count]
  rows = [
    np.concatenate([
      np.pad(cv2.resize(sets[name].pixels[index], None, fx=4, fy=4,
                        interpolation=cv2.INTER_CUBIC), 2, constant_values=255)
      for name in names
    ], 1)
    for index in chosen
  ]  # fmt: skip
  head = np.zeros((24, rows[0].shape[1]), np.uint8)
  for column, name in enumerate(names):
    cv2.putText(head, name, (column * rows[0].shape[1] // len(names) + 4, 17),
                cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255)  # fmt: skip
  return np.concatenate([head, *rows])


if __name__ == "__main__":
  cli.run(main)
