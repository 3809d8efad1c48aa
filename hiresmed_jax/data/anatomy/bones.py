"""Bones in the beam: how much compact and spongy bone each ray crosses, and one patient's build.

Patient axes: origin in the midline at the height of the iliac crests, x to the right of the image
(the patient's left), y towards the feet. Sizes are those of an adult on the detector.
"""

import dataclasses

import numpy as np

from hiresmed_jax.data.anatomy.shapes import Grid, depth, round_chord, spline


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
  """What bones have been put in the beam so far: mm of compact and spongy bone, f32[H, W]."""

  grid: Grid
  compact: np.ndarray
  spongy: np.ndarray

  @classmethod
  def empty(cls, grid: Grid) -> "Film":
    """Nothing in the beam."""
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
  drawn = depth(film.grid, outline, *holes)
  if drawn is None:
    return
  window, distance = drawn
  outer = round_chord(distance, radius)
  inner = round_chord(np.maximum(distance - cortex, 0), radius - cortex)
  film.compact[window] += outer - inner
  film.spongy[window] += inner


def cushion(film: Film, outline: np.ndarray, thick: float, cortex: float) -> None:
  """More spongy bone, fading to the edge of the outline."""
  drawn = depth(film.grid, outline)
  if drawn is not None:
    window, distance = drawn
    swell = distance / max(float(distance.max()), 1e-3)
    swell = swell * swell * (3 - 2 * swell)
    film.spongy[window] += thick * swell
    film.compact[window] += 1.2 * cortex * swell


def ridge(film: Film, thick: float, *outlines: np.ndarray) -> None:
  """A wall of compact bone seen on edge: `thick` mm in its middle, fading to both sides."""
  drawn = depth(film.grid, *outlines)
  if drawn is not None:
    window, distance = drawn
    film.compact[window] += thick * np.minimum(distance / 2.2, 1.0)
