"""Does learned placement predict where patients have lesions, and can its sites be recognised?

  python -m benchmarks.placement --workdir runs/stones_ct --data data/stones_ct \
    [--figure FILE] [--out FILE]

On held-out images whose lesions are removed (`inference/emptied.py`):

  log-score     log-probability of the real places, nats over the uniform prior, with an interval
                over patients: atlas, YOLO, both, and the gain of the one in use over the others
  context       the judges of `evaluation/realism.py` learn real against chosen sites from 33 x 33
                pixels around them with the middle covered, and are tested on other patients; the
                strictest counts.
                Chosen sites have filled holes, too, with the same outlines and in the same image:
                otherwise a judge could recognise a real site by its filled hole, or by a
                neighbour's. Half of the patients' real sites against the other half's shows the
                level of chance. Three places in ten are uniform, as in use, and then none
  placements    a thousand of them with the mask in use: how many footprints touch it
  danger        share of real lesions that the mask would forbid, where the workdir has one

Nothing was tuned on the judges.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import harness
from hiresmed_jax.data import records, transforms
from hiresmed_jax.evaluation import realism
from hiresmed_jax.inference import canvas, emptied, places, prior_scores, survey, workdir
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.placement import candidates
from hiresmed_jax.routes.settings import PRIORS
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime.figures import image_grid

SIDE = 33  # of a patch
FLOOR = 0.3  # the default of `synthesize.floor`
NO_FLOOR = "in use, nothing uniform"
MARGIN_PX = 2.0
PLACEMENTS = 1000
_MIDDLE_PX = 10  # radius that is covered: more than the hole of a stone


class Scene(NamedTuple):
  """A held-out image without its lesions."""

  canvas: canvas.Canvas
  points: np.ndarray  # f64[N, 2] (x, y) where they were
  values: np.ndarray  # with them
  lesions: list[np.ndarray]  # bool[H, W]
  footprints: list[np.ndarray]
  group: str
  scores: dict[str, np.ndarray]  # of each prior
  forbidden: np.ndarray  # bool[H, W]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="with the route location trained")
  parser.add_argument("--data", type=Path, help="prepared dataset (that of the workdir)")
  parser.add_argument("--split", default="test", help="whose images")
  parser.add_argument("--figure", type=Path, help="PNG of scores and chosen sites")
  options = parser.parse_args(argv)
  dataset = workdir.dataset_of(options.workdir, options.data)
  fingerprint = dataset.card["fingerprint"]
  detector = workdir.location_of(options.workdir, fingerprint, dtype=jax.numpy.float32)
  chosen = detector.results["prior"]
  where = survey.load_or_make(dataset, options.workdir).atlas
  source = records.source(dataset, options.split)
  found = prior_scores.score_priors(
    source, detector, where, decoys=1.0, floor=FLOOR, seed=0, limit=len(source)
  )
  used = prior_scores.key_of(chosen["name"], chosen["powers"].get(chosen["name"], 1.0))
  gains = prior_scores.table(found, used, powers=list(chosen["powers"].values()), seed=0)
  print(json.dumps({"used": used, **gains}), flush=True)
  forbid = _forbidden(options.workdir, fingerprint)
  scenes = [
    _scene(item, index, where, detector, chosen["powers"], forbid)
    for index, item in enumerate(source)
    if len(item["boxes"])
  ]
  result = {
    "benchmark": "placement",
    **harness.environment(),
    "data": dataset.card["name"],
    "images": len(scenes),
    "prior": {"used": used, **gains},
    "context": _context(scenes, chosen["name"]),
    "placements": _placements(scenes, chosen["name"]),
    "danger": _danger(scenes, forbid is not None),
  }
  if options.figure:
    _draw(scenes, chosen["name"], options.figure)
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
  detector: Model,
  powers: dict[str, float],
  forbid: Callable[[canvas.Canvas], np.ndarray] | None,
) -> Scene:
  values, value_range = transforms.values_of(item)
  lesions = emptied.lesion_masks(values, item["boxes"], item["lesion_mask"], value_range)
  empty = {**item, "image": emptied.with_decoys(item, (0, index), decoys=0.0)}
  ground = canvas.real(empty)
  scores = {
    name: places.score_map(places.Prior(name, detector, powers.get(name, 1.0)), where, ground)
    for name in PRIORS
  }
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
    scores,
    forbidden,
  )


def _place(
  scene: Scene, name: str, rng: np.random.Generator, floor: float = FLOOR
) -> list[candidates.Site]:
  free = candidates.allowed_pixels(scene.forbidden, scene.canvas.content, MARGIN_PX)
  return candidates.place(
    rng, scene.scores[name], free, scene.footprints, floor=floor, min_gap_px=6.0, prior=name
  )


def _context(scenes: Sequence[Scene], used: str) -> dict[str, Any]:
  """AUC of real against chosen sites, by prior, and of real against real."""
  ways = {name: (name, FLOOR) for name in PRIORS} | {NO_FLOOR: (used, 0.0)}
  groups = [scene.group for scene in scenes for _ in scene.points]
  real: dict[str, list[np.ndarray]] = {name: [] for name in ("alone", *ways)}
  chosen: dict[str, list[np.ndarray]] = {name: [] for name in ways}
  for index, scene in enumerate(scenes):
    real["alone"] += [_patch(scene, scene.canvas.values, *point) for point in scene.points]
    for name, (prior, floor) in ways.items():
      sites = _place(scene, prior, np.random.default_rng([1, index]), floor)
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


def _placements(scenes: Sequence[Scene], name: str) -> dict[str, Any]:
  """Footprints that touch forbidden pixels, of a thousand or a few more."""
  made = touching = outside = 0
  number = 0
  while made < PLACEMENTS:
    scene = scenes[number % len(scenes)]
    for shape, site in zip(
      scene.footprints, _place(scene, name, np.random.default_rng([2, number]))
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


def _draw(scenes: Sequence[Scene], name: str, path: Path) -> None:
  """Background, each score, forbidden pixels and chosen sites, for a few images."""
  rows = []
  for scene in scenes[:: max(1, len(scenes) // 4)][:4]:
    low, high = scene.canvas.value_range
    grey = np.clip((scene.canvas.values.mean(axis=-1) - low) / (high - low), 0, 1)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    row = [colour]
    for one in ("atlas", "yolo", "atlas x yolo"):
      score = scene.scores[one] / max(float(scene.scores[one].max()), 1e-12)
      shade = np.sqrt(score)[..., None] * np.array([1.0, 0.5, 0.0])
      row.append(np.clip(0.6 * colour + 0.7 * shade, 0, 1))
    marked = colour.copy()
    marked[scene.forbidden] = 0.6 * marked[scene.forbidden] + [0.4, 0.0, 0.0]
    for draw in range(12):
      for site in _place(scene, name, np.random.default_rng([3, draw])):
        _dot(marked, site.centre, (1.0, 0.8, 0.1) if site.prior == name else (0.4, 0.7, 1.0))
    for x, y in scene.points:
      _dot(marked, (x, y), (0.2, 1.0, 0.3))
    row.append(marked)
    rows.append(row)
  image_grid(
    path,
    rows,
    columns=("lesions taken out", "atlas", "yolo", "atlas x yolo", "forbidden, and sites"),
    cell=400,
    footer="sites: orange by the prior, blue uniform; green: real; red: forbidden",
  )


def _dot(image: np.ndarray, centre: tuple[float, float], colour: Sequence[float]) -> None:
  x, y = int(centre[0]), int(centre[1])
  image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = colour


if __name__ == "__main__":
  cli.run(main)
