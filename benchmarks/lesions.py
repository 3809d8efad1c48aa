"""Do lesions from a trained SinGAN look real, and do they differ? Copies and ellipsoids beside.

  python -m benchmarks.lesions --data data/stones_ct [--out benchmarks/results]

Trains a bank on real lesions of the training split (one of each patient group, windows of one
size), draws from it, from `copying` and from `parametric`, and reports: how many samples pass the
test of shape; LPIPS between samples of the bank (of one lesion; of any two) over that between real
lesions (goal: at least half); the distance of each sample to its nearest training crop, beside
that of a real lesion to its nearest other one (a copy machine has 0). Writes a figure with the
nearest training crop beside every sample, and a JSON. A bank that is in --bank is not trained anew.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from rich.console import Console

from benchmarks.environment import environment
from hiresmed_jax.convert import features
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import bank, bank_file, crops
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.likeness import nearest, normal
from hiresmed_jax.lesions.parametric import Lumps
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.lesions.sampling import Generators
from hiresmed_jax.ops.pyramid import lesion_pyramid
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.figures import image_grid
from hiresmed_jax.tasks import lesion, presets

GOAL = 0.5  # LPIPS between samples over that between real lesions
KINDS = ("singan", "copy", "parametric")


class Options(NamedTuple):
  """What was asked for; see `main`."""

  data: Path
  lesions: int
  side: int
  steps: int
  seed: int
  samples: int
  start: int
  net: str


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
  add = parser.add_argument
  add("--data", type=Path, required=True, help="prepared dataset")
  add("--lesions", type=int, default=20, help="real lesions to train on")
  add("--side", type=int, default=32, help="of their windows, pixels")
  add("--steps", type=int, default=300, help="of each level (2,000 on an accelerator)")
  add("--seed", type=int, default=0)
  add("--samples", type=int, default=40, help="drawn from each kind, and from one lesion")
  add("--start", type=int, default=0, help="level from which on samples are new")
  add("--net", default="squeezenet", choices=list(features.TRUNKS), help="of LPIPS")
  add("--bank", type=Path, help="folder of the bank (OUT/lesions_NAME.bank)")
  add("--out", type=Path, default=Path(__file__).parent / "results")
  given = vars(parser.parse_args())
  folder, out = given.pop("bank"), given.pop("out")
  options = Options(**given)
  console = Console(soft_wrap=True)
  folder = folder or out / f"lesions_{options.data.name}.bank"
  patches = chosen(options)
  seconds = None
  if not (folder / bank_file.FACTS).is_file():
    begin = time.monotonic()
    bank_file.save(folder, [trained(patches, options, console.print)], start=options.start)
    seconds = round(time.monotonic() - begin, 1)
  opened = bank.Bank(bank_file.load(folder).groups, start=options.start)
  if [m.donor for m in opened.members] != [p.donor for p in patches]:
    raise UserError(f"the bank in {folder} was trained on other lesions: name another --bank")
  result = measured(patches, opened, options)
  result |= {"seconds_of_training": seconds, "environment": environment()}
  name = f"lesions_{options.data.name}_{jax.default_backend()}"
  drawn_figure(out / f"{name}.jpg", patches, opened, options)
  (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
  console.print_json(json.dumps(result))


def chosen(options: Options) -> list[LesionPatch]:
  """Lesions of one window size, one of each patient group, in an order that the seed gives."""
  source = records.source(records.open_dataset(options.data), "train")
  patches = crops.gather(source, sides=(options.side,))
  order = np.random.default_rng(options.seed).permutation(len(patches))
  first = {patches[i].donor_group: patches[i] for i in order[::-1]}
  kept = [patches[i] for i in order if first[patches[i].donor_group] is patches[i]]
  if len(kept) < options.lesions:
    raise UserError(f"{len(kept)} groups have a lesion for windows of {options.side} px")
  return kept[: options.lesions]


def trained(
  patches: Sequence[LesionPatch], options: Options, say: Callable[[str], None]
) -> bank.Group:
  """A SinGAN for each lesion, all in one program for each level."""
  config = presets.lesion("best")
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  on_cpu = jax.default_backend() == "cpu"
  images = np.stack([bank.training_image(p) for p in patches])
  task = lesion.build(
    config,
    [images],
    [np.ones(len(images), np.float32)],
    steps=options.steps,
    steps_per_call=config.cpu_steps_per_call if on_cpu else config.steps_per_call,
    mesh=mesh,
    at_once=1 if on_cpu else 0,
  )
  state = jax.jit(task.init)(jax.random.key(options.seed))
  for phase in task.phases:
    begin = time.monotonic()
    batch = jax.device_put(phase.batch)
    if phase.begin is not None:
      state = jax.jit(phase.begin)(state, batch)
    step = jax.jit(task.train_step, donate_argnums=0)
    for _ in range(phase.steps // phase.steps_per_call):
      state, scalars = step(state, batch, {})
    error = float(scalars["reconstruction"]) ** 0.5
    say(f"{phase.name}: {time.monotonic() - begin:.0f} s, rmse {error:.4f}")
  ((levels, amplitudes, fixed),) = lesion.finished(state)
  return bank.Group(
    tuple(bank.member_of(p) for p in patches),
    Generators(levels, amplitudes, fixed),
    lesion_pyramid(options.side, min_size=config.min_size),
  )


def sources(patches: Sequence[LesionPatch], opened: bank.Bank) -> dict[str, Any]:
  """The three kinds, all from the same lesions."""
  return {"singan": opened, "copy": Copies(patches), "parametric": Lumps.fit(patches)}


def measured(patches: Sequence[LesionPatch], opened: bank.Bank, options: Options) -> dict[str, Any]:
  """The numbers of the JSON."""
  distance, weights = features.load_perceptual(options.net)
  between = jax.jit(distance)

  def lpips(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    # At 64 px and more the networks have their taps; 32 px windows are shown twice as large.
    a, b = (np.stack([shown(image) for image in side]) for side in zip(*pairs, strict=True))
    parts = range(0, len(a), 32)
    return np.concatenate([np.asarray(between(weights, a[i : i + 32], b[i : i + 32]))
                           for i in parts])  # fmt: skip

  real = [normal(p) for p in patches]
  pairs = list(itertools.combinations(range(len(real)), 2))
  real_lpips = lpips([(real[i], real[j]) for i, j in pairs])
  result: dict[str, Any] = {
    "benchmark": "lesions",
    "options": {**options._asdict(), "data": options.data.name},
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


def drawn_figure(
  path: Path, patches: Sequence[LesionPatch], opened: bank.Bank, options: Options
) -> None:
  """Rows: real lesions; then, for each kind, samples, and below each its nearest training crop."""
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
  footer = f"SYNTHETIC but for rows 1, 3, 5, 7; {options.data.name}, {options.steps} steps a level"
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
  main()
