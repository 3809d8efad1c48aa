"""Bones of a frontal abdominal radiograph: one patient's build, bone in the beam, the pelvis.

Patient axes: origin in the midline at the height of the iliac crests, x to the right of the image
(the patient's left), y towards the feet. Sizes are those of an adult on the detector.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from hiresmed_jax.data.anatomy.shapes import Grid, blob, depth, oval, ribbon, round_chord, spline


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
  """The bone that each ray crosses: mm of compact and spongy bone, f32[H, W]."""

  grid: Grid
  compact: np.ndarray
  spongy: np.ndarray

  @classmethod
  def empty(cls, grid: Grid) -> "Film":
    """A film without bone."""
    return cls(grid, np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32))


@dataclasses.dataclass(frozen=True)
class Build:
  """How one patient's skeleton differs from the next.

  Attributes:
    scale: of all bones, about 1.
    curve: x of the spine, mm, at heights -260, -130, 0, 60.
    twist: turn of the spine about its axis, mm that the spinous processes are off the midline.
    female: 0 .. 1, wide round pelvis.
    cortex: thickness of compact bone, mm.
    wear: 0 .. 1, of discs and rims.
  """

  scale: float
  curve: tuple[float, float, float, float]
  twist: float
  female: float
  cortex: float
  wear: float

  @classmethod
  def random(cls, rng: np.random.Generator) -> "Build":
    """An adult of any size, some with a bent or turned spine."""
    lean = np.cumsum(rng.normal(0, (0, 2.0, 3.0, 2.0))[::-1])[::-1]
    bend = rng.normal(0, 5) * np.array([0.2, 1.0, 0.3, 0.0])
    top, middle, crest, pelvis = (float(v) for v in lean + bend)
    return cls(
      scale=float(rng.uniform(0.92, 1.06)),
      curve=(top, middle, crest, pelvis),
      twist=float(rng.normal(0, 3)),
      female=float(rng.beta(0.7, 0.7)),
      cortex=float(rng.uniform(0.8, 1.25)),
      wear=float(rng.beta(1.2, 2.5)),
    )

  def midline(self, y: np.ndarray | float) -> np.ndarray:
    """x of the spine's axis at heights y."""
    knots = np.array([[-260.0, self.curve[0]], [-130, self.curve[1]], [0, self.curve[2]]])
    knots = np.concatenate([knots, [[60.0, self.curve[3]], [260.0, 0.0]]])
    path = spline(knots, closed=False)
    return np.interp(y, path[:, 0], path[:, 1])


def tube(film: Film, outline: np.ndarray, radius: float, cortex: float, *holes: np.ndarray) -> None:
  """A hollow body with rounded flanks of `radius` and a wall of `cortex` mm."""
  window, distance = depth(film.grid, outline, *holes)
  outer = round_chord(distance, radius)
  inner = round_chord(np.maximum(distance - cortex, 0), radius - cortex)
  film.compact[window] += outer - inner
  film.spongy[window] += inner


def cushion(film: Film, outline: np.ndarray, thick: float, cortex: float) -> None:
  """More spongy bone, fading to the edge of the outline."""
  window, distance = depth(film.grid, outline)
  swell = distance / float(distance.max(initial=1e-3))
  swell = swell * swell * (3 - 2 * swell)
  film.spongy[window] += thick * swell
  film.compact[window] += 1.2 * cortex * swell


def ridge(film: Film, thick: float, *outlines: np.ndarray) -> None:
  """A wall of compact bone along the rays: `thick` mm in its middle, fading to both sides."""
  window, distance = depth(film.grid, *outlines)
  film.compact[window] += thick * np.minimum(distance / 2.2, 1.0)


Place = Callable[[np.ndarray], np.ndarray]

# The patient's left hip bone: outline, from the sacral joint over crest, socket and ischium.
_HIP = np.array(
  [
    (47, 34), (56, 16), (70, 5), (88, -1), (106, -2), (124, 5), (138, 19), (143, 34), (137, 48),
    (128, 62), (118, 80), (111, 97), (112, 110), (117, 121), (114, 134), (104, 146), (96, 160),
    (91, 178), (84, 198), (74, 212), (60, 214), (47, 203), (36, 189), (20, 177), (7, 170),
    (3.5, 158), (4, 144), (14, 136), (32, 134), (46, 128), (56, 119), (64, 106), (65, 93),
    (58, 82), (48, 75), (42, 62), (42, 48),
  ],
  float,
)  # fmt: skip
_FEMUR = np.array(
  [
    (93, 103.5), (106, 107), (115, 117), (121, 125), (130, 131), (142, 128), (152, 134), (155, 148),
    (151, 164), (148, 190), (146, 230), (145, 290), (116, 290), (117, 235), (117, 205), (110, 193),
    (106, 182), (108, 170), (104, 158), (96, 152.5), (84, 150.5), (73, 142), (69, 128), (74, 113),
    (83, 106),
  ],
  float,
)  # fmt: skip
# Lines of compact bone along the rays: points, half-width and thickness in mm.
_LINES = (
  ([(46, 74), (58, 84), (64.5, 97), (63, 110), (54, 123), (40, 131), (18, 138)], 1.7, 6.0),  # brim
  ([(65, 98), (66, 120), (63, 142), (62, 165), (66, 190)], 1.0, 4.0),  # ischium behind it
  ([(50, 26), (70, 6), (104, -1), (128, 9), (141, 30)], 2.3, 4.0),  # crest
  ([(73, 112), (82, 102), (94, 99), (106, 103), (114, 113)], 1.6, 7.0),  # roof of the socket
  ([(66, 130), (64, 142), (68, 148), (72, 140), (70, 128)], 0.9, 5.0),  # tear drop
  ([(112, 115), (106, 135), (98, 152), (88, 166)], 0.9, 4.0),  # back wall of the socket
  ([(50, 30), (47, 46), (50, 62), (57, 78)], 0.8, 3.5),  # sacral joint
  ([(57, 27), (55, 44), (57, 60), (60, 76)], 0.9, 3.5),
)


def pelvis(film: Film, build: Build, rng: np.random.Generator) -> None:
  """Hip bones with brim, sockets and obturator openings, both femora and the sacrum."""
  wide = build.scale * (0.98 + 0.06 * build.female)
  shift = float(build.midline(60.0)) * 0.5
  turn = float(rng.normal(0, 0.03))  # a turned pelvis: one wing wide, the other narrow
  wobble = rng.normal(0, 1.5, _HIP.shape) * (_HIP[:, 1:] < 60)
  for side in (-1.0, 1.0):
    stretch = np.array([side * wide * (1 + side * turn), build.scale])

    def place(points: np.ndarray, stretch: np.ndarray = stretch) -> np.ndarray:
      return np.asarray(points, float) * stretch + (shift, 0)

    _hip(film, build, place, wobble + rng.normal(0, 0.5, _HIP.shape))
    femur = _FEMUR + rng.normal(0, 1, 2)
    tube(film, place(spline(femur, 8)), 11.0, 1.0 * build.cortex)
    head = np.mean(femur[[0, 19, 21, 22]], axis=0)
    cushion(film, place(oval((head[0] + 1, head[1] + 3), (23, 23))), 16.0, 0.5 * build.cortex)
  _sacrum(film, build, shift, rng)


def _hip(film: Film, build: Build, place: Place, wobble: np.ndarray) -> None:
  inlet = 3.0 * build.female
  outline = _HIP + wobble
  outline[24:32] += (inlet, 0)
  opening = oval((0, 0), (21 - inlet, 15)) @ np.array([[0.88, 0.0], [0.47, 1.0]])
  opening = place(opening + np.array([44 + inlet, 163]))
  tube(film, place(spline(outline, 8)), 6.0, 0.75 * build.cortex, opening)
  # Thick parts: roof of the socket, body of the ischium, pubis, back of the wing at the sacrum.
  for center, radii, thick in (
    ((93, 112), (27, 34), 22.0),
    ((72, 182), (18, 34), 15.0),
    ((30, 146), (28, 14), 9.0),
    ((62, 48), (24, 40), 16.0),
  ):
    cushion(film, place(oval(center, radii)), thick, 0.8 * build.cortex)
  for points, radius, thick in _LINES:
    path = spline(place(np.array(points, float)), 10, closed=False)
    taper = np.sin(np.linspace(0.15, np.pi - 0.15, len(path))) ** 0.5
    ridge(film, thick * build.cortex, ribbon(path, radius * taper + 0.6))


def _sacrum(film: Film, build: Build, shift: float, rng: np.random.Generator) -> None:
  lean, long = rng.normal(0, 0.03), rng.uniform(0.92, 1.08)

  def place(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, float) * (1.0, long)
    x = points[:, 0] + lean * points[:, 1]
    return np.stack([x, points[:, 1]], axis=1) * build.scale + (shift, 0)

  half = [(25, 43), (40, 42), (53, 51), (58, 66), (55, 80), (44, 92), (34, 106), (24, 124)]
  half.append((12, 134))
  outline = np.array(half + [(-x, y) for x, y in half[::-1]], float)
  tube(film, place(spline(outline, 8)), 14.0, 0.5 * build.cortex)
  trunk = np.array([(26, 42), (24, 66), (17, 92), (12, 116), (7, 132)], float)
  trunk = np.concatenate([trunk, (trunk * (-1, 1))[::-1]])
  cushion(film, place(spline(trunk, 8)), 34.0, 1.2 * build.cortex)
  for y, gap, size in ((71, 20, 5.5), (88, 18.5, 5.0), (103, 16, 4.4), (117, 13, 3.8)):
    for side in (-1, 1):
      _opening(film, build, place, rng, (side * gap, y), size)
  for y in (60, 78, 94, 109):
    middle = np.array([(0, y), (0, y + 9)], float) + rng.normal(0, 1.0, (2, 2))
    path = spline(place(middle), 8, closed=False)
    ridge(film, 3 * build.cortex, ribbon(path, np.full(len(path), 2.2)))
  # Upper plate of S1: tilted, an ellipse below the last disc.
  rim = (place(oval((0, 44), (26, 7))), place(oval((0, 44), (23.5, 4.8))))
  ridge(film, 2.5 * build.cortex, *rim)
  for index in range(3):
    piece = blob(rng, (0, 140 + 11 * index), (7 - 1.5 * index, 5.5), 0.1)
    tube(film, place(piece), 4.0, 0.7 * build.cortex)


def _opening(
  film: Film,
  build: Build,
  place: Place,
  rng: np.random.Generator,
  at: tuple[float, float],
  size: float,
) -> None:
  """A sacral foramen: a bright arch over a darker oval."""
  angle = np.linspace(0.1, np.pi - 0.1, 5)
  size = size * rng.uniform(0.85, 1.15)
  arch = np.stack([at[0] + 1.7 * size * np.cos(angle), at[1] + 2 - size * np.sin(angle)], axis=1)
  path = spline(place(arch), 6, closed=False)
  ridge(film, rng.uniform(1.5, 3.5) * build.cortex, ribbon(path, np.full(len(path), 1.1)))
  hole = place(blob(rng, (at[0], at[1] + 2), (1.5 * size, 0.8 * size), 0.15))
  window, distance = depth(film.grid, hole)
  kept = 1 - 0.4 * np.minimum(distance / 3.0, 1)
  film.spongy[window] *= kept
  film.compact[window] *= kept
