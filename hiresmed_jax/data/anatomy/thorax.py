"""The chest wall of an axial slice in Hounsfield units.

Axes: x to the right of the image (the patient's left), y towards the back, mm; the origin is in the
midline, between the lungs. `level` runs from 0 at the lungs' tips to 1 at the diaphragm.
"""

import dataclasses

import numpy as np

from hiresmed_jax.data.anatomy.shapes import Grid, blob, blur, cover, ribbon, spline

AIR, FAT, MUSCLE, COMPACT, SPONGY = -1000.0, -100.0, 50.0, 900.0, 230.0
LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
  """A slice that is being drawn: f32[H, W] in HU over a grid."""

  hu: np.ndarray
  grid: Grid

  def paint(self, value: float, *outlines: np.ndarray, soft: float = 0.0) -> None:
    """Sets the inside of the outlines (mm, even-odd) to `value`, edges blurred by `soft` mm."""
    window, share = cover(self.grid, *outlines)
    if soft > 0:
      share = blur(share, soft / self.grid.spacing)
    self.hu[window] += share * (value - self.hu[window])


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
    deep = float(rng.uniform(0.92, 1.22))
    fat = float(rng.gamma(4.0, 3.2))
    muscle = float(rng.uniform(0.75, 1.25))
    base = 14.0 * muscle
    return cls(
      level=level,
      wide=size * float(np.interp(level, LEVELS, [86, 117, 130, 136, 139])),
      front=size * deep * float(np.interp(level, LEVELS, [-50, -70, -79, -84, -86])),
      back=size * float(np.interp(level, LEVELS, [68, 80, 85, 86, 85])),
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


def wall(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
  """Table, skin, fat, and the muscles around the rib cage."""
  skin = _skin(chest, rng)
  _table(canvas, float(skin[:, 1].max()), rng)
  canvas.paint(20.0, skin)
  inner = skin - 1.8 * _outward(skin)
  canvas.paint(FAT, inner)
  if chest.female and 0.25 < chest.level < 0.95:
    for side in (-1.0, 1.0):
      _breast(canvas, chest, skin, side, rng)
  angle = np.linspace(0, 2 * np.pi, 144, endpoint=False)
  thick = 10.5 + 2 * np.cos(2 * angle)
  canvas.paint(MUSCLE, chest.cage(angle, thick), soft=0.5)
  for side in (-1.0, 1.0):
    _muscles(canvas, chest, side, rng)


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


def _table(canvas: Canvas, below: float, rng: np.random.Generator) -> None:
  """Mattress and couch under the patient."""
  x = np.linspace(-260, 260, 80)
  bend = rng.uniform(0.0004, 0.0010)
  for gap, thick, value in ((2.0, 1.2, -650.0), (rng.uniform(12, 30), 1.5, rng.uniform(-350, 250))):
    y = below + gap - bend * x**2 * (1 if gap > 3 else 0.5)
    half = 230 if gap > 3 else 150
    keep = np.abs(x) < half
    canvas.paint(
      value, ribbon(np.stack([x, y], 1)[keep], np.full(int(keep.sum()), thick)), soft=0.6
    )


def _breast(
  canvas: Canvas,
  chest: Chest,
  skin: np.ndarray,
  side: float,
  rng: np.random.Generator,
) -> None:
  """Strands of glandular tissue in the fat."""
  for _ in range(rng.integers(3, 9)):
    x = side * rng.normal(0.62 * chest.wide, 16)
    ahead = skin[skin[:, 1] < 0.5 * chest.front]
    ahead = ahead[np.argsort(ahead[:, 0])]
    points = x + np.cumsum(rng.normal(0, 4, 4))
    surface = np.interp(points, *ahead.T) + 5
    sunk = np.clip(rng.uniform(0.1, 0.9) + np.cumsum(rng.normal(0, 0.2, 4)), 0, 1)
    points = np.stack([points, surface + sunk * np.maximum(chest.front - 15 - surface, 0)], axis=1)
    path = spline(points, 6, closed=False)
    canvas.paint(rng.uniform(-60, 20), ribbon(path, rng.uniform(0.5, 2.2, len(path))), soft=0.8)


def _muscles(canvas: Canvas, chest: Chest, side: float, rng: np.random.Generator) -> None:
  bulk, level = chest.muscle, chest.level

  def layer(start: float, stop: float, out: float, thick: float) -> None:
    angle = side * np.linspace(start, stop, 30)
    path = chest.cage(angle, out)
    taper = np.sin(np.linspace(0.1, np.pi - 0.1, 30)) ** 0.6
    canvas.paint(MUSCLE + rng.normal(0, 4), ribbon(path, thick * bulk * taper), soft=0.6)

  if level < 0.8:  # the chest's great muscles in front, fading downwards
    share = float(np.clip((0.8 - level) / 0.4, 0.15, 1))
    layer(0.2, 1.25, 16 + 3 * share, 6.5 * share)
    if level < 0.45:
      layer(0.75, 1.3, 29, 4.0)
  layer(1.2, 2.0, 16, 4.0)
  layer(1.5, 2.45, 22, 5.5 * float(np.clip(1.25 - level, 0.35, 1)))
  layer(2.3, 3.0, 22 + 6 * (level < 0.6), 4.5)
  spine = (side * 27.0, chest.back + 12)
  canvas.paint(MUSCLE + 5, blob(rng, spine, (23 * bulk, 15 * bulk), 0.08), soft=0.7)
