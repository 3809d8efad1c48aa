"""Pictures of the baseline `ddm`: what it sees through noise."""

import pathlib

import numpy as np

from hiresmed_jax.routes.baselines.fit import shown
from hiresmed_jax.routes.report import Examples
from hiresmed_jax.runtime.figures import image_grid


def draw_estimates(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes estimates_<step>.png: validation images, with noise, and as estimated from it."""
  rows = []
  for row in examples.rows():
    noisy, estimate = np.split(row["made"], 2, axis=-1)
    rows.append([shown(row["images_m11"]), shown(noisy), shown(estimate)])
  image_grid(
    folder / f"estimates_{step:07d}.png",
    rows,
    columns=("image", "with noise", "estimated from it"),
    cell=512,
    footer=f"validation, step {step}",
  )
