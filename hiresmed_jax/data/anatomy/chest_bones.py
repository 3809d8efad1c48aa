"""Bones of an axial chest slice in Hounsfield units. Axes as in `thorax`."""

from collections.abc import Callable

import numpy as np

from hiresmed_jax.data.anatomy.shapes import Grid, oval, ribbon, spline
from hiresmed_jax.data.anatomy.thorax import COMPACT, MUSCLE, SPONGY, Chest, paint

_BODY = [
  (0, -15), (11, -13), (17, -5), (17.5, 4), (15, 12), (7, 12.5),
  (0, 11), (-7, 12.5), (-15, 12), (-17.5, 4), (-17, -5), (-11, -13),
]  # fmt: skip


def _bone(
  hu: np.ndarray, grid: Grid, chest: Chest, outer: np.ndarray, inner: np.ndarray | None
) -> None:
  """Compact bone inside `outer`, spongy bone inside `inner`."""
  paint(hu, grid, COMPACT + chest.calcium, outer, soft=0.35)
  if inner is not None:
    paint(hu, grid, SPONGY + 0.3 * chest.calcium, inner, soft=0.35)


def _bar(
  hu: np.ndarray, grid: Grid, chest: Chest, path: np.ndarray, radius: np.ndarray, shell: float
) -> None:
  inner = radius - shell
  core = ribbon(path, np.maximum(inner, 0.05)) if (inner > 0.3).any() else None
  _bone(hu, grid, chest, ribbon(path, radius), core)


def scapula(
  hu: np.ndarray, grid: Grid, chest: Chest, side: float, rng: np.random.Generator
) -> None:
  """A thin blade between its muscles, with its spine at high levels; none at low ones."""
  if chest.level > 0.62:
    return
  turn = rng.normal(0, 0.05)
  angle = side * np.linspace(2.62 + turn, 2.08 + turn - 0.12 * (chest.level < 0.3), 6)
  lift = np.array([17, 18.5, 20, 22, 25, 28]) + rng.normal(0, 1, 6)
  blade = spline(chest.cage(angle, lift), 6, closed=False)
  count = len(blade)
  taper = np.sin(np.linspace(0.15, np.pi - 0.15, count)) ** 0.6
  outward = _normals(blade, chest)
  paint(hu, grid, MUSCLE, ribbon(blade - 6 * outward, 4.6 * chest.muscle * taper), soft=0.6)
  paint(hu, grid, MUSCLE, ribbon(blade + 8 * outward, 6.4 * chest.muscle * taper), soft=0.6)
  stations = np.linspace(0, 1, count)
  radius = np.interp(stations, [0, 0.1, 0.4, 0.75, 0.93, 1], [0.8, 2.3, 1.4, 2.8, 4.2, 2.0])
  _bar(hu, grid, chest, blade, radius, 1.1)
  if chest.level < 0.36:
    foot = blade[int(0.62 * count)]
    tip = foot + 17 * outward[int(0.62 * count)] + (side * 12, 0)
    path = spline(np.array([foot, (foot + tip) / 2 + (0, 1.5), tip]), 6, closed=False)
    radius = np.interp(np.arange(13), [0, 9, 11, 12], [1.8, 3.6, 3.0, 1.2])
    _bar(hu, grid, chest, path, radius, 1.1)


def _normals(path: np.ndarray, chest: Chest) -> np.ndarray:
  slope = np.gradient(path, axis=0)
  normal = np.stack([slope[:, 1], -slope[:, 0]], axis=1)
  normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
  return normal * np.sign((normal * path).sum(1, keepdims=True))


def ribs(hu: np.ndarray, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
  """Ribs as a slice cuts them: short ovals at the side, long slivers behind; the breastbone."""
  for side in (-1.0, 1.0):
    for center in np.array([0.62, 1.05, 1.45, 1.85, 2.25, 2.62]) + rng.normal(0, 0.08):
      center = center + rng.normal(0, 0.06)
      if rng.random() < 0.1 or (center < 0.8 and chest.level < 0.3):
        continue
      half = rng.uniform(7, 13) + 11 * max(np.cos(center) * -1, 0) + 3 * (center < 0.9)
      span = half / chest.wide
      angle = side * np.linspace(center - span, center + span, 16)
      slant = rng.normal(0, 1.6)
      path = chest.cage(angle, 6.0 + slant * np.linspace(-1, 1, 16))
      taper = np.clip(np.sin(np.linspace(0.06, np.pi - 0.06, 16)), 0, 1) ** 0.45
      if center < 0.78 and rng.random() < 0.6:  # cartilage in front
        paint(hu, grid, rng.uniform(80, 150), ribbon(path, 5.5 * taper), soft=0.5)
      else:
        _bar(hu, grid, chest, path, rng.uniform(3.4, 4.8) * taper, rng.uniform(1.2, 1.7))
  _breastbone(hu, grid, chest, rng)


def _breastbone(hu: np.ndarray, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
  if chest.level > 0.93:
    return
  half = float(np.interp(chest.level, [0.1, 0.25, 0.4, 0.9], [30, 26, 17, 12])) * rng.uniform(
    0.9, 1.1
  )
  x = np.linspace(-half, half, 24)
  path = np.stack([x, chest.front - 6.5 + 2.5 * (x / half) ** 2 + 0 * x], axis=1)
  radius = 5.2 * (1 - 0.25 * np.cos(x / half * np.pi)) * (1 - np.abs(x / half) ** 9) ** 0.5
  _bar(hu, grid, chest, path, np.maximum(radius, 0.4), 1.2)


def vertebra(hu: np.ndarray, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
  """Body, canal, arch, processes, and the ribs that join there."""
  size = float(np.interp(chest.level, [0, 1], [0.84, 1.1])) * rng.uniform(0.94, 1.06)
  middle = np.array([rng.normal(0, 1.5), chest.back - 38 * size])

  def place(points: list[tuple[float, float]]) -> np.ndarray:
    return np.array(points, float) * size + middle

  behind = (float(middle[0]), float(middle[1]) + 26 * size)
  paint(hu, grid, MUSCLE, oval(behind, (34 * size, 26 * size)), soft=1.0)
  _arch(hu, grid, chest, place, size, rng)
  body = spline(place(_BODY), 8)
  _bone(hu, grid, chest, body, middle + (body - middle) * (1 - 1.4 / (15 * size)))
  vein = place([(0, 11), (0, 4), (0, -1)])
  paint(hu, grid, 90.0, ribbon(vein, np.array([1.8, 1.3, 0.5])), soft=0.8)
  canal = (float(middle[0]), float(middle[1]) + 20.5 * size)
  paint(hu, grid, -10.0, oval(canal, (9.2 * size, 8.2 * size)), soft=0.4)
  paint(hu, grid, 35.0, oval(canal, (6.6 * size, 5.8 * size)), soft=0.8)


def _arch(
  hu: np.ndarray,
  grid: Grid,
  chest: Chest,
  place: Callable[[list[tuple[float, float]]], np.ndarray],
  size: float,
  rng: np.random.Generator,
) -> None:
  """Pedicles, laminae and processes, as far as the slice's height shows them."""

  def bar(points: list[tuple[float, float]], start: float, stop: float, shell: float) -> None:
    path = spline(place(points), 6, closed=False)
    _bar(hu, grid, chest, path, np.linspace(start, stop, len(path)) * size, shell)

  footed, winged, joined = rng.random(3) < (0.65, 0.75, 0.75)
  for side in (-1.0, 1.0):
    if joined:  # a rib
      bar([(side * 15, 13), (side * 22, 20), (side * 34, 31), (side * 46, 39)], 4.4, 3.4, 1.2)
    if winged:
      bar([(side * 9, 22), (side * 20, 27), (side * 31, 35)], 4.6, 4.4, 1.4)
    if footed:
      bar([(side * 11, 8), (side * 12, 17), (side * 10, 26)], 3.8, 3.8, 1.5)
    else:  # the joint between two arches
      bar([(side * 13, 19), (side * 14, 26)], 3.4, 3.8, 1.4)
    bar([(side * 11, 24), (side * 5, 32), (0, 36)], 3.4, 3.4, 1.3)
  tip = [(0.0, 33.0), (rng.normal(0, 0.8), 44.0), (rng.normal(0, 1.5), rng.uniform(46, 60))]
  bar(tip, 4.2, 2.4, 1.3)
