"""Gas and stool in the bowel of a frontal abdominal radiograph, as chords of gas in mm."""

import numpy as np

from hiresmed_jax.data.anatomy.abdomen import Habitus
from hiresmed_jax.data.anatomy.bones import Build
from hiresmed_jax.data.anatomy.shapes import Grid, blur, cover, ribbon, spline, tunnel

# The colon from caecum to rectum: x, y, radius when blown up, in mm.
_COLON = np.array(
  [
    (-96, 52, 30), (-106, 20, 27), (-110, -20, 24), (-112, -60, 22), (-98, -92, 21),
    (-72, -84, 20), (-38, -62, 20), (0, -52, 20), (38, -64, 19), (76, -98, 18), (108, -150, 19),
    (122, -128, 17), (124, -80, 14), (122, -30, 13), (118, 20, 13), (108, 56, 14), (84, 80, 15),
    (52, 72, 16), (24, 92, 16), (-8, 86, 16), (-16, 112, 17), (0, 136, 20),
  ],
  float,
)  # fmt: skip


def gas(grid: Grid, habitus: Habitus, build: Build, rng: np.random.Generator) -> np.ndarray:
  """Chord of gas in mm, f32[H, W]: colon with haustra, stool, small bowel, stomach."""
  total = _colon(grid, habitus, build, rng)
  for _ in range(rng.poisson(2.5)):
    total = np.maximum(total, _small_loop(grid, rng))
  if rng.random() < 0.65:
    total = np.maximum(total, _stomach(grid, rng))
  return total


def _colon(grid: Grid, habitus: Habitus, build: Build, rng: np.random.Generator) -> np.ndarray:
  knots = _COLON.copy()
  knots[:, :2] += rng.normal(0, 5, (len(knots), 2))
  knots[4:10, 1] += rng.normal(0, 16) * np.array([0.2, 0.6, 1, 1, 1, 0.5])  # it sags in some
  knots[16:20] += np.append(rng.normal(0, 13, 2), 0)
  room = habitus.half_width(knots[:, 1]) - habitus.fat - 12
  knots[:, 0] *= np.clip((room - knots[:, 2]) / 112, 0.6, 1.3)
  knots[:, 0] += build.midline(knots[:, 1])
  path = spline(knots, 14, closed=False)
  position = np.linspace(0, 1, len(path))
  filled = _segments(rng, position)
  wide = rng.uniform(0.55, 1.05) * (1 + 0.15 * np.interp(position, *_steps(rng, 12)))
  total = np.zeros(grid.shape, np.float32)
  for start, stop, kind in filled:
    part = path[start:stop].copy()
    if len(part) < 6:
      continue
    ends = np.sin(np.linspace(0.1, np.pi - 0.1, len(part))) ** 0.55
    length = np.append(0, np.cumsum(np.hypot(*np.diff(part[:, :2], axis=0).T)))
    phase = length / rng.uniform(21, 29) * 2 * np.pi + rng.uniform(0, 6)
    radius = part[:, 2] * wide[start:stop] * ends
    haustra = 1 - 0.16 * np.abs(np.cos(phase / 2)) ** 6 + 0.03 * rng.normal(size=len(part))
    chord = _lumen(grid, part[:, :2], np.maximum(radius * haustra, 3.0))
    if kind == "stool":
      chord = _bubbles(grid, part[:, :2], radius, rng)
    else:
      chord = chord * rng.uniform(0.6, 1.0)
      chord = _folds(grid, chord, part[:, :2], radius, phase, rng)
    total = np.maximum(total, chord)
  return total


def _steps(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
  return np.linspace(0, 1, count), rng.normal(0, 1, count)


def _segments(rng: np.random.Generator, position: np.ndarray) -> list[tuple[int, int, str]]:
  """Random stretches of the colon that hold gas or stool; the rest is collapsed."""
  stretches = []
  at = 0.0
  gassy = rng.beta(2, 2.2)
  while at < 1:
    long = rng.gamma(3.0, 0.028)
    stop = min(at + long, 1.0)
    draw = rng.random()
    right = at < 0.3
    kind = "gas" if draw < gassy else "stool" if draw < gassy + (0.45 if right else 0.22) else ""
    if kind:
      low, high = np.searchsorted(position, [at, stop])
      stretches.append((int(low), int(high), kind))
    at = stop + rng.uniform(0, 0.03)
  return stretches


def _lumen(grid: Grid, path: np.ndarray, radius: np.ndarray) -> np.ndarray:
  """Chord of a tube around `path`: the union of discs, rounded towards its edge."""
  total = np.zeros(grid.shape, np.float32)
  window, distance = tunnel(grid, path, radius, margin=3.0)
  deepest = float(distance.max(initial=1e-3))
  inward = np.minimum(distance / deepest, 1)
  total[window] = blur(1.5 * deepest * np.sqrt(inward * (2 - inward)), 0.9 / grid.spacing)
  return total


def _bubbles(
  grid: Grid, path: np.ndarray, radius: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Stool: gas in many small pockets."""
  total = np.zeros(grid.shape, np.float32)
  long = float(np.hypot(*np.diff(path, axis=0).T).sum())
  count = int(long * float(radius.mean()) / rng.uniform(14, 30))
  station = rng.integers(0, len(path), count)
  angle, off = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count)) * 0.92 * radius[station]
  center = path[station] + off[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  sizes = np.minimum(rng.gamma(3.0, 0.75, count), 6.0)
  for (x, y), size, squeeze in zip(center, sizes, rng.uniform(-0.5, 0.5, count), strict=True):
    window = grid.window(np.array([[x, y]]), size * 1.6)
    u, v = grid.local(window, (x, y))
    rho = (u * u * (1 + squeeze) + v * v * (1 - squeeze)) / (size * size)
    np.maximum(total[window], size * np.maximum(1 - rho, 0), out=total[window])
  return 1.3 * blur(total, 0.7 / grid.spacing)


def _folds(
  grid: Grid,
  chord: np.ndarray,
  path: np.ndarray,
  radius: np.ndarray,
  phase: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Thin folds between haustra, each reaching part of the way across."""
  slope = np.gradient(path, axis=0)
  normal = np.stack([-slope[:, 1], slope[:, 0]], 1)
  normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
  turns = np.floor(phase / (2 * np.pi) + 0.5)
  for index in np.nonzero(np.diff(turns))[0]:
    side = rng.choice((-1.0, 1.0))
    reach = rng.uniform(0.35, 0.9)  # of the lumen's half-width, inwards from the wall
    along = slope[index] / (np.linalg.norm(slope[index]) + 1e-9)
    across = side * np.linspace(1.08, 1.08 - reach, 5)[:, None]
    bow = rng.normal(0, 0.22) * (1.08 - np.abs(across)) ** 1.5
    points = path[index] + radius[index] * (across * normal[index] + bow * along)
    line = spline(points, 6, closed=False)
    window, share = cover(grid, ribbon(line, np.linspace(3.0, 0.7, len(line))))
    if share.size:
      fade = rng.uniform(0.25, 0.5)
      chord[window] *= 1 - fade * blur(share, 0.9 / grid.spacing)
  return chord


def _small_loop(grid: Grid, rng: np.random.Generator) -> np.ndarray:
  start = np.array([rng.normal(0, 40), rng.normal(5, 45)])
  heading = rng.uniform(0, 2 * np.pi)
  points = [start]
  for _ in range(rng.integers(2, 5)):
    heading += rng.normal(0, 0.7)
    points.append(points[-1] + 13 * np.array([np.cos(heading), np.sin(heading)]))
  path = spline(np.array(points), 10, closed=False)
  ends = np.sin(np.linspace(0.2, np.pi - 0.2, len(path))) ** 0.5
  ripple = 1 + 0.06 * np.sin(np.arange(len(path)) * 1.1)
  return rng.uniform(0.4, 0.8) * _lumen(grid, path, rng.uniform(5, 9) * ends * ripple)


def _stomach(grid: Grid, rng: np.random.Generator) -> np.ndarray:
  points = np.array([(62, -205), (84, -182), (72, -150), (46, -128), (14, -112)], float)
  points = points + rng.normal(0, 7, points.shape)
  path = spline(points[: rng.integers(3, 6)], 10, closed=False)
  ends = np.sin(np.linspace(0.35, np.pi - 0.2, len(path))) ** 0.5
  radius = np.linspace(rng.uniform(20, 32), 12, len(path)) * ends
  return rng.uniform(0.35, 0.8) * _lumen(grid, path, radius)
