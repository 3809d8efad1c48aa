"""Spine and ribs of a frontal abdominal radiograph. Axes as in `bones`."""

import dataclasses

import numpy as np

from hiresmed_jax.data.anatomy.bones import Build, Film, tube
from hiresmed_jax.data.anatomy.shapes import ribbon, spline

# centre height, width and height of the vertebral bodies, and the tilt of their plates to the beam
_LEVELS = (
  ("L5", 25.0, 53.0, 27.0, 0.42),
  ("L4", -11.0, 50.0, 28.0, 0.18),
  ("L3", -48.0, 47.5, 28.5, 0.03),
  ("L2", -84.0, 45.0, 28.0, -0.08),
  ("L1", -119.0, 43.0, 27.0, -0.14),
  ("T12", -152.0, 41.0, 25.5, -0.14),
  ("T11", -183.0, 38.5, 24.0, -0.10),
  ("T10", -212.0, 36.0, 22.5, -0.05),
  ("T9", -239.0, 34.0, 21.5, 0.0),
  ("T8", -265.0, 32.5, 21.0, 0.05),
)
_TRANSVERSE = {"L1": 17.0, "L2": 22.0, "L3": 27.0, "L4": 22.0, "L5": 19.0}  # mm beyond the body


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
  """Axes of one vertebra on the film: from the middle of its body, in its widths and heights."""

  film: Film
  build: Build
  at: tuple[float, float]
  turn: float
  width: float
  height: float

  def place(self, points: np.ndarray) -> np.ndarray:
    """Units of this vertebra [N, 2] -> mm of the patient."""
    cos, sin = np.cos(self.turn), np.sin(self.turn)
    return points * (self.width, self.height) @ np.array([[cos, sin], [-sin, cos]]) + self.at

  def patch(
    self, low: tuple[float, float], high: tuple[float, float], margin: float = 0.0
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(compact, spongy, x, y) views around the box low .. high (units), x and y in mm."""
    corners = np.array([(u, v) for u in (low[0], high[0]) for v in (low[1], high[1])])
    window = self.film.grid.window(self.place(corners), margin)
    x, y = self.film.grid.local(window, self.at, self.turn)
    return self.film.compact[window], self.film.spongy[window], x, y


def spine(film: Film, build: Build, rng: np.random.Generator) -> None:
  """Draws T8 .. L5 with pedicles, laminae, facets, spinous and transverse processes."""
  for name, y, width, height, tilt in _LEVELS:
    y, width, height = (v * build.scale for v in (y, width, height))
    turn = -float(np.arctan((build.midline(y + 10) - build.midline(y - 10)) / 20))
    jitter = [float(v) for v in rng.normal(0, 1, 40)]
    frame = _Frame(film, build, (float(build.midline(y)), y), turn, width, height)
    _body(frame, tilt + 0.03 * jitter[0], jitter[1])
    _sides(frame, name, jitter[2:14])
    twist = build.twist * (1 + 0.1 * jitter[14])
    behind = (frame.at[0] + twist * np.cos(turn), frame.at[1] + twist * np.sin(turn))
    _back(dataclasses.replace(frame, at=behind), name, jitter[15:])


def _body(frame: _Frame, tilt: float, jitter: float) -> None:
  """A waisted drum, 0.72 as deep as wide, with end plates along the rays or tilted."""
  build, width, height = frame.build, frame.width, frame.height
  compact, spongy, x, y = frame.patch((-0.6, -0.8), (0.6, 0.8))
  deep = 0.72 * width
  half = width / 2 * (1 - (0.12 + 0.015 * jitter) * np.clip(1 - (2 * y / height) ** 2, 0, 1))
  across = np.clip(1 - (x / half) ** 2, 0, 1)
  opened = deep / 2 * abs(np.sin(tilt))  # half the height of a tilted plate
  rise = float(opened) * np.sqrt(across)
  edge = height / 2 - 0.7 * across + rise
  inside = np.clip(0.5 + (edge - np.abs(y)) / (2 * rise + 1.0), 0, 1)
  outer = deep * np.sqrt(across) * inside
  core = np.clip(1 - (x / (half - build.cortex)) ** 2, 0, 1)
  inner = (deep - 2 * build.cortex) * np.sqrt(core) * inside
  compact += np.maximum(outer - inner, 0)
  spongy += inner
  tall = max(float(opened), 0.55)
  thick = (0.7 + 0.5 * build.wear) * build.cortex
  chord = min(thick / max(abs(float(np.sin(tilt))), 0.05), 0.3 * deep)
  wide = width / 2 * (1 + 0.05 * build.wear * (1 + jitter))  # worn rims grow sideways
  across = np.clip(1 - (x / wide) ** 2, 0, 1)
  for sign in (-1.0, 1.0):
    rho = np.sqrt((x / wide) ** 2 + ((y - sign * height / 2) / tall) ** 2)
    plate = np.clip((1 - rho) * tall / 0.8 + 0.5, 0, 1) * np.sqrt(across)
    compact += chord * plate
    if tall > 1.5:
      rim = np.exp(-(((rho - 0.94) * max(tall, 2.0)) ** 2)) * (across > 0)
      compact += 2.2 * thick * rim


def _sides(frame: _Frame, name: str, jitter: list[float]) -> None:
  """Transverse processes; those of the chest are short and covered by the ribs' heads."""
  for side, (a, b, c) in ((-1.0, jitter[0:3]), (1.0, jitter[3:6])):
    if name in _TRANSVERSE:
      length = _TRANSVERSE[name] / frame.width * (1 + 0.12 * a)
      drop = -0.2 + 0.09 * b
      knots = [
        (0.36, -0.14),
        (0.5, -0.13),
        (0.5 + 0.55 * length, drop + 0.05),
        (0.5 + length, drop),
      ]
      path = frame.place(spline(np.array(knots) * (side, 1 + 0.2 * c), 6, closed=False))
      root = 7.5 if name == "L5" else 5.4
      stations = np.linspace(0, 1, len(path))
      radius = np.interp(stations, [0, 0.45, 0.85, 0.95, 1], [root, 3.6, 4.8, 3.8, 1.2])
      tube(frame.film, ribbon(path, radius * frame.build.scale), 2.6, 0.8 * frame.build.cortex)
    else:
      _bar(frame, (side * 0.36, -0.1), (side * (0.76 + 0.03 * a), -0.4), 5.0, 5.2, 0.9)


def _back(frame: _Frame, name: str, jitter: list[float]) -> None:
  """Pedicles, laminae, joints and the spinous process."""
  lumbar = name in _TRANSVERSE
  wide = 6.2 if name == "L5" else 4.3 if lumbar else 3.5
  gap = 0.30 if lumbar else 0.24
  for side, (a, b, c) in ((-1.0, jitter[0:3]), (1.0, jitter[3:6])):
    center = (side * (0.345 + 0.008 * a), -0.16 + 0.02 * b)
    _eye(frame, center, wide * (1 + 0.06 * c), 0.26 + 0.015 * a, 5.5 + 0.6 * b)
    _bar(frame, (side * 0.33, 0.0), (side * 0.1, 0.3), 4.6, 5.0, 0.6)
    low = 0.5 if name == "L5" else 0.68
    _bar(frame, (side * 0.33, 0.12), (side * (gap + 0.01 * b), low + 0.03 * c), 4.2, 5.0, 0.9)
    _bar(frame, (side * 0.35, -0.15), (side * (gap + 0.1), -0.6 + 0.03 * a), 4.2, 5.0, 0.8)
  length = (0.72 if lumbar else 0.95) + 0.04 * jitter[6]
  lean = 0.015 * jitter[7]
  _bar(frame, (0.0, 0.18), (lean, length), 2.3 + 0.2 * jitter[8], 4.4, 1.5)


def _bar(
  frame: _Frame,
  root: tuple[float, float],
  tip: tuple[float, float],
  thick_root: float,
  thick_tip: float,
  flat: float,
) -> None:
  """A tapered hollow bar: ends in units of the body, radii in mm; `flat` scales its chord."""
  low = (min(root[0], tip[0]), min(root[1], tip[1]))
  high = (max(root[0], tip[0]), max(root[1], tip[1]))
  compact, spongy, x, y = frame.patch(low, high, 1.5 * max(thick_root, thick_tip))
  ax, ay = root[0] * frame.width, root[1] * frame.height
  dx, dy = tip[0] * frame.width - ax, tip[1] * frame.height - ay
  along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
  off = (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2
  scale = frame.build.scale
  radius = thick_root * scale + along * ((thick_tip - thick_root) * scale)
  wall = np.maximum(radius - 0.9 * frame.build.cortex, 0)
  outer = np.sqrt(np.maximum(radius * radius - off, 0))
  inner = np.sqrt(np.maximum(wall * wall - off, 0))
  compact += 2 * flat * (outer - inner)
  spongy += 2 * flat * inner


def _eye(
  frame: _Frame, center: tuple[float, float], wide: float, tall: float, length: float
) -> None:
  """A pedicle, a tube of bone along the rays: an oval line, stronger on its inner side."""
  radii = (wide * frame.build.scale, tall * frame.height)
  compact, spongy, x, y = frame.patch(center, center, 2.0 * max(radii))
  u, v = (x - center[0] * frame.width) / radii[0], (y - center[1] * frame.height) / radii[1]
  rho = np.sqrt(u * u + v * v)
  gap = (rho - 1) * min(radii)
  inner = 1 - 0.3 * np.sign(center[0]) * np.clip(u, -1, 1)
  compact += length * inner * np.exp(-((gap / (0.85 * frame.build.cortex)) ** 2))
  spongy += 0.6 * length * np.clip(0.5 - gap, 0, 1)


def ribs(film: Film, build: Build, rng: np.random.Generator, cage: float) -> None:
  """Pairs 12 .. 8 sloping down to the flank; `cage` is half the chest's width in mm."""
  slope, droop = rng.normal(0, 4), rng.normal(0, 6)
  twelfth = rng.uniform(0.35, 1.0)
  # y at the spine, then (x as a share of the cage, drop in mm) along the rib
  rows = (
    (-158, [(0.16, 0), (0.3, 3), (0.45, 17), (0.6, 37), (0.7, 55)]),
    (-190, [(0.15, 0), (0.32, -2), (0.56, 14), (0.78, 43), (0.92, 78), (0.95, 102)]),
    (-219, [(0.14, 0), (0.34, -6), (0.62, 8), (0.87, 40), (0.99, 85), (0.96, 125)]),
    (-246, [(0.13, 0), (0.34, -8), (0.65, 4), (0.9, 36), (1.01, 82), (0.99, 124), (0.9, 158)]),
    (-272, [(0.13, 0), (0.34, -9), (0.66, 2), (0.9, 33), (1.02, 80), (1.0, 124), (0.9, 160)]),
  )
  for index, (start, shape) in enumerate(rows):
    for side in (-1.0, 1.0):
      points = np.array(shape, float)
      if index == 0:
        points = points[: 3 + round(2 * twelfth)]
      points[:, 1] += (slope + 0.12 * droop * np.arange(len(points))) * points[:, 0] ** 1.5
      points = points + rng.normal(0, (0.008, 1.5), points.shape)
      y = (start + points[:, 1]) * build.scale
      path = np.stack([side * points[:, 0] * cage + build.midline(y), y], axis=1)
      path = spline(path, steps=10, closed=False)
      stations = np.linspace(0, 1, len(path))
      radius = np.interp(stations, [0, 0.12, 0.5, 0.93, 1], [4.0, 5.0, 6.4, 6.0, 2.5])
      tube(film, ribbon(path, radius * build.scale), 4.5, 0.95 * build.cortex)
