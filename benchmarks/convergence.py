"""How much sooner is an error reached than with the two published VQGAN recipes?

  python -m benchmarks.convergence --data data/stones_ct \
    --out benchmarks/results/convergence_cpu.json
  python -m benchmarks.convergence --scale paper --data DATA --out convergence_gpu.json

Ours (routes.background, preset `best` at the scale) against `taming` and `dome272` in PyTorch, with
their published learning rate and with the best of three, chosen by the first seed's final training
error. All have one measure (yardstick.py), the same images, batches and order, and equal wall-clock
budgets. Both sides start from random weights, with the same batch size, precision, number of codes
and latents (a 16th of the side), and without a perceptual term unless --perceptual names one. The
scale `cpu` divides every width of both by 8 and keeps the rest. Without --data it draws phantoms.
--factors then changes one setting of ours at a time, for the same number of images.

Prints a table and one JSON line, and draws curves beside --out. 17 runs of --seconds (60) and
some 6 minutes of compilation and evaluation: 23 minutes on 2 cores; --factors 15 more.
"""

import argparse
import gc
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
  convergence_data,
  convergence_factors,
  convergence_figure,
  convergence_run,
  harness,
)
from benchmarks.yardstick import compare
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli

THRESHOLDS = (0.1, 0.08, 0.06, 0.05, 0.04, 0.03)
RECIPES = ("ours", "taming", "dome272")
PUBLISHED = "published rate"
BEST = "best rate"


def main(argv: list[str]) -> None:
  options = _options(argv)
  # Two frameworks share one device: jax must not take most of its memory at once.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  about = harness.environment()
  scale = convergence_run.scale_of(options)
  images = convergence_data.load(options.data, scale)
  runner = convergence_run.Runner(
    scale, images, options.seconds, THRESHOLDS, ours_steps=options.ours_steps
  )
  recipes: dict[str, dict[str, Any]] = {}
  if "ours" in options.recipes:
    recipes["ours"] = runner.measure(runner.ours("ours"), range(options.seeds))
  for name in options.recipes:
    if name != "ours":
      recipes |= _published(runner, name, options)
  result = {
    "benchmark": "convergence",
    **about,
    "scale": options.scale,
    "images": convergence_data.describe(options.data, scale, images),
    "batch_size": scale.batch_size,
    "width": scale.width,
    "perceptual": scale.perceptual,
    "seconds_per_run": options.seconds,
    "thresholds": THRESHOLDS,
    "measure": "mean absolute error in [0, 1] of the clipped reconstruction, no running average",
    "recipes": recipes,
    "comparison": compare(recipes, THRESHOLDS, ours="ours") if "ours" in recipes else [],
  }
  if options.factors:
    result["factors"] = convergence_factors.measure(
      runner, recipes["ours"], options.factors, options.factor_seeds
    )
  _print(result)
  harness.publish(result, options.out)
  if options.out:
    convergence_figure.draw(result, options.out.with_suffix(".jpg"))


def _options(argv: list[str]) -> argparse.Namespace:
  parser = harness.parser(__doc__)
  parser.add_argument("--scale", choices=tuple(convergence_run.SCALES), default="cpu")
  parser.add_argument("--data", type=Path, help="prepared dataset; phantoms without it")
  parser.add_argument("--seconds", type=float, default=60.0, help="of training, per run")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
  parser.add_argument(
    "--rates",
    type=float,
    nargs="+",
    default=[1.0, 30.0, 100.0],
    help="times the published learning rate",
  )
  parser.add_argument("--perceptual", help="vgg16, alexnet or squeezenet, for all; none without it")
  parser.add_argument("--compiled", action="store_true", help="the baseline with torch.compile")
  parser.add_argument("--batch-size", type=int)
  parser.add_argument("--images", type=int, help="to train on")
  parser.add_argument("--size", type=int, help="pixels a side")
  parser.add_argument("--width", type=int, help="channels of the first level")
  parser.add_argument("--points", type=int, help="measurements along a run")
  parser.add_argument(
    "--ours-steps", type=int, help="length of our runs; found by a trial if not given"
  )
  names = ["all", *convergence_factors.FACTORS]
  parser.add_argument("--factors", nargs="*", choices=names, metavar="NAME", help=", ".join(names))
  parser.add_argument("--factor-seeds", type=int, default=1)
  options = parser.parse_args(argv)
  if options.factors == []:
    options.factors = ["all"]
  if options.factors and "ours" not in options.recipes:
    raise UserError("--factors are changes of ours: add ours to --recipes")
  counts = [options.seeds, options.factor_seeds, options.seconds, *options.rates]
  counts += [n for n in (options.images, options.size, options.width) if n is not None]
  if min(counts) <= 0:
    raise UserError("seeds, seconds, rates, images, size and width must be above 0")
  return options


def _published(
  runner: convergence_run.Runner, recipe: str, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
  """The recipe with its published rate, and with that of `--rates` which ends lowest."""

  def contender(factor: float) -> Any:
    return runner.published(f"{recipe} x{factor:g}", recipe, factor, options.compiled)

  def gather(factor: float, runs: dict[float, Any]) -> dict[str, Any]:
    whole = runner.measure(contender(factor), range(1, options.seeds))
    gc.collect()
    return runner.joined(runs[factor], whole)

  rates = sorted({1.0, *options.rates})
  first = {factor: runner.measure(contender(factor), range(1)) for factor in rates}
  best = min(rates, key=lambda factor: first[factor]["runs"][0]["final"]["train"])
  found = {f"{recipe}, {PUBLISHED}": gather(1.0, first)}
  found[f"{recipe}, {BEST}"] = (
    found[f"{recipe}, {PUBLISHED}"] if best == 1.0 else gather(best, first)
  )
  chosen = {str(first[f]["learning_rate"]): first[f]["runs"][0]["final"]["train"] for f in rates}
  found[f"{recipe}, {BEST}"] = found[f"{recipe}, {BEST}"] | {"chosen_from": chosen}
  return found


def _print(result: dict[str, Any]) -> None:
  console = Console(width=120)
  summary = Table("recipe", "parameters", "s/step", "compile s", "end: training", "held out")
  for name, recipe in result["recipes"].items():
    ends = [run["final"] for run in recipe["runs"]]
    means = [sum(end[key] for end in ends) / len(ends) for key in ("train", "held_out")]
    cells = (f"{recipe['seconds_per_step']:.3f}", f"{recipe['compile_seconds']:.0f}")
    summary.add_row(name, f"{recipe['parameters']:,}", *cells, *(f"{m:.4f}" for m in means))
  console.print(summary)
  sooner = Table("images", "error", "recipe", "ours s", "baseline s", "x seconds", "x steps")
  for row in result["comparison"]:
    if row["ours_seconds"] is not None:
      least = "" if row["reached"] else ">= "
      sooner.add_row(
        row["images"],
        str(row["threshold"]),
        row["recipe"],
        f"{row['ours_seconds']:.1f}",
        f"{least.replace('=', '')}{row['baseline_seconds']:.1f}",
        f"{least}{row['times_seconds']:.1f}",
        f"{least}{row['times_steps']:.1f}",
      )
  console.print(sooner)
  if "factors" in result:
    console.print(convergence_factors.as_table(result["factors"]))


if __name__ == "__main__":
  cli.run(main)
