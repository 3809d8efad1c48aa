"""Pictures and numbers of the baseline `styleswin`: what it makes, and a sheet of samples."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console

from hiresmed_jax.routes import report
from hiresmed_jax.routes.baselines.samples import sheet
from hiresmed_jax.routes.report import Evaluate, Examples, HostBatch
from hiresmed_jax.runtime.figures import image_grid

ROWS = 4  # of a figure


def draw_made(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes made_<step>.png: validation images, and beside them images that have no part in them."""
  rows = [[_shown(row["images_m11"]), _shown(row["made"])] for row in examples.rows()]
  footer = f"step {step}; the made ones are of the same random numbers at every step"
  path = folder / f"made_{step:07d}.png"
  image_grid(path, rows, columns=("validation", "made"), cell=512, footer=footer)


def final_evaluation(
  evaluate: Evaluate,
  *,
  train: Iterable[HostBatch],
  val: Iterable[HostBatch],
  test: Iterable[HostBatch],
  samples: pathlib.Path,
  count: int,
  about: str,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Evaluates the discriminator, and draws the sheet of the `count` images in `samples`.

  `about` says how they were made.

  Returns:
    {"train", "val", "held_out": mean logits, images; or None; "samples", "protocol"}.
  """
  results: dict[str, Any] = {
    "protocol": "mean logits of the discriminator, images one by one, after the last step: where "
    "those of training images lie above those of others, it knows them by heart; held-out groups "
    "(sha256 rule, group 0)",
    "samples": {"images": count, "made": about},
  }
  for name, batches in (("train", train), ("val", val), ("held_out", test)):
    numbers, images = evaluate(batches, lambda batch, made: None)
    results[name] = numbers | {"images": images} if images else None
  if jax.process_index() == 0:
    sheet(folder / "figures" / "samples.png", samples, count, about)
    report.write(folder, results)
  return results


def print_results(done: Mapping[str, Any], folder: pathlib.Path, samples: pathlib.Path) -> None:
  """The results on the terminal, and what to do with the samples."""
  results, console = done["results"], Console(soft_wrap=True)
  for name in ("train", "val", "held_out"):
    if numbers := results[name]:
      console.print(
        f"{numbers['images']} images, {name.replace('_', '-')}: logit {numbers['real_logit']:.2f}, "
        f"of made ones {numbers['made_logit']:.2f}"
      )
  console.print(f"{results['samples']['images']} samples: {results['samples']['made']}")
  console.print(f"figures: {folder / 'figures' / 'samples.png'}")
  console.print(
    f"compare: python -m hiresmed_jax.evaluate --baseline StyleSwin={samples} --real ..."
  )


def _shown(images_m11: np.ndarray) -> np.ndarray:
  """[..., C] in [-1, 1] -> [...] in [0, 1]."""
  return np.clip((np.asarray(images_m11, np.float32).mean(axis=-1) + 1.0) / 2.0, 0.0, 1.0)
