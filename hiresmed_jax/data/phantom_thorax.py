"""Chest wall and bones of an axial slice in Hounsfield units.

Axes: x to the right of the image (the patient's left), y towards the back, mm; the origin is in the
midline, between the lungs. `level` runs from 0 at the lungs' tips to 1 at the diaphragm.
"""

import dataclasses

import numpy as np

from hiresmed_jax.data.phantom_shapes import Grid, blob, blur, cover, oval, ribbon, spline

AIR, FAT, MUSCLE, COMPACT, SPONGY = -1000.0, -100.0, 50.0, 900.0, 230.0
_LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@dataclasses.dataclass(frozen=True)
class Chest:
  """One patient's chest at one level.

  Attributes:
    level: 0 .. 1 from the tips of the lungs to the diaphragm.
    wide: half the inner width of the rib cage, mm.
    front: y of its inner wall in front, mm.
    back: y of its inner wall behind, mm.
    wall: (front, side, back) mm from that wall to the skin.
    muscle: thickness of the muscles, about 1.
    female: whether there are breasts.
    blood: HU of blood, raised by contrast medium.
    calcium: HU added to compact bone.
  """

  level: float
  wide: float
  front: float
  back: float
  wall: tuple[float, float, float]
  muscle: float
  female: bool
  blood: float
  calcium: float

  @classmethod
  def random(cls, rng: np.random.Generator) -> "Chest":
    """An adult, cut at any level between the collar bones and the diaphragm."""
    level = float(rng.uniform(0.12, 0.98))
    size = float(rng.uniform(0.9, 1.08))
    deep = float(rng.uniform(0.88, 1.15))
    fat = float(rng.gamma(4.0, 3.2))
    muscle = float(rng.uniform(0.75, 1.25))
    base = 14.0 * muscle
    return cls(
      level=level,
      wide=size * float(np.interp(level, _LEVELS, [86, 117, 130, 136, 139])),
      front=size * deep * float(np.interp(level, _LEVELS, [-50, -70, -79, -84, -86])),
      back=size * float(np.interp(level, _LEVELS, [68, 80, 85, 86, 85])),
      wall=(base + fat + 4, base + 1.1 * fat + 8, base + 0.7 * fat + 18),
      muscle=muscle,
      female=bool(rng.random() < 0.45),
      blood=float(rng.choice((42.0, rng.uniform(120, 300)), p=(0.55, 0.45))),
      calcium=float(rng.uniform(-250, 250)),
    )

  def cage(self, angle: np.ndarray, out: float | np.ndarray = 0.0) -> np.ndarray:
    """Points [N, 2] on the inner wall, `out` mm outwards; angle 0 in front, pi/2 at the left."""
    sin, cos = np.sin(angle), np.cos(angle)
    x = np.sign(sin) * np.abs(sin) ** 0.86 * (self.wide + out)
    reach = np.where(cos > 0, -self.front, self.back) + out
    y = -np.sign(cos) * np.abs(cos) ** 0.86 * reach
    return np.stack([x, y], axis=-1)


def paint(
  hu: np.ndarray, grid: Grid, value: float | np.ndarray, *outlines: np.ndarray, soft: float = 0.0
) -> None:
  """Sets the inside of the outlines (mm, even-odd) to `value`; edges mix, blurred by `soft` mm."""
  drawn = cover(grid, *outlines)
  if drawn is not None:
    window, share = drawn
    if soft > 0:
      share = blur(share, soft / grid.spacing)
    hu[window] += share * (value - hu[window])


def wall(hu: np.ndarray, grid: Grid, chest: Chest, rng: np.random.Generator) -> None:
  """Table, skin, fat, and the muscles around the rib cage."""
  skin = _skin(chest, rng)
  _table(hu, grid, float(skin[:, 1].max()), rng)
  paint(hu, grid, 20.0, skin)
  inner = skin - 1.8 * _outward(skin)
  paint(hu, grid, FAT, inner)
  if chest.female and 0.25 < chest.level < 0.95:
    for side in (-1.0, 1.0):
      _breast(hu, grid, chest, skin, side, rng)
  angle = np.linspace(0, 2 * np.pi, 144, endpoint=False)
  thick = 10.5 + 2 * np.cos(2 * angle)
  paint(hu, grid, MUSCLE, chest.cage(angle, thick), soft=0.5)
  for side in (-1.0, 1.0):
    _muscles(hu, grid, chest, side, rng)


def _skin(chest: Chest, rng: np.random.Generator) -> np.ndarray:
  """Outline of the body: the cage and the wall over it, shoulders at high levels, flat behind."""
  front, side, back = chest.wall
  angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
  sin, cos = np.sin(angle), np.cos(angle)
  high = np.clip((0.5 - chest.level) / 0.35, 0, 1)
  wide = chest.wide + side + 55 * high
  power = np.where(cos > 0, 0.82 + 0.25 * high, 0.74)
  x = np.sign(sin) * np.abs(sin) ** (0.82 + 0.1 * high) * wide
  y = (
    -np.sign(cos) * np.abs(cos) ** power * np.where(cos > 0, front - chest.front, back + chest.back)
  )
  y += 5 * np.exp(-((x / 26) ** 2)) * (cos > 0)  # a groove over the breastbone
  y -= 4 * np.exp(-((x / 16) ** 2)) * (cos < 0)  # and one along the spine
  if chest.female and chest.level > 0.25:
    swell = np.sin(np.clip((chest.level - 0.25) / 0.6, 0, 1) * np.pi) * rng.uniform(10, 32)
    y -= swell * np.exp(-(((np.abs(x) - 0.62 * chest.wide) / 42) ** 2)) * (cos > 0)
  if chest.level < 0.62:  # the shoulder blades and their muscles need room
    blades = chest.cage(angle, 46 + 0.5 * side)
    near = np.exp(-(((np.abs(np.arctan2(blades[:, 0], -blades[:, 1])) - 2.3) / 0.5) ** 2))
    grow = np.maximum(np.hypot(*blades.T) / np.hypot(x, y) - 1, 0) * near + 1
    x, y = x * grow, y * grow
  order = np.arange(2, 6)
  phase = rng.uniform(0, 2 * np.pi, order.size)
  swing = 1 + 0.006 * (np.cos(angle[:, None] * order + phase) * rng.normal(size=4)).sum(1)
  return np.stack([x * swing, y * swing], axis=1)


def _outward(outline: np.ndarray) -> np.ndarray:
  slope = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
  normal = np.stack([slope[:, 1], -slope[:, 0]], axis=1)
  normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
  return normal * np.sign((normal * outline).sum())


def _table(hu: np.ndarray, grid: Grid, below: float, rng: np.random.Generator) -> None:
  """Mattress and couch under the patient."""
  x = np.linspace(-260, 260, 80)
  bend = rng.uniform(0.0004, 0.0010)
  for gap, thick, value in ((2.0, 1.2, -650.0), (rng.uniform(12, 30), 1.5, rng.uniform(-350, 250))):
    y = below + gap - bend * x**2 * (1 if gap > 3 else 0.5)
    half = 230 if gap > 3 else 150
    keep = np.abs(x) < half
    paint(
      hu, grid, value, ribbon(np.stack([x, y], 1)[keep], np.full(int(keep.sum()), thick)), soft=0.6
    )


def _breast(
  hu: np.ndarray,
  grid: Grid,
  chest: Chest,
  skin: np.ndarray,
  side: float,
  rng: np.random.Generator,
) -> None:
  """Strands of glandular tissue in the fat."""
  for _ in range(rng.integers(3, 9)):
    x = side * rng.normal(0.62 * chest.wide, 16)
    ahead = skin[skin[:, 1] < chest.front]
    surface = float(ahead[np.abs(ahead[:, 0] - x).argmin(), 1])
    y = surface + rng.uniform(0.35, 0.75) * (chest.front - 14 - surface)
    points = np.array([(x, y)]) + np.cumsum(rng.normal(0, 3, (4, 2)), axis=0)
    path = spline(points, 6, closed=False)
    paint(hu, grid, rng.uniform(-60, 20), ribbon(path, rng.uniform(0.5, 2.2, len(path))), soft=0.8)


def _muscles(
  hu: np.ndarray, grid: Grid, chest: Chest, side: float, rng: np.random.Generator
) -> None:
  bulk, level = chest.muscle, chest.level

  def layer(start: float, stop: float, out: float, thick: float) -> None:
    angle = side * np.linspace(start, stop, 30)
    path = chest.cage(angle, out)
    taper = np.sin(np.linspace(0.1, np.pi - 0.1, 30)) ** 0.6
    paint(hu, grid, MUSCLE + rng.normal(0, 4), ribbon(path, thick * bulk * taper), soft=0.6)

  if level < 0.8:  # the chest's great muscles in front, fading downwards
    share = float(np.clip((0.8 - level) / 0.4, 0.15, 1))
    layer(0.2, 1.25, 16 + 3 * share, 6.5 * share)
    if level < 0.45:
      layer(0.75, 1.3, 29, 4.0)
  layer(1.2, 2.0, 16, 4.0)
  layer(1.5, 2.45, 22, 5.5 * float(np.clip(1.25 - level, 0.35, 1)))
  layer(2.3, 3.0, 22 + 6 * (level < 0.6), 4.5)
  spine = (side * 27.0, chest.back + 12)
  paint(hu, grid, MUSCLE + 5, blob(rng, spine, (23 * bulk, 15 * bulk), 0.08), soft=0.7)
  if level < 0.62:
    _scapula(hu, grid, chest, side, rng)


def bone(
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
  bone(hu, grid, chest, ribbon(path, radius), core)


def _scapula(
  hu: np.ndarray, grid: Grid, chest: Chest, side: float, rng: np.random.Generator
) -> None:
  """A thin blade between its muscles, with its spine at high levels."""
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
  y0 = chest.back - 38 * size

  def place(points: list[tuple[float, float]]) -> np.ndarray:
    return np.array(points, float) * size + (0, y0)

  paint(hu, grid, MUSCLE, oval((0, y0 + 26 * size), (34 * size, 26 * size)), soft=1.0)
  for side in (-1.0, 1.0):
    if rng.random() < 0.8:  # the joining rib
      start = np.array([(side * 15, 13), (side * 22, 20), (side * 34, 31), (side * 46, 39)]) * size
      path = spline(start + np.array([0, y0]), 6, closed=False)
      _bar(hu, grid, chest, path, np.interp(np.arange(len(path)), [0, 5, 18], [4.5, 3.4, 3.6]), 1.2)
    wing = place([(side * 9, 22), (side * 20, 27), (side * 31, 35)])
    _bar(hu, grid, chest, spline(wing, 6, closed=False), np.linspace(4.6, 4.4, 13) * size, 1.4)
    foot = place([(side * 11, 8), (side * 12, 17), (side * 10, 26)])
    _bar(hu, grid, chest, spline(foot, 6, closed=False), np.full(13, 3.8) * size, 1.5)
    lamina = place([(side * 10, 25), (side * 5, 32), (0, 36)])
    _bar(hu, grid, chest, spline(lamina, 6, closed=False), np.full(13, 3.4) * size, 1.3)
  tip = place([(0, 33), (rng.normal(0, 0.8), 44), (rng.normal(0, 1.5), rng.uniform(50, 60))])
  _bar(hu, grid, chest, spline(tip, 6, closed=False), np.linspace(4.2, 2.4, 13) * size, 1.3)
  body = place([(0, -15), (11, -13), (17, -5), (17.5, 4), (15, 12), (7, 12.5), (0, 11), (-7, 12.5),
                (-15, 12), (-17.5, 4), (-17, -5), (-11, -13)])  # fmt: skip
  body = spline(body, 8)
  center = np.array([0, y0])
  bone(hu, grid, chest, body, center + (body - center) * (1 - 1.4 / (15 * size)))
  vein = [(0, 11), (0, 4), (0, -1)]
  paint(hu, grid, 90.0, ribbon(place(vein), np.array([1.8, 1.3, 0.5])), soft=0.8)
  canal = oval((0, y0 + 20.5 * size), (9.2 * size, 8.2 * size))
  paint(hu, grid, -10.0, canal, soft=0.4)
  paint(hu, grid, 35.0, oval((0, y0 + 20.5 * size), (6.6 * size, 5.8 * size)), soft=0.8)
