"""Lungs and mediastinum of an axial slice in Hounsfield units. Axes as in `thorax`."""

import numpy as np

from hiresmed_jax.data.anatomy.shapes import (
  Grid,
  Window,
  blob,
  cover,
  fractal,
  oval,
  resize,
  ribbon,
  spline,
  strokes,
)
from hiresmed_jax.data.anatomy.thorax import LEVELS, Canvas, Chest

_HEIGHTS = np.array([26.0, 8.0, -12.0, -32.0, -52.0])
# |x| of each lung's inner border at `_HEIGHTS` and at its tip in front, for each of `LEVELS`
_RIGHT = np.array(
  [
    (20, 22, 26, 34, 46, 56),
    (20, 17, 24, 28, 23, 12),
    (17, 20, 37, 37, 27, 8),
    (12, 16, 36, 46, 44, 20),
    (10, 15, 40, 52, 54, 34),
  ],
  float,
)
_LEFT = np.array(
  [
    (20, 24, 30, 38, 48, 56),
    (25, 28, 36, 36, 24, 12),
    (34, 35, 43, 38, 30, 14),
    (36, 42, 62, 76, 74, 44),
    (36, 45, 72, 90, 92, 66),
  ],
  float,
)


def outline(chest: Chest, side: float, rng: np.random.Generator) -> np.ndarray:
  """Outline [N, 2] of one lung in mm; side -1 is the patient's right, at the image's left."""
  table = _RIGHT if side < 0 else _LEFT
  scale = chest.wide / float(np.interp(chest.level, LEVELS, [86, 117, 130, 136, 139]))
  inner = np.array([np.interp(chest.level, LEVELS, column) for column in table.T]) * scale
  inner = inner + rng.normal(0, 2.0, inner.size)
  deep = -chest.front / float(np.interp(chest.level, LEVELS, [50, 70, 79, 84, 86]))
  heights = np.where(_HEIGHTS < 0, _HEIGHTS * deep, _HEIGHTS)
  heights = heights * float(np.interp(chest.level, [0, 0.5], [0.7, 1]))
  heights = heights + (chest.back - 85)
  keep = heights > chest.front + 22
  start = np.arcsin(np.clip((inner[5] + 5) / chest.wide, 0, 0.9))
  outer = chest.cage(side * np.linspace(start, 2.78, 22), -1.0)
  tip = np.array([[side * inner[5], chest.front + 9 + rng.normal(0, 2)]])
  behind = np.array(
    [[side * 26, chest.back - 6], [side * 19.5, chest.back - 22], [side * 20, chest.back - 40]]
  )
  medial = np.stack([side * inner[:5], heights], axis=1)[keep]
  return spline(np.concatenate([outer, behind, medial, tip]), 6)


def fill(
  canvas: Canvas, chest: Chest, lungs: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
  """Draws both lungs; returns the share of lung in each pixel, f32[H, W]."""
  grid = canvas.grid
  inside = np.zeros(grid.shape, np.float32)
  for lung in lungs:
    window, share = cover(grid, lung)
    np.maximum(inside[window], share, out=inside[window])
  coarse = grid.coarsened(1.2)
  y = coarse.local((slice(0, coarse.height), slice(0, coarse.width)))[1]
  weight = (y - chest.front) / (chest.back - chest.front)  # blood sinks to the back
  tissue = rng.uniform(-905, -840) + rng.uniform(20, 75) * weight
  tissue += 9 * fractal(rng, coarse, 22.0, 3, 0.8)
  haze = rng.uniform(0, 90) * np.clip((weight - 0.82) / 0.18, 0, 1) ** 2
  tissue = resize((tissue + haze).astype(np.float32), grid.shape)
  tissue += 11 * fractal(rng, grid, 2.6, 2, 0.8)
  within = Canvas(tissue, grid)
  for side, lung in zip((-1.0, 1.0), lungs, strict=True):
    window, share = _vessels(grid, chest, side, lung, rng)
    tissue[window] += share * (0.75 * chest.blood + 10 - tissue[window])
    _airways(within, chest, side, rng)
    _fissures(within, chest, side, rng)
  hu = canvas.hu
  hu += inside * (tissue - hu)
  return inside


def _hub(chest: Chest, side: float) -> np.ndarray:
  x = np.interp(chest.level, [0, 0.3, 0.5, 0.75, 1.0], [30, 36, 42, 44, 40]) * chest.wide / 130
  y = np.interp(chest.level, [0, 0.3, 0.5, 0.75, 1.0], [0, -2, 2, 10, 22])
  return np.array([side * x * (1.0 if side < 0 else 1.05), y])


def _vessels(
  grid: Grid, chest: Chest, side: float, lung: np.ndarray, rng: np.random.Generator
) -> tuple[Window, np.ndarray]:
  """Share of vessel in each pixel: what a thin slice keeps of a tree fanning out from the hilum."""
  hub = _hub(chest, side)
  low, high = lung.min(0), lung.max(0)
  reach = float(np.hypot(*(lung - hub).T).max())
  thick = rng.uniform(1.0, 3.0)  # of the slice, mm
  lines: list[tuple[float, np.ndarray]] = []
  density = rng.uniform(0.8, 1.3)
  for _ in range(int(density * np.prod(high - low) / 95)):
    at = rng.uniform(low, high)
    away = at - hub
    distance = float(np.hypot(*away)) / reach
    radius = (0.36 + 2.1 * max(1 - 1.2 * distance, 0) ** 2.2) * rng.uniform(0.7, 1.25)
    if rng.random() > min(0.8 / radius, 1) ** 1.6:
      continue
    heading = np.arctan2(away[1], away[0]) + rng.normal(0, 0.45)
    dip = abs(rng.normal(0, 0.75)) + 0.06
    length = min((0.7 * thick + 2 * radius) / np.tan(dip), 9 + 8 * radius) if dip < 1.5 else 0.0
    lines += _branch(at, heading, length, radius, thick, rng)
  if chest.level > 0.3:
    for _ in range(rng.integers(1, 4)):
      heading = (0 if side > 0 else np.pi) + rng.normal(0, 1.0)
      lines += _tree(hub, heading, rng.uniform(1.6, 3.6), thick, 0, rng)
  lines.sort(key=lambda line: line[0])
  return strokes(grid, lung, [(line, share) for share, line in lines])


def _branch(
  at: np.ndarray,
  heading: float,
  length: float,
  radius: float,
  thick: float,
  rng: np.random.Generator,
) -> list[tuple[float, np.ndarray]]:
  """One vessel as the slice cuts it: a tapered curved stroke, at times with a twig."""
  share = float(min(1.0, 1.9 * radius / thick))
  if length < 1.2 * radius:
    return [(share, blob(rng, tuple(at), (radius * 1.1, radius * 0.95), 0.05)[::4])]
  bend = rng.normal(0, 0.25)
  steps = np.linspace(-0.5, 0.5, 6)
  angle = heading + bend * steps
  path = at + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), axis=0) * length / 6
  path -= path.mean(0) - at
  size = radius * np.array([0.55, 1.0, 1.1, 0.95, 0.7, 0.25])
  found = [(share, ribbon(path, size))]
  if length > 7 and rng.random() < 0.5:
    turn = angle[3] + rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
    twig = path[3] + np.linspace(0, 0.6 * length, 4)[:, None] * (np.cos(turn), np.sin(turn))
    found.append((0.85 * share, ribbon(twig, radius * np.array([0.7, 0.65, 0.55, 0.3]))))
  return found


def _tree(
  at: np.ndarray,
  heading: float,
  radius: float,
  thick: float,
  depth: int,
  rng: np.random.Generator,
) -> list[tuple[float, np.ndarray]]:
  """A vessel that stays in the slice, and its branches."""
  if radius < 0.45 or depth > 6:
    return []
  length = rng.uniform(3.2, 6.0) * radius + 3
  angle = heading + rng.normal(0, 0.12) * np.linspace(0, 1, 6)
  path = at + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), axis=0) * length / 6
  path = np.concatenate([at[None], path])
  end = 0.88 * radius
  found = [(float(min(1.0, 2.2 * radius / thick)), ribbon(path, np.linspace(radius, end, 7)))]
  for sign, chance in ((-1, 0.62), (1, 0.72)):
    if rng.random() < chance:
      turn = angle[-1] + sign * rng.uniform(0.2, 0.75)
      found += _tree(path[-1], turn, end * rng.uniform(0.5, 0.88), thick, depth + 1, rng)
  return found


def _airways(canvas: Canvas, chest: Chest, side: float, rng: np.random.Generator) -> None:
  """Bronchi cut across: a ring of wall around air, beside a vessel of the same size."""
  hub = _hub(chest, side)
  for _ in range(rng.integers(2, 7)):
    away = rng.gamma(2.0, 10.0) + 6
    angle = (0 if side > 0 else np.pi) + rng.normal(0, 0.9)
    at = hub + away * np.array([np.cos(angle), np.sin(angle)])
    size = max(4.2 - 0.07 * away, 1.2) * rng.uniform(0.8, 1.1)
    beside = at + (size * 1.9) * np.array([np.cos(angle + 1.5), np.sin(angle + 1.5)])
    canvas.paint(0.75 * chest.blood, blob(rng, tuple(beside), (size, size * 0.9), 0.06))
    squeeze = rng.uniform(0.7, 1.0)
    canvas.paint(-150.0, oval(tuple(at), (size, size * squeeze)))
    hollow = size - max(0.7, 0.22 * size)
    canvas.paint(-970.0, oval(tuple(at), (hollow, hollow * squeeze)))


def _fissures(canvas: Canvas, chest: Chest, side: float, rng: np.random.Generator) -> None:
  """The oblique fissure, a faint thin line; towards the diaphragm it moves to the front."""
  y = np.interp(chest.level, [0.1, 0.4, 1.0], [45, 25, -50]) + rng.normal(0, 6)
  inner = np.array([side * 20, y + 6 * side + 8])
  outer = np.array([side * chest.wide, y - 8 + rng.normal(0, 6)])
  middle = (inner + outer) / 2 + (0, rng.normal(-6, 4))
  path = spline(np.array([inner, middle, outer]), 12, closed=False)
  value = float(canvas.hu.mean()) + rng.uniform(30, 120)
  canvas.paint(value, ribbon(path, np.full(len(path), rng.uniform(0.35, 0.7))), soft=0.25)
