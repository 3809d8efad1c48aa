"""Do lesions of a trained SinGAN look real, and do they differ, beside copies and ellipsoids?

  python -m hiresmed_jax.train --config stones_ct.py:lesion --data data/stones_ct
  python -m benchmarks.lesions --workdir runs/stones_ct \
    --out benchmarks/results/lesions_stones_ct_cpu.json

Draws from the bank of the route lesion in a workdir, from copies and from ellipsoids of the same
lesions. It reports the share of samples that pass the test of shape; LPIPS between samples (of one
lesion, and of any two) over LPIPS between real lesions (goal: at least half); and the distance of a
sample to the nearest training crop, beside that of a real lesion to the nearest other one (0 for an
exact copy). With --out it also writes a figure of samples with their nearest training crops.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import harness
from hiresmed_jax.convert import features
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey
from hiresmed_jax.inference import workdir as workdirs
from hiresmed_jax.lesions import bank
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.parametric import Lumps
from hiresmed_jax.lesions.patch import LesionPatch, nearest, normal
from hiresmed_jax.routes.lesion import train
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime.figures import image_grid

GOAL = 0.5  # LPIPS between samples over that between real lesions
KINDS = ("singan", "copy", "parametric")


class Options(NamedTuple):
  """What was asked for; see `main`."""

  seed: int
  samples: int
  net: str


class Trained(NamedTuple):
  """A bank, its training lesions in the order of its members, and facts of its training."""

  opened: bank.Bank
  patches: list[LesionPatch]
  about: dict[str, Any]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="of the trained route lesion")
  parser.add_argument("--data", type=Path, help="prepared dataset (that of the workdir)")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--samples", type=int, default=40, help="of each kind")
  parser.add_argument("--net", default="squeezenet", choices=list(features.TRUNKS), help="of LPIPS")
  given = parser.parse_args(argv)
  options = Options(given.seed, given.samples, given.net)
  trained = opened(given.workdir, given.data)
  harness.publish(measured(trained, options), given.out)
  if given.out:
    drawn_figure(given.out.with_suffix(".jpg"), trained, options)


def opened(workdir: Path, data: Path | None) -> Trained:
  """The bank of a workdir."""
  dataset = workdirs.dataset_of(workdir, data)
  run = workdirs.finished(workdir, "lesion", dataset.card["fingerprint"])
  values = ConfigDict(run.config["lesion"])
  patches = train.chosen(survey.load_or_make(dataset, workdir).patches, values)
  loaded = bank.load(workdir / "lesion" / "bank")
  kept = {(member.donor, member.diameter_px) for member in loaded.members}
  patches = [patch for patch in patches if (patch.donor, patch.diameter_px) in kept]
  if [m.donor for m in loaded.members] != [p.donor for p in patches]:
    raise UserError(f"the bank in {workdir} was trained on other lesions")
  about = {"data": dataset.card["name"], **{key: run.results[key] for key in ("windows", "steps")}}
  return Trained(loaded, patches, about)


def sources(patches: Sequence[LesionPatch], opened: bank.Bank) -> dict[str, Any]:
  """The three kinds, all from the same lesions."""
  return {"singan": opened, "copy": Copies(patches), "parametric": Lumps.fit(patches)}


def measured(trained: Trained, options: Options) -> dict[str, Any]:
  """The numbers of the JSON."""
  opened, patches, about = trained
  distance, weights = features.load_perceptual(options.net)
  between = jax.jit(distance)

  def lpips(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    # The networks need 64 px.
    a, b = (np.stack([shown(image) for image in side]) for side in zip(*pairs, strict=True))
    parts = range(0, len(a), 32)
    return np.concatenate([np.asarray(between(weights, a[i : i + 32], b[i : i + 32]))
                           for i in parts])  # fmt: skip

  real = [normal(p) for p in patches]
  pairs = list(itertools.combinations(range(len(real)), 2))
  real_lpips = lpips([(real[i], real[j]) for i, j in pairs])
  result: dict[str, Any] = {
    "benchmark": "lesions",
    **harness.environment(),
    **about,
    "options": options._asdict(),
    "lesions": len(real),
    "lpips_between_real": round(float(real_lpips.mean()), 4),
    "nearest_other_real": round(float(np.median([nearest(x, real, i)[1]
                                                 for i, x in enumerate(real)])), 4),
    "kinds": {},
  }  # fmt: skip
  for kind, source in sources(patches, opened).items():
    rng = np.random.default_rng(options.seed + 1)
    samples = [normal(source.draw(rng)) for _ in range(options.samples)]
    lpips_between = lpips(list(itertools.pairwise(samples)))
    result["kinds"][kind] = {
      "lpips_between_samples": round(float(lpips_between.mean()), 4),
      "over_real": round(float(lpips_between.mean() / real_lpips.mean()), 3),
      "nearest_training_crop": round(float(np.median([nearest(s, real)[1] for s in samples])), 4),
    }
  accepted = opened.rejected["accepted"]
  result["accepted"] = round(accepted / max(sum(opened.rejected.values()), 1), 3)
  result["rejected"] = {k: v for k, v in opened.rejected.items() if k != "accepted"}
  of_one = of_one_lesion(opened, options)
  if of_one:
    value = float(lpips(of_one).mean())
    result["lpips_between_samples_of_one_lesion"] = round(value, 4)
    result["of_one_over_real"] = round(value / float(real_lpips.mean()), 3)
  result["goal"] = {
    "over_real": GOAL,
    "reached": result["kinds"]["singan"]["over_real"] >= GOAL,
    "reached_of_one_lesion": result.get("of_one_over_real", 0.0) >= GOAL,
  }
  return result


def of_one_lesion(opened: bank.Bank, options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
  """Pairs of samples of one member each, over all members."""
  pairs = []
  for number in range(len(opened.members)):
    made = [opened.sample(number, options.seed + seed) for seed in range(12)]
    good = [normal(m) for m in made if isinstance(m, LesionPatch)]
    pairs += list(zip(good[::2], good[1::2], strict=False))
  return pairs


def shown(image: np.ndarray, side: int = 64) -> np.ndarray:
  enlarged = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
  return np.clip(enlarged.reshape(side, side, -1), -1, 1)


def drawn_figure(path: Path, trained: Trained, options: Options) -> None:
  """Rows: real lesions; then, for each kind, samples with their nearest training crops below."""
  opened, patches, about = trained
  across = 12
  real = [normal(p) for p in patches]
  rows, labels = [[_grey(x) for x in real[:across]]], ["real"]
  for kind, source in sources(patches, opened).items():
    rng = np.random.default_rng(options.seed + 2)
    samples = [normal(source.draw(rng)) for _ in range(across)]
    rows.append([_grey(s) for s in samples])
    rows.append([_grey(real[nearest(s, real)[0]]) for s in samples])
    labels += [kind, "nearest"]
  page = path.with_suffix(".png")
  footer = f"SYNTHETIC but for rows 1, 3, 5, 7; {about['data']}, {about['steps']} steps a level"
  image_grid(page, rows, labels=labels, cell=96, footer=footer)
  picture = cv2.imread(str(page))
  assert picture is not None  # just written
  page.unlink()
  for quality in range(92, 30, -6):
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if done and len(data) < 195_000:
      path.write_bytes(data.tobytes())
      return
  raise ValueError("the figure does not fit in 200 kB")


def _grey(image: np.ndarray) -> np.ndarray:
  side = image.shape[0]
  middle = image[(side - 32) // 2 : (side + 32) // 2, (side - 32) // 2 : (side + 32) // 2]
  return (middle + 1) / 2


if __name__ == "__main__":
  cli.run(main)
