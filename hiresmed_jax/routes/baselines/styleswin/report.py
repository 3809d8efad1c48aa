"""Pictures of the baseline `styleswin`: what it makes."""

import pathlib

from hiresmed_jax.routes.baselines.fit import shown
from hiresmed_jax.routes.report import Examples
from hiresmed_jax.runtime.figures import image_grid


def draw_made(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes made_<step>.png: validation images, and beside them images that have no part in them."""
  rows = [[shown(row["images_m11"]), shown(row["made"])] for row in examples.rows()]
  footer = f"step {step}; the made ones are of the same random numbers at every step"
  path = folder / f"made_{step:07d}.png"
  image_grid(path, rows, columns=("validation", "made"), cell=512, footer=footer)
