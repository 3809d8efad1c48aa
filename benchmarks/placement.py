"""Does learned placement predict where patients have lesions, and can its sites be recognised?

  python -m benchmarks.placement --workdir runs/stones_ct --data data/stones_ct \
    [--figure FILE] [--out FILE]

On held-out images whose lesions are removed (`inference/emptied.py`):

  log-score     log-probability of the real places, nats over the uniform prior, with an interval
                over patients: atlas, YOLO, both, each with and without hosts (what surrounds real
                lesions), and the gain of the one in use over the others. Without the route location
                trained, priors without a detector
  context       the judges of `evaluation/realism.py` learn real against chosen sites from 33 x 33
                pixels around them with the middle covered, and are tested on other patients; the
                strictest counts.
                Chosen sites have filled holes, too, with the same outlines and in the same image:
                otherwise a judge could recognise a real site by its filled hole, or by a
                neighbour's. Half of the patients' real sites against the other half's shows the
                level of chance. One place in twenty is uniform, as in use, and then none
  host regions  share of the places of real lesions and of placed ones in each region that was drawn
                by eye (tests/data/by_eye), on the images that have such drawings
  placements    a thousand of them with the mask in use: how many footprints touch it
  danger        share of real lesions that the mask would forbid, where the workdir has one

Nothing was tuned on the judges.
"""

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import by_eye, harness
from hiresmed_jax.data import records, transforms
from hiresmed_jax.evaluation import realism
from hiresmed_jax.inference import (
  canvas,
  emptied,
  host_prior,
  places,
  prior_scores,
  survey,
  workdir,
)
from hiresmed_jax.lesions.patch import diameter
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.placement import candidates
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime.figures import image_grid

SIDE = 33  # of a patch
FLOOR = 0.05  # the default of `synthesize.floor`
IN_USE, NO_FLOOR = "in use", "in use, nothing uniform"
DRAWN_SITES = 300  # at least, in images whose regions were drawn
MARGIN_PX = 2.0
PLACEMENTS = 1000
_MIDDLE_PX = 10  # radius that is covered: more than the hole of a stone


class Scene(NamedTuple):
  """An image without its lesions."""

  canvas: canvas.Canvas
  points: np.ndarray  # f64[N, 2] (x, y) where they were
  values: np.ndarray  # with them
  lesions: list[np.ndarray]  # bool[H, W]
  footprints: list[np.ndarray]
  group: str
  densities: dict[str, places.Density]  # of each prior
  forbidden: np.ndarray  # bool[H, W]
  digest: str  # as of `by_eye.digest_of`


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="of the run")
  parser.add_argument("--data", type=Path, help="prepared dataset (that of the workdir)")
  parser.add_argument("--split", default="test", help="whose images")
  parser.add_argument("--host-rule", default="", help="as of the run's config")
  parser.add_argument("--drawn", default="", help="stones_ct or nodules_ct: regions by eye")
  parser.add_argument("--figure", type=Path, help="PNG of scores and chosen sites")
  options = parser.parse_args(argv)
  dataset = workdir.dataset_of(options.workdir, options.data)
  fingerprint = dataset.card["fingerprint"]
  where = survey.load_or_make(dataset, options.workdir).atlas
  rule = options.host_rule
  fitted = host_prior.load_or_make(dataset, options.workdir, where, host_rule=rule)
  used, _ = places.open_prior(
    "auto", options.workdir, fingerprint, fitted=fitted, host_rule=rule, dtype=jax.numpy.float32
  )
  source = records.source(dataset, options.split)
  found = prior_scores.score_priors(
    source, used.detector, where, fitted=fitted if used.hosts else None, host_rule=rule,
    decoys=1.0, floor=FLOOR, seed=0, limit=len(source),
  )  # fmt: skip
  key = prior_scores.Choice(used.name, used.power, used.hosts_power if used.hosts else 0.0).key
  best = [prior_scores.best(found, hosts=on) for on in (False, used.hosts is not None)]
  others = [choice.key for choices in best for choice in choices.values()]
  gains = prior_scores.table(found, key, others=others, seed=0)
  print(json.dumps({"used": key, **gains}), flush=True)
  ways = {"uniform": places.Prior("uniform"), "atlas": places.Prior("atlas"), IN_USE: used}
  if used.detector is not None:
    ways["without hosts"] = used._replace(hosts=None, host_rule="")
  forbid = _forbidden(options.workdir, fingerprint)
  scenes = [
    scene
    for index, item in enumerate(source)
    if len(item["boxes"]) and (scene := _scene(item, index, where, ways, forbid)) is not None
  ]
  result = {
    "benchmark": "placement",
    **harness.environment(),
    "data": dataset.card["name"],
    "split": options.split,
    "images": len(scenes),
    "prior": {"used": key, **gains},
    "regions": _regions(scenes, ways, options.drawn) if options.drawn else None,
    "context": _context(scenes, ways),
    "placements": _placements(scenes, ways[IN_USE]),
    "danger": _danger(scenes, forbid is not None),
  }
  if options.figure:
    _draw(scenes, ways, options.figure)
  harness.publish(result, options.out)


def _forbidden(folder: Path, fingerprint: str) -> Callable[[canvas.Canvas], Any] | None:
  """The mask of the route danger, where the workdir has one."""
  if not (folder / "danger" / "DONE.json").is_file():
    return None
  unet = workdir.danger_of(folder, fingerprint, dtype=jax.numpy.float32)
  return lambda scene: places.forbidden(unet, scene)


def _scene(
  item: dict[str, Any],
  index: int,
  where: atlases.Atlas,
  ways: dict[str, places.Prior],
  forbid: Callable[[canvas.Canvas], np.ndarray] | None,
) -> Scene | None:
  """None where something of a lesion is left."""
  values, value_range = transforms.values_of(item)
  lesions = emptied.lesion_masks(values, item["boxes"], item["lesion_mask"], value_range)
  bare = emptied.with_decoys(item, (0, index), decoys=0.0)
  if bare is None:
    return None
  ground = canvas.real({**item, "image": bare})
  forbidden = np.zeros(ground.shape, bool)
  if item["forbidden_mask"].size:
    forbidden |= item["forbidden_mask"] > 0
  if forbid is not None:
    forbidden |= forbid(ground)
  return Scene(
    ground,
    atlases.centres_of(item),
    values,
    lesions,
    [emptied.cropped(mask) for mask in lesions],
    item["group"],
    {name: places.density(prior, where, ground) for name, prior in ways.items()},
    forbidden,
    by_eye.digest_of(item["image"]),
  )


def _place(
  scene: Scene,
  name: str,
  prior: places.Prior,
  rng: np.random.Generator,
  floor: float = FLOOR,
  footprints: Sequence[np.ndarray] | None = None,
) -> list[candidates.Site]:
  shapes = scene.footprints if footprints is None else footprints
  density = scene.densities[name]
  return candidates.place(
    rng,
    [places.score_map(prior, density, scene.canvas, diameter(shape)) for shape in shapes],
    _free(scene),
    shapes,
    likely=density.likely,
    floor=floor,
    min_gap_px=6.0,
    prior=name,
  )


def _free(scene: Scene) -> np.ndarray:
  return places.allowed(scene.canvas, scene.forbidden, MARGIN_PX)


def _regions(
  scenes: Sequence[Scene], ways: dict[str, places.Prior], drawn: str
) -> dict[str, dict[str, float]]:
  """Shares of real and of placed lesions in each region that was drawn by eye.

  Lesions of all these images are placed one at a time, each image as often; where a size has few
  places in an image another is drawn, as in use.
  """
  by_digest = {scene.digest: scene for scene in scenes}
  pairs = [
    (drawing, by_digest[drawing.digest])
    for drawing in by_eye.drawings(drawn)
    if drawing.digest in by_digest
  ]
  pool = [shape for scene in scenes for shape in scene.footprints]
  real = [region for drawing, scene in pairs for region in by_eye.regions(drawing, scene.points)]
  figures = {"real": _shares(real)}
  for name, prior in ways.items():
    rng, found = np.random.default_rng(4), []
    for drawing, scene in pairs:
      free, sites = _free(scene), []
      for _ in range(-(-DRAWN_SITES // len(pairs))):
        for _ in range(8):
          shape = pool[rng.integers(len(pool))]
          density, size = scene.densities[name], diameter(shape)
          if rng.random() < places.plenty(prior, density, scene.canvas, free, size):
            break
        sites += _place(scene, name, prior, rng, footprints=[shape])
      found += by_eye.regions(drawing, np.array([site.centre for site in sites]))
    figures[name] = _shares(found)
    print(f"regions, {name}: {figures[name]}", flush=True)
  return figures


def _shares(regions: Sequence[str]) -> dict[str, float]:
  counts = collections.Counter(regions)
  return {"sites": len(regions), **{name: n / len(regions) for name, n in sorted(counts.items())}}


def _context(scenes: Sequence[Scene], ways: dict[str, places.Prior]) -> dict[str, Any]:
  """AUC of real against chosen sites, by prior, and of real against real."""
  floors = {name: (name, FLOOR) for name in ways} | {NO_FLOOR: (IN_USE, 0.0)}
  groups = [scene.group for scene in scenes for _ in scene.points]
  real: dict[str, list[np.ndarray]] = {name: [] for name in ("alone", *floors)}
  chosen: dict[str, list[np.ndarray]] = {name: [] for name in floors}
  for index, scene in enumerate(scenes):
    real["alone"] += [_patch(scene, scene.canvas.values, *point) for point in scene.points]
    for name, (way, floor) in floors.items():
      sites = _place(scene, way, ways[way], np.random.default_rng([1, index]), floor)
      values = _with_holes(scene, sites, index)
      # As many as there are points, so that both classes have the same images.
      centres = [sites[i % len(sites)].centre for i in range(len(scene.points))]
      real[name] += [_patch(scene, values, *point) for point in scene.points]
      chosen[name] += [_patch(scene, values, *point) for point in centres]
  number = np.unique(groups, return_inverse=True)[1]
  folds, count = realism.fold_of(number), len(groups)
  figures: dict[str, Any] = {"sites": count, "groups": int(number.max()) + 1}
  half = np.random.default_rng(0).permutation(number.max() + 1) % 2
  pairs = {"real against real": (np.stack(real["alone"]), half[number], np.arange(count))}
  twice = np.tile(np.arange(count), 2)
  for name, there in chosen.items():
    pairs[name] = (np.stack(real[name] + there), np.repeat([0, 1], count), twice)
  for name, (patches, labels, site) in pairs.items():
    covered = realism.Patches(patches, np.full(len(patches), 2.0 * _MIDDLE_PX, np.float32))
    verdicts = realism.judged(covered, labels, number[site], folds[site])
    judge = realism.strictest(verdicts)
    found = verdicts[judge]
    figures[name] = {"auc": round(found.auc, 3), "interval": [round(v, 3) for v in found.interval]}
    figures[name]["judge"] = judge
    print(f"context, {name}: {figures[name]}", flush=True)
  return figures


def _with_holes(scene: Scene, sites: Sequence[candidates.Site], number: int) -> np.ndarray:
  """The image with filled holes at its lesions and, with the same outlines, at chosen sites."""
  holes = list(scene.lesions)
  for shape, site in zip(scene.footprints, sites):
    hole = np.zeros(scene.forbidden.shape, bool)
    row, column = site.origin
    hole[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    holes.append(hole)
  return emptied.inpainted(scene.values, holes, jax.random.key(number))


def _patch(scene: Scene, values: np.ndarray, x: float, y: float) -> np.ndarray:
  """u8[33, 33], grey as exported, around a point, a disc in the middle covered."""
  low, high = scene.canvas.value_range
  grey = (np.clip(values.mean(axis=-1), low, high) - low) / (high - low) * 255
  half = SIDE // 2
  padded = np.pad(np.round(grey).astype(np.uint8), half)
  row, column = int(y), int(x)
  patch = padded[row : row + SIDE, column : column + SIDE].copy()
  rows, columns = np.ogrid[-half : half + 1, -half : half + 1]
  patch[rows**2 + columns**2 <= _MIDDLE_PX**2] = 128
  return patch


def _placements(scenes: Sequence[Scene], prior: places.Prior) -> dict[str, Any]:
  """Footprints that touch forbidden pixels, of a thousand or a few more."""
  made = touching = outside = 0
  number = 0
  while made < PLACEMENTS:
    scene = scenes[number % len(scenes)]
    for shape, site in zip(
      scene.footprints, _place(scene, IN_USE, prior, np.random.default_rng([2, number]))
    ):
      row, column = site.origin
      part = np.s_[row : row + shape.shape[0], column : column + shape.shape[1]]
      touching += bool((scene.forbidden[part] & shape).any())
      outside += bool((~scene.canvas.content[part] & shape).any())
      made += 1
    number += 1
  return {"made": made, "on_the_mask": touching, "outside_the_body": outside}


def _danger(scenes: Sequence[Scene], predicted: bool) -> dict[str, Any]:
  """Share of real lesions whose centre lies on the mask."""
  hits = [
    bool(scene.forbidden[int(y), int(x)])
    for scene in scenes
    for x, y in np.clip(scene.points, 0, np.array(scene.forbidden.shape[::-1]) - 1)
  ]
  covered = float(np.mean([scene.forbidden.mean() for scene in scenes]))
  return {
    "predicted": predicted,
    "false_exclusion": float(np.mean(hits)),
    "lesions": len(hits),
    "forbidden_share_of_the_image": covered,
  }


def _draw(scenes: Sequence[Scene], ways: dict[str, places.Prior], path: Path) -> None:
  """Background, each score, forbidden pixels and chosen sites, for a few images."""
  rows = []
  for scene in scenes[:: max(1, len(scenes) // 4)][:4]:
    low, high = scene.canvas.value_range
    grey = np.clip((scene.canvas.values.mean(axis=-1) - low) / (high - low), 0, 1)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    row = [colour]
    for name in ("atlas", IN_USE):
      score = places.score_map(ways[name], scene.densities[name], scene.canvas)
      score = score / max(float(score.max()), 1e-12)
      shade = np.sqrt(score)[..., None] * np.array([1.0, 0.5, 0.0])
      row.append(np.clip(0.6 * colour + 0.7 * shade, 0, 1))
    marked = colour.copy()
    marked[scene.forbidden] = 0.6 * marked[scene.forbidden] + [0.4, 0.0, 0.0]
    for draw in range(12):
      for site in _place(scene, IN_USE, ways[IN_USE], np.random.default_rng([3, draw])):
        _dot(marked, site.centre, (1.0, 0.8, 0.1) if site.prior == IN_USE else (0.4, 0.7, 1.0))
    for x, y in scene.points:
      _dot(marked, (x, y), (0.2, 1.0, 0.3))
    row.append(marked)
    rows.append(row)
  image_grid(
    path,
    rows,
    columns=("lesions taken out", "atlas", IN_USE, "forbidden, and sites"),
    cell=400,
    footer="sites: orange by the prior, blue uniform; green: real; red: forbidden",
  )


def _dot(image: np.ndarray, centre: tuple[float, float], colour: Sequence[float]) -> None:
  x, y = int(centre[0]), int(centre[1])
  image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = colour


if __name__ == "__main__":
  cli.run(main)
