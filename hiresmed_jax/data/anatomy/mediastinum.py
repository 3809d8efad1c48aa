"""Heart, great vessels, airways and liver of an axial slice in HU. Axes as in `thorax`."""

import numpy as np

from hiresmed_jax.data.anatomy.shapes import Grid, blob, oval, ribbon, spline
from hiresmed_jax.data.anatomy.thorax import AIR, FAT, MUSCLE, Chest, paint


def fill(hu: np.ndarray, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
  """Fat, heart, great vessels, windpipe and gullet, as they lie at the chest's level."""
  level, k = chest.level, chest.wide / 130
  front = chest.front + 4

  def at(x: float, y: float) -> tuple[float, float]:
    return x * k + rng.normal(0, 1.5), y * k + rng.normal(0, 1.5)

  def vessel(x: float, y: float, a: float, b: float | None = None, blood: float | None = None):
    value = chest.blood if blood is None else blood
    paint(hu, grid, value, blob(rng, at(x, y), (a * k, (b or a) * k), 0.05), soft=0.7)

  paint(hu, grid, FAT + 10, blob(rng, (4, front + 34), (60, 42), 0.05), soft=1.5)
  paint(hu, grid, MUSCLE - 10, blob(rng, (5, 18), (26, 22), 0.08), soft=1.5)
  vessel(24, 27, 12.5)  # descending aorta
  paint(hu, grid, 40.0, blob(rng, at(5, 17), (7.5, 5), 0.1), soft=0.6)  # gullet
  if rng.random() < 0.4:
    paint(hu, grid, -600.0, oval(at(5, 16), (2.2, 1.4)), soft=0.8)
  vein = 0.85 * chest.blood + 8
  if level < 0.22:
    for x, y, r in (
      (-15, -22, 7),
      (1, -24, 5.5),
      (14, -14, 5),
      (24, 2, 6),
      (-24, -12, 8),
      (20, -32, 7),
    ):
      vessel(x, y, r)
  elif level < 0.38:
    arch = spline(np.array([(-10.0, -34), (6, -26), (20, -8), (25, 18)]) * k, 8, closed=False)
    paint(hu, grid, chest.blood, ribbon(arch, np.linspace(13, 12, len(arch)) * k), soft=0.7)
    vessel(-22, -20, 9, 10, vein)
  elif level < 0.58:
    vessel(-13, -34, 16, 17)
    vessel(-28, -16, 9, 11, vein)
    trunk = np.array([(12.0, -38), (22, -26), (30, -8), (40, 2)]) * k
    paint(
      hu, grid, vein, ribbon(spline(trunk, 6, closed=False), np.linspace(15, 10, 19) * k), soft=0.7
    )
    if level > 0.48:
      right = np.array([(14.0, -22), (-6, -12), (-26, -6), (-42, 0)]) * k
      paint(
        hu, grid, vein, ribbon(spline(right, 6, closed=False), np.linspace(11, 9, 19) * k), soft=0.7
      )
  else:
    _heart(hu, grid, chest, rng, k)
  if level < 0.46:
    paint(hu, grid, 10.0, blob(rng, (-1.5 * k, 1), (10.5, 11.5), 0.04), soft=0.5)
    paint(hu, grid, AIR + 10, blob(rng, (-1.5 * k, 1), (8.8, 9.6), 0.04), soft=0.4)
  elif level < 0.6:
    spread = float(np.interp(level, [0.46, 0.6], [9, 17]))
    for side in (-1.0, 1.0):
      here = (side * spread * k, 2 + 3 * rng.random())
      size = float(np.interp(level, [0.46, 0.6], [8.0, 6.0]))
      paint(hu, grid, 10.0, oval(here, (size * 1.25 + 1.4, size + 1.4)), soft=0.5)
      paint(hu, grid, AIR + 15, oval(here, (size * 1.25, size)), soft=0.4)


def _heart(hu: np.ndarray, grid: Grid, chest: Chest, rng: np.random.Generator, k: float) -> None:
  """Wall and chambers; with contrast medium the chambers stand out."""
  center = np.array([np.interp(chest.level, [0.58, 1], [8, 20]), -26.0]) * k
  turn = 0.55 + rng.normal(0, 0.08)
  cos, sin = np.cos(turn), np.sin(turn)
  spin = np.array([[cos, sin], [-sin, cos]])

  def place(points: np.ndarray) -> np.ndarray:
    return points * k @ spin + center

  swell = float(np.interp(chest.level, [0.58, 0.75, 1], [0.85, 1.0, 1.05]))
  wall = place(blob(rng, (0, 0), (66 * swell, 46 * swell), 0.05))
  paint(hu, grid, 45 + 0.3 * (chest.blood - 42), wall, soft=0.8)
  chambers = (
    ((30, 12), (34, 17)),
    ((26, -20), (30, 14)),
    ((-34, 16), (24, 20)),
    ((-36, -14), (24, 18)),
  )
  for (x, y), radii in chambers:
    shape = blob(rng, (x * swell, y * swell), (radii[0] * swell, radii[1] * swell), 0.12)
    paint(hu, grid, chest.blood * rng.uniform(0.8, 1.05), place(shape), soft=2.0)


def dome(chest: Chest, rng: np.random.Generator) -> np.ndarray | None:
  """Outline of the liver's top where it rises into the right lung; None above the diaphragm."""
  if chest.level < 0.84:
    return None
  size = float(np.interp(chest.level, [0.84, 1.0], [22, 74])) * rng.uniform(0.85, 1.1)
  return blob(rng, (-0.56 * chest.wide, -6), (0.92 * size, size), 0.05)
