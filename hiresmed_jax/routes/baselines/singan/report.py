"""Pictures of the baseline `singan`: what a level learns."""

import pathlib

import numpy as np

from hiresmed_jax.routes.baselines.fit import shown
from hiresmed_jax.routes.report import Examples
from hiresmed_jax.runtime.figures import image_grid


def draw_level(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes level_<step>.png: the images at this level, their reconstructions and new samples."""
  rows = []
  for row in examples.rows():
    strip = shown(row["made"])
    rows.append(np.split(strip, strip.shape[1] // strip.shape[0], axis=1))
  image_grid(
    folder / f"level_{step:07d}.png",
    rows,
    columns=("image", "repeated", *["new"] * (len(rows[0]) - 2)),
    cell=256,
    footer=f"level of {len(rows[0][0])} px, step {step}; all but the first column SYNTHETIC",
  )
