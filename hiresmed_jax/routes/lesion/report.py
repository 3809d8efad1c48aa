"""Pictures and numbers of the lesion route: what a level learns, and what the bank then gives."""

import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from hiresmed_jax.errors import counted
from hiresmed_jax.lesions.bank import Bank
from hiresmed_jax.lesions.patch import LesionPatch, nearest, normal
from hiresmed_jax.routes.report import Examples
from hiresmed_jax.runtime.figures import image_grid

ROWS = 8  # lesions in a figure
_SAMPLES = 4  # of each, in the last figure
_TRIES = 16  # at samples of one lesion
_MEASURED = 32  # samples of one lesion that say whether its SinGAN is kept


def draw_level(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes level_<step>.png: lesions at this level, their reconstructions and new samples.

  Args:
    step: of the run, for the name.
    examples: f32[s, n s, C + 1] in [-1, 1]: n images of s x s side by side, the lesion, its
      reconstruction, samples. The last channel is the soft mask.
    folder: of the figures.
  """
  images = np.stack([row["made"] for row in examples.rows()])
  side = images.shape[1]
  columns = images.shape[2] // side
  rows = [
    [_grey_01(row[:, i * side : (i + 1) * side, :-1]) for i in range(columns)] for row in images
  ]
  image_grid(
    folder / f"level_{step:07d}.png",
    rows,
    columns=("lesion", "repeated", *(["new"] * (columns - 2))),
    cell=160,
    footer=f"level of {side} px, step {step}; all but the first column SYNTHETIC",
  )


def accepted(bank: Bank, *, seed: int) -> np.ndarray:
  """f32[members], the share of each one's samples that are lesions, by the test of drawing."""
  shares = []
  for number in range(len(bank.members)):
    made = bank.samples(number, seed=seed, count=_MEASURED)
    shares.append(np.mean([isinstance(one, LesionPatch) for one in made]))
  return np.array(shares, np.float32)


def measure(bank: Bank, patches: Sequence[LesionPatch], *, seed: int) -> dict[str, Any]:
  """What the trained bank gives, in numbers.

  Args:
    bank: opened.
    patches: the lesions that it was trained on, in the order of its members.
    seed: of the samples.

  Returns:
    {"lesions", "accepted": share of samples that pass the test of shape, "rejected": the others by
    reason, "apart": root mean squared difference in [0, 1] of the middle of the window, medians:
    "real" from each lesion to the one most like it, "samples" from each sample to the training
    crop most like it, "of_one" between samples of one lesion}.
  """
  real = [normal(patch) for patch in patches]
  rejected: Counter[str] = Counter()
  to_training, of_one = [], []
  for number in range(len(bank.members)):
    before = None
    for made in bank.samples(number, seed=seed, count=_TRIES):
      if isinstance(made, str):
        rejected[made] += 1
        continue
      image = normal(made)
      to_training.append(nearest(image, real)[1])
      if before is not None:
        of_one.append(nearest(image, [before])[1])
      before = image
  between = [nearest(image, real, i)[1] for i, image in enumerate(real)]
  return {
    "protocol": "root mean squared difference in [0, 1] over the middle half of the window, median",
    "lesions": len(real),
    "accepted": len(to_training) / max(len(to_training) + rejected.total(), 1),
    "rejected": dict(rejected),
    "apart": {
      "real": _median(between),
      "samples": _median(to_training),
      "of_one": _median(of_one),
    },
  }


def draw_samples(
  bank: Bank, patches: Sequence[LesionPatch], path: pathlib.Path, *, seed: int
) -> None:
  """Each lesion, samples of it, and below every sample the training crop that is most like it.

  Args:
    bank: opened.
    patches: the lesions that it was trained on, in the order of its members.
    path: of the PNG.
    seed: of the samples.
  """
  real = [normal(patch) for patch in patches]
  rows, labels = [], []
  for number in range(min(len(real), ROWS)):
    made = bank.samples(number, seed=seed, count=4 * _TRIES)
    good = [normal(one) for one in made if isinstance(one, LesionPatch)][:_SAMPLES]
    if not good:
      continue
    rows.append([_grey_01(real[number]), *(_grey_01(image) for image in good)])
    blank = np.ones(real[number].shape[:2], np.float32)
    rows.append([blank, *(_grey_01(real[nearest(image, real)[0]]) for image in good)])
    labels += [f"{patches[number].diameter_px:.0f} px", "nearest"]
  if rows:
    footer = "upper rows SYNTHETIC but for the first image; lower rows: the nearest training crop"
    columns = ("real", *["new"] * _SAMPLES)
    image_grid(path, rows, columns=columns, labels=labels, cell=128, footer=footer)


def print_results(done: dict[str, Any], folder: pathlib.Path) -> None:
  """The results on the terminal, and where the pictures are."""
  results, console = done["results"], Console(soft_wrap=True)
  windows = ", ".join(f"{count} of {side} px" for side, count in results["windows"].items())
  console.print(f"lesion: a bank of {counted(results['lesions'], 'lesion')}, windows: {windows}")
  console.print(
    f"{results['accepted']:.0%} of its samples pass the test of shape: there is a lesion, of the "
    "size of the real one, where its mask is"
  )
  again, left_out = (results.get(key, 0) for key in ("trained_again", "left_out"))
  if again or left_out:
    console.print(
      f"of {max(again, left_out)} lesions too few samples did: {again} were trained again, "
      f"{left_out} are left out"
    )
  if results["accepted"] < 0.1:
    console.print("below 10 %: drawing will be slow; train longer (lesion.steps, lesion.cpu_steps)")
  apart = results["apart"]
  if apart["samples"] is not None and apart["real"] is not None:
    console.print(
      f"a sample is {apart['samples']:.3f} away from the training crop most like it; a real lesion "
      f"is {apart['real']:.3f} away from the next one"
    )
  console.print(f"figures: {folder / 'figures' / 'samples.png'}")


def _median(values: Sequence[float]) -> float | None:
  finite = [value for value in values if np.isfinite(value)]
  return float(np.median(finite)) if finite else None


def _grey_01(image_m11: np.ndarray) -> np.ndarray:
  return np.clip((np.asarray(image_m11, np.float32).mean(axis=-1) + 1.0) / 2.0, 0.0, 1.0)
