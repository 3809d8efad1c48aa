"""Bones, heart, vessels, airways and liver of an axial chest slice in HU. Axes as in `thorax`."""

from collections.abc import Callable

import numpy as np

from hiresmed_jax.data.anatomy.shapes import blob, oval, ribbon, spline
from hiresmed_jax.data.anatomy.thorax import AIR, COMPACT, FAT, MUSCLE, SPONGY, Canvas, Chest

_BODY = [
  (0, -15), (11, -13), (17, -5), (17.5, 4), (15, 12), (7, 12.5),
  (0, 11), (-7, 12.5), (-15, 12), (-17.5, 4), (-17, -5), (-11, -13),
]  # fmt: skip
# Vessels above the arch of the aorta (x, y, radius), and chambers of the heart (centre, radii).
_BRANCHES = ((-15, -22, 7), (1, -24, 5.5), (14, -14, 5), (24, 2, 6), (-24, -12, 8), (20, -32, 7))
_CHAMBERS = (
  ((30, 12), (34, 17)), ((26, -20), (30, 14)), ((-34, 16), (24, 20)), ((-36, -14), (24, 18)),
)  # fmt: skip


def _bone(canvas: Canvas, chest: Chest, outer: np.ndarray, inner: np.ndarray | None) -> None:
  """Compact bone inside `outer`, spongy bone inside `inner`."""
  canvas.paint(COMPACT + chest.calcium, outer, soft=0.35)
  if inner is not None:
    canvas.paint(SPONGY + 0.3 * chest.calcium, inner, soft=0.35)


def _bar(canvas: Canvas, chest: Chest, path: np.ndarray, radius: np.ndarray, shell: float) -> None:
  inner = radius - shell
  core = ribbon(path, np.maximum(inner, 0.05)) if (inner > 0.3).any() else None
  _bone(canvas, chest, ribbon(path, radius), core)


def scapula(canvas: Canvas, chest: Chest, side: float, rng: np.random.Generator) -> None:
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
  canvas.paint(MUSCLE, ribbon(blade - 6 * outward, 4.6 * chest.muscle * taper), soft=0.6)
  canvas.paint(MUSCLE, ribbon(blade + 8 * outward, 6.4 * chest.muscle * taper), soft=0.6)
  stations = np.linspace(0, 1, count)
  radius = np.interp(stations, [0, 0.1, 0.4, 0.75, 0.93, 1], [0.8, 2.3, 1.4, 2.8, 4.2, 2.0])
  _bar(canvas, chest, blade, radius, 1.1)
  if chest.level < 0.36:
    foot = blade[int(0.62 * count)]
    tip = foot + 17 * outward[int(0.62 * count)] + (side * 12, 0)
    path = spline(np.array([foot, (foot + tip) / 2 + (0, 1.5), tip]), 6, closed=False)
    radius = np.interp(np.arange(13), [0, 9, 11, 12], [1.8, 3.6, 3.0, 1.2])
    _bar(canvas, chest, path, radius, 1.1)


def _normals(path: np.ndarray, chest: Chest) -> np.ndarray:
  slope = np.gradient(path, axis=0)
  normal = np.stack([slope[:, 1], -slope[:, 0]], axis=1)
  normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
  return normal * np.sign((normal * path).sum(1, keepdims=True))


def ribs(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
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
        canvas.paint(rng.uniform(80, 150), ribbon(path, 5.5 * taper), soft=0.5)
      else:
        _bar(canvas, chest, path, rng.uniform(3.4, 4.8) * taper, rng.uniform(1.2, 1.7))
  _breastbone(canvas, chest, rng)


def _breastbone(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
  if chest.level > 0.93:
    return
  half = float(np.interp(chest.level, [0.1, 0.25, 0.4, 0.9], [30, 26, 17, 12])) * rng.uniform(
    0.9, 1.1
  )
  x = np.linspace(-half, half, 24)
  path = np.stack([x, chest.front - 6.5 + 2.5 * (x / half) ** 2 + 0 * x], axis=1)
  radius = 5.2 * (1 - 0.25 * np.cos(x / half * np.pi)) * (1 - np.abs(x / half) ** 9) ** 0.5
  _bar(canvas, chest, path, np.maximum(radius, 0.4), 1.2)


def vertebra(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
  """Body, canal, arch, processes, and the ribs that join there."""
  size = float(np.interp(chest.level, [0, 1], [0.84, 1.1])) * rng.uniform(0.94, 1.06)
  middle = np.array([rng.normal(0, 1.5), chest.back - 38 * size])

  def place(points: list[tuple[float, float]]) -> np.ndarray:
    return np.array(points, float) * size + middle

  behind = (float(middle[0]), float(middle[1]) + 26 * size)
  canvas.paint(MUSCLE, oval(behind, (34 * size, 26 * size)), soft=1.0)
  _arch(canvas, chest, place, size, rng)
  body = spline(place(_BODY), 8)
  _bone(canvas, chest, body, middle + (body - middle) * (1 - 1.4 / (15 * size)))
  vein = place([(0, 11), (0, 4), (0, -1)])
  canvas.paint(90.0, ribbon(vein, np.array([1.8, 1.3, 0.5])), soft=0.8)
  canal = (float(middle[0]), float(middle[1]) + 20.5 * size)
  canvas.paint(-10.0, oval(canal, (9.2 * size, 8.2 * size)), soft=0.4)
  canvas.paint(35.0, oval(canal, (6.6 * size, 5.8 * size)), soft=0.8)


def _arch(
  canvas: Canvas,
  chest: Chest,
  place: Callable[[list[tuple[float, float]]], np.ndarray],
  size: float,
  rng: np.random.Generator,
) -> None:
  """Pedicles, laminae and processes, as far as the slice's height shows them."""

  def bar(points: list[tuple[float, float]], start: float, stop: float, shell: float) -> None:
    path = spline(place(points), 6, closed=False)
    _bar(canvas, chest, path, np.linspace(start, stop, len(path)) * size, shell)

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


def mediastinum(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
  """Fat, heart, great vessels, windpipe and gullet at the level of the slice."""
  level, k = chest.level, chest.wide / 130
  front = chest.front + 4

  def at(x: float, y: float) -> tuple[float, float]:
    return x * k + rng.normal(0, 1.5), y * k + rng.normal(0, 1.5)

  def vessel(x: float, y: float, a: float, b: float | None = None, blood: float | None = None):
    value = chest.blood if blood is None else blood
    canvas.paint(value, blob(rng, at(x, y), (a * k, (b or a) * k), 0.05), soft=0.7)

  canvas.paint(FAT + 10, blob(rng, (4, front + 34), (60, 42), 0.05), soft=1.5)
  canvas.paint(MUSCLE - 10, blob(rng, (5, 18), (26, 22), 0.08), soft=1.5)
  vessel(24, 27, 12.5)  # descending aorta
  canvas.paint(40.0, blob(rng, at(5, 17), (7.5, 5), 0.1), soft=0.6)  # gullet
  if rng.random() < 0.4:
    canvas.paint(-600.0, oval(at(5, 16), (2.2, 1.4)), soft=0.8)
  vein = 0.85 * chest.blood + 8
  if level < 0.22:
    for x, y, r in _BRANCHES:
      vessel(x, y, r)
  elif level < 0.38:
    arch = spline(np.array([(-10.0, -34), (6, -26), (20, -8), (25, 18)]) * k, 8, closed=False)
    canvas.paint(chest.blood, ribbon(arch, np.linspace(13, 12, len(arch)) * k), soft=0.7)
    vessel(-22, -20, 9, 10, vein)
  elif level < 0.58:
    vessel(-13, -34, 16, 17)
    vessel(-28, -16, 9, 11, vein)
    trunk = spline(np.array([(12.0, -38), (22, -26), (30, -8), (40, 2)]) * k, 6, closed=False)
    canvas.paint(vein, ribbon(trunk, np.linspace(15, 10, 19) * k), soft=0.7)
    if level > 0.48:
      right = np.array([(14.0, -22), (-6, -12), (-26, -6), (-42, 0)]) * k
      right = spline(right, 6, closed=False)
      canvas.paint(vein, ribbon(right, np.linspace(11, 9, 19) * k), soft=0.7)
  else:
    _heart(canvas, chest, rng, k)
  if level < 0.46:
    canvas.paint(10.0, blob(rng, (-1.5 * k, 1), (10.5, 11.5), 0.04), soft=0.5)
    canvas.paint(AIR + 10, blob(rng, (-1.5 * k, 1), (8.8, 9.6), 0.04), soft=0.4)
  elif level < 0.6:
    spread = float(np.interp(level, [0.46, 0.6], [9, 17]))
    for side in (-1.0, 1.0):
      here = (side * spread * k, 2 + 3 * rng.random())
      size = float(np.interp(level, [0.46, 0.6], [8.0, 6.0]))
      canvas.paint(10.0, oval(here, (size * 1.25 + 1.4, size + 1.4)), soft=0.5)
      canvas.paint(AIR + 15, oval(here, (size * 1.25, size)), soft=0.4)


def _heart(canvas: Canvas, chest: Chest, rng: np.random.Generator, k: float) -> None:
  """Wall and chambers; with contrast medium the chambers stand out."""
  center = np.array([np.interp(chest.level, [0.58, 1], [8, 20]), -26.0]) * k
  turn = 0.55 + rng.normal(0, 0.08)
  cos, sin = np.cos(turn), np.sin(turn)
  spin = np.array([[cos, sin], [-sin, cos]])

  def place(points: np.ndarray) -> np.ndarray:
    return points * k @ spin + center

  swell = float(np.interp(chest.level, [0.58, 0.75, 1], [0.85, 1.0, 1.05]))
  wall = place(blob(rng, (0, 0), (66 * swell, 46 * swell), 0.05))
  canvas.paint(45 + 0.3 * (chest.blood - 42), wall, soft=0.8)
  for (x, y), radii in _CHAMBERS:
    shape = blob(rng, (x * swell, y * swell), (radii[0] * swell, radii[1] * swell), 0.12)
    canvas.paint(chest.blood * rng.uniform(0.8, 1.05), place(shape), soft=2.0)


def liver(chest: Chest, rng: np.random.Generator) -> np.ndarray | None:
  """Outline of the top of the liver, which rises into the right lung; None above the diaphragm."""
  if chest.level < 0.84:
    return None
  size = float(np.interp(chest.level, [0.84, 1.0], [22, 74])) * rng.uniform(0.85, 1.1)
  return blob(rng, (-0.56 * chest.wide, -6), (0.92 * size, size), 0.05)
