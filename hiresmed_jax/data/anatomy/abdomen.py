"""Soft tissue of a frontal abdominal radiograph: what it adds to the line integral of attenuation.

Axes as in `bones`. Everything here is smooth and is drawn on a coarse grid, but the skin.
"""

import dataclasses

import numpy as np
from scipy.ndimage import gaussian_filter1d

from hiresmed_jax.data.anatomy.bones import Build
from hiresmed_jax.data.anatomy.shapes import (
  Grid,
  blob,
  blur,
  cover,
  depth,
  fractal,
  ribbon,
  round_chord,
  spline,
)

# linear attenuation per mm at about 65 keV
WATER, FAT, MUSCLE = 0.0197, 0.0180, 0.0204


@dataclasses.dataclass(frozen=True)
class Habitus:
  """How one patient's soft tissue differs from the next.

  Attributes:
    girth: of the body, 1 for a medium adult.
    fat: mm under the skin at the flank.
    visceral: 0 .. 1, fat around the organs; it makes their outlines visible.
    female: 0 .. 1, wide hips, narrow waist.
    bone: size of the bones, which the skin always covers.
  """

  girth: float
  fat: float
  visceral: float
  female: float
  bone: float

  @classmethod
  def random(cls, rng: np.random.Generator, build: Build) -> "Habitus":
    """A patient with these bones."""
    girth = float(np.clip(rng.normal(1.0, 0.12), 0.78, 1.35))
    fat = float(np.clip(18 + 110 * (girth - 0.95) + rng.normal(0, 6), 6, 60))
    return cls(girth, fat, float(rng.beta(2, 2)), build.female, build.scale)

  def half_width(self, y: np.ndarray) -> np.ndarray:
    """Half the body's width in mm at heights y."""
    knots = np.array([-400, -300, -200, -110, -40, 20, 80, 130, 190, 260, 340], float)
    slim = np.array([154, 156, 154, 150, 150, 157, 169, 178, 181, 177, 168], float)
    waist = np.array([0, 0, -3, -6, -7, 0, 5, 8, 8, 5, 2], float)
    belly = np.array([4, 4, 6, 10, 13, 12, 6, 2, 0, 0, 0], float)
    bulge = max(self.girth - 1, 0) * 9
    values = (slim + self.female * waist) * self.girth + bulge * belly * (1 - 0.5 * self.female)
    bones = np.array([0, 0, 0, 0, 0, 147, 150, 163, 165, 161, 158]) * self.bone
    values = np.maximum(values, bones + np.where(bones > 0, 0.5 * self.fat, 0))
    heights = np.arange(-400, 340, 5.0)
    path = gaussian_filter1d(np.interp(heights, knots, values), 5.0)
    return np.interp(y, heights, path).astype(np.float32)

  @property
  def cage(self) -> float:
    """Half the width of the rib cage in mm."""
    return float(self.half_width(np.array(-140.0))) - 0.6 * self.fat - 9


def body(grid: Grid, habitus: Habitus) -> tuple[np.ndarray, np.ndarray]:
  """(line integral of the fat and muscle of trunk and thighs, mask of the body f32 0 .. 1)."""
  x, y = grid.local((slice(0, grid.height), slice(0, grid.width)))
  heights = np.linspace(-500, 500, 251)
  widths = habitus.half_width(heights)
  deep = np.interp(heights, [-300, -100, 60, 150, 300], [112, 106, 100, 104, 92])
  deep = deep * (0.55 + 0.45 * habitus.girth) * (1 + 0.25 * max(habitus.girth - 1.05, 0))
  row = np.clip((y + 500) / 4, 0, 250)  # the tables are looked up by height, 4 mm apart
  low = row.astype(np.int32)
  share = row - low
  half = _lookup(widths, low, share)
  thick = _lookup(deep, low, share)
  outer = _slab(x, half, 2 * thick)
  inner = _slab(x, half - habitus.fat, 2 * thick - 0.9 * habitus.fat)
  # Below the groin the trunk parts into two thighs.
  legs = np.clip((y - 165) / 70, 0, 1)
  legs = legs * legs * (3 - 2 * legs)
  leg = _slab(np.abs(x) - half * 0.5, half * 0.5 - 2, 1.7 * thick)
  core = _slab(np.abs(x) - half * 0.49, half * 0.5 - 0.6 * habitus.fat, 1.6 * thick - habitus.fat)
  outer, inner = outer + legs * (leg - outer), inner + legs * (core - inner)
  mask = np.clip(0.5 + (half - np.abs(x)) / grid.spacing, 0, 1)
  return FAT * outer + (MUSCLE - FAT) * np.maximum(inner, 0) * 0.8, mask


def _lookup(table: np.ndarray, low: np.ndarray, share: np.ndarray) -> np.ndarray:
  table = table.astype(np.float32)
  step = np.append(np.diff(table), np.float32(0))
  return table[low] + share * step[low]


def _slab(x: np.ndarray, half: np.ndarray, thick: np.ndarray) -> np.ndarray:
  """Chord of a rounded box `2 half` wide and `thick` deep."""
  u = np.minimum(np.abs(x) / np.maximum(half, 1), 1)
  u2 = u * u
  return np.maximum(thick, 0) * np.sqrt(np.maximum(1 - u2 * u, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Urinary:
  """Where stones live: outlines in mm (kidneys, their hollow parts, ureters, bladder)."""

  kidneys: tuple[np.ndarray, ...]
  hollows: tuple[np.ndarray, ...]
  ureters: tuple[np.ndarray, ...]
  bladder: np.ndarray

  @classmethod
  def random(cls, rng: np.random.Generator, build: Build) -> "Urinary":
    """Kidneys along the spine, the right one lower; ureters down over the small pelvis."""
    kidneys, hollows, ureters = [], [], []
    for side in (-1.0, 1.0):
      drop = rng.normal(14 if side < 0 else 0, 8)  # the right one lies lower
      long, wide = rng.uniform(52, 62), rng.uniform(25, 31)
      tilt = side * rng.normal(0.26, 0.07)
      x, y = side * rng.normal(70, 5), -98 + drop
      x += float(build.midline(y))

      def place(points: np.ndarray, x=x, y=y, tilt=tilt, side=side) -> np.ndarray:
        cos, sin = np.cos(tilt), np.sin(tilt)
        points = np.asarray(points, float) * (side, 1)
        return points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)

      bean = np.array(
        [(0, -1), (0.55, -0.88), (0.93, -0.45), (1, 0), (0.93, 0.45), (0.55, 0.88), (0, 1),
         (-0.5, 0.86), (-0.78, 0.5), (-0.55, 0.0), (-0.78, -0.5), (-0.5, -0.86)]
      )  # fmt: skip
      bean = bean * (wide, long) * (1 + rng.normal(0, 0.02, (12, 1)))
      kidneys.append(place(spline(bean, 8)))
      hollows.append(place(spline(bean * 0.62 + (-0.08 * wide, 0), 8)))
      pelvis = place(np.array([(-0.62 * wide, 4.0)]))[0]
      ureters.append(_ureter(rng, build, side, pelvis))
    size = rng.uniform(0.6, 1.15)
    bladder = blob(rng, (0, 146 - 24 * size), (44 * size, 29 * size), 0.06)
    return cls(tuple(kidneys), tuple(hollows), tuple(ureters), bladder)


def _ureter(rng: np.random.Generator, build: Build, side: float, start: np.ndarray) -> np.ndarray:
  points = np.array(
    [(40, -50), (38, -10), (39, 30), (45, 62), (53, 94), (54, 112), (42, 127), (25, 133)], float
  )
  points = points * (side, 1) + rng.normal(0, 2.5, points.shape)
  points[:, 0] += build.midline(points[:, 1])
  path = spline(np.concatenate([start[None], points]), 10, closed=False)
  return ribbon(path, np.full(len(path), 3.6))


def organs(
  grid: Grid, build: Build, habitus: Habitus, urinary: Urinary, rng: np.random.Generator
) -> np.ndarray:
  """What psoas, kidneys, liver, spleen, bladder and loops add to the line integral, f32[H, W]."""
  total = np.zeros(grid.shape, np.float32)
  contrast = (MUSCLE - FAT) * (0.7 + 1.0 * habitus.visceral)
  for side in (-1.0, 1.0):
    _swell(total, grid, _psoas(rng, build, side), 15.0, 2.6 * contrast, 0.8)
  for kidney in urinary.kidneys:
    halo = kidney + (kidney - kidney.mean(0)) * 0.28
    _swell(total, grid, halo, 22.0, -0.8 * contrast, 4.0)
    _swell(total, grid, kidney, 24.0, 1.7 * contrast, 1.0)
  for hollow in urinary.hollows:
    _swell(total, grid, hollow, 14.0, -0.5 * contrast, 4.0)
  liver, spleen = _upper(rng)
  _swell(total, grid, liver, 45.0, 0.75 * contrast, 1.6)
  _swell(total, grid, spleen, 22.0, 0.9 * contrast, 1.4)
  _swell(total, grid, urinary.bladder, 26.0, 0.9 * contrast, 1.6)
  for side in (-1.0, 1.0):  # the fat stripe along the flank, and the buttock's lower edge
    y = np.linspace(-150, 40, 20)
    x = side * (habitus.half_width(y) - habitus.fat - 11 - 3 * np.sin(y / 40))
    _swell(total, grid, ribbon(np.stack([x, y], 1), np.full(20, 2.4)), 2.4, -5 * contrast, 1.2)
  loops = fractal(rng, grid, 38.0, 3, 0.55)
  mottle = np.abs(fractal(rng, grid, 24.0, 2, 0.5))
  total += np.float32(0.030 + 0.03 * habitus.visceral) * loops * _belly(grid)
  total -= np.float32(0.025) * mottle * _belly(grid)
  return total


def _swell(
  total: np.ndarray, grid: Grid, outline: np.ndarray, radius: float, attenuation: float, soft: float
) -> None:
  """Adds the line integral of a rounded organ, its edge blurred by `soft` mm."""
  window, distance = depth(grid, outline, margin=3 * soft)
  total[window] += attenuation * blur(round_chord(distance, radius), soft / grid.spacing)


def _psoas(rng: np.random.Generator, build: Build, side: float) -> np.ndarray:
  full = rng.uniform(0.82, 1.12)
  outer = [(24, -130), (35, -95), (49, -50), (62, 0), (73, 45), (84, 90), (97, 135), (108, 165)]
  inner = [(112, 178), (95, 160), (72, 122), (50, 84), (30, 45), (16, 0), (12, -60), (12, -120)]
  points = np.array(outer, float) * (full, 1)
  points = np.concatenate([points, np.array(inner, float)]) * (side, 1)
  points[:, 0] += build.midline(points[:, 1])
  return spline(points, 6)


def _upper(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  low = rng.normal(0, 14)
  liver = np.array(
    [(-142, -190), (-146, -120), (-138, -62 + low), (-112, -66 + low), (-78, -100 + low),
     (-40, -140 + low), (0, -165), (50, -190), (60, -235), (-40, -290), (-120, -260)]
  )  # fmt: skip
  spleen = blob(rng, (112 + rng.normal(0, 5), -165 + rng.normal(0, 8)), (30, 52), 0.08)
  return spline(liver + rng.normal(0, 4, liver.shape), 8), spleen


def _belly(grid: Grid) -> np.ndarray:
  """Smooth mask of the region that bowel fills."""
  outline = blob(np.random.default_rng(0), (0, -20), (128, 165), 0.0)
  mask = np.zeros(grid.shape, np.float32)
  window, share = cover(grid, outline)
  mask[window] = share
  return blur(mask, 14 / grid.spacing)


def lungs(grid: Grid, habitus: Habitus, rng: np.random.Generator) -> np.ndarray:
  """What the lung bases above the diaphragm take from the line integral (negative), f32[H, W]."""
  total = np.zeros(grid.shape, np.float32)
  level = rng.normal(-222, 12)
  for side, rise in ((-1.0, 10.0), (1.0, 0.0)):
    wide = 0.9 * float(habitus.half_width(np.array(-230.0))) - habitus.fat * 0.5
    top = np.array(
      [
        (8, -420), (10, level - rise + 12), (40, level - rise), (75, level - rise - 2),
        (105, level + 14), (wide - 4, level + 62), (wide + 2, level + 20), (wide, -420),
      ]
    )  # fmt: skip
    dome = spline(top * (side, 1), 8)
    _swell(total, grid, dome, 60.0, -0.0072, 1.5)
  markings = 1 + 0.10 * fractal(rng, grid, 16.0, 3, 0.8)
  return total * markings
