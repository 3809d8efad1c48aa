"""KUB radiographs: rays through a patient, scatter, detector noise, and display.

The line integral of attenuation is the sum of soft tissue, bone and gas; a stone adds its own.
"""

import dataclasses

import numpy as np

from hiresmed_jax.data.anatomy import abdomen, bowel
from hiresmed_jax.data.anatomy.bones import Build, Film, pelvis
from hiresmed_jax.data.anatomy.shapes import Grid, blur, cover, fractal, resize
from hiresmed_jax.data.anatomy.spine import ribs, spine

COMPACT, SPONGY = 0.038, 0.0058  # what bone attenuates beyond soft tissue, per mm
_DETECTOR_MM = 0.32  # sigma of the blur by focal spot and screen
FIELD_MM = 290.0  # the width that is always in the image; narrow films show black below and above


@dataclasses.dataclass(frozen=True, eq=False)
class Radiograph:
  """A lesion-free radiograph and what is known of it.

  Attributes:
    signal: f32[H, W], the display, in units of line integral, with noise.
    direct: f32[H, W], share of the direct rays in the reading; a stone attenuates these alone.
    forbidden: bool[H, W], bone, and everything outside the body or the exposed field.
    host: bool[H, W], hollow parts of the kidneys, ureters, bladder.
    spacing: mm per pixel.
    blur_px: sigma of the detector's blur in pixels.
    window: (low, high) of `signal` for display.
  """

  signal: np.ndarray
  direct: np.ndarray
  forbidden: np.ndarray
  host: np.ndarray
  spacing: float
  blur_px: float
  window: tuple[float, float]


def render(
  rng: np.random.Generator, noise: np.random.Generator, size: tuple[int, int]
) -> Radiograph:
  """A patient drawn from `rng` on a film of `size` (rows, columns), with `noise` of its own."""
  height, width = size
  build = Build.random(rng)
  habitus = abdomen.Habitus.random(rng, build)
  spacing = max(rng.uniform(365, 445) / height, FIELD_MM / width)
  center = (float(rng.normal(0, 5)), float(rng.normal(-24, 8)))
  grid = Grid(height, width, spacing, center, float(rng.normal(0, 0.02)))
  fine = grid.refined(int(np.clip(round(768 / max(size)), 1, 4)))
  urinary = abdomen.Urinary.random(rng, build)

  film = Film.empty(fine)
  spine(film, build, rng)
  ribs(film, build, rng, habitus.cage)
  pelvis(film, build, rng)
  soft, inside = _soft(fine, build, habitus, urinary, rng)
  grain = fractal(rng, fine, 2.0, 2, 0.9) + 0.6 * fractal(rng, fine, 12.0, 2)
  grain *= 0.11
  grain += 1
  bone = COMPACT * film.compact
  bone += SPONGY * film.spongy * grain
  soft += bone
  integral = np.maximum(soft, 0, out=soft)
  integral *= inside
  integral = blur(integral, _DETECTOR_MM / fine.spacing)

  exposed = _collimator(grid, rng)
  integral, inside = resize(integral, grid.shape), resize(inside, grid.shape)
  bony = resize(film.compact * 3 + film.spongy, grid.shape) > 3.0
  forbidden = bony | (inside < 0.999) | (exposed < 0.999)
  signal, direct, window = _expose(grid, integral, exposed, inside > 0.5, rng, noise)
  host = _host(fine, urinary, grid)
  return Radiograph(signal, direct, forbidden, host, spacing, _blur_px(spacing), window)


def _blur_px(spacing: float) -> float:
  """Sigma of the detector's blur in pixels, at least that of averaging over a pixel."""
  return max(_DETECTOR_MM / spacing, 0.45)


def _soft(
  fine: Grid,
  build: Build,
  habitus: abdomen.Habitus,
  urinary: abdomen.Urinary,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  coarse = fine.coarsened(0.9)
  soft, inside = abdomen.body(fine.coarsened(1.3), habitus)
  soft = resize(soft, coarse.shape)
  soft += abdomen.organs(coarse, build, habitus, urinary, rng)
  soft += abdomen.lungs(coarse, habitus, rng)
  soft -= abdomen.WATER * 0.9 * bowel.gas(coarse, habitus, build, rng)
  return resize(soft, fine.shape), np.clip(resize(inside, fine.shape), 0, 1)


def _host(fine: Grid, urinary: abdomen.Urinary, grid: Grid) -> np.ndarray:
  host = np.zeros(fine.shape, np.float32)
  center = urinary.bladder.mean(0)
  for outline in (*urinary.hollows, *urinary.ureters, center + 0.75 * (urinary.bladder - center)):
    window, share = cover(fine, outline)
    np.maximum(host[window], share, out=host[window])
  return resize(host, grid.shape) > 0.5


def _collimator(grid: Grid, rng: np.random.Generator) -> np.ndarray:
  """1 in the exposed field, 0 under the blades; some films show one or more of their edges."""
  tall, wide = grid.height * grid.spacing, grid.width * grid.spacing
  edges = rng.uniform(-40, 14, 4)
  turn = rng.normal(0, 0.006)
  coarse = grid.coarsened(4.0)  # distances are linear: little is lost between coarse pixels
  field = (slice(0, coarse.height), slice(0, coarse.width))
  x, y = coarse.local(field, grid.center, float(turn - grid.angle))
  half = min(tall / 2, 235.0)
  inset = np.minimum(
    np.minimum(wide / 2 - float(edges[0]) - x, wide / 2 - float(edges[1]) + x),
    np.minimum(half - float(edges[2]) - y, half - float(edges[3]) + y),
  )
  inset = resize(0.5 + inset / 1.2, grid.shape)
  return np.clip(inset, 0, 1, out=inset)


def _expose(
  grid: Grid,
  integral: np.ndarray,
  exposed: np.ndarray,
  inside: np.ndarray,
  rng: np.random.Generator,
  noise: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
  """Counts direct and scattered photons; the display is the logarithm of the count.

  Returns `signal`, `direct` and `window` of `Radiograph`; `integral` is overwritten.
  """
  straight = np.exp(np.negative(integral, out=integral), out=integral)
  coarse = grid.coarsened(4.0)  # for what changes slowly
  scatter = blur(resize(straight, coarse.shape), 28 / coarse.spacing)
  scatter *= float(rng.uniform(0.35, 0.75))
  # Much passes skin and air; the anti-scatter grid limits its scatter.
  most = float(rng.uniform(0.5, 0.8)) * float(np.exp(-3.2))
  count = resize(scatter * most / (scatter + most), grid.shape)
  count += straight
  quanta = float(np.exp(rng.uniform(np.log(2.5e5), np.log(1.6e6)))) * grid.spacing**2 / 0.18
  signal = np.log(count)
  np.negative(signal, out=signal)
  # Dynamic range compression, as in digital units: slow changes are reduced.
  slow = resize(blur(resize(signal, coarse.shape), 45 / coarse.spacing), grid.shape)
  keep, detail = float(rng.uniform(0.4, 0.6)), float(rng.uniform(0.2, 0.6))
  shown = (1 + detail) * signal
  shown -= np.multiply(slow, 1 - keep, out=slow)
  shown -= detail * blur(signal, 1.6 / grid.spacing)
  grains = noise.standard_normal(grid.shape, dtype=np.float32)
  grains += 0.6 * blur(grains, 0.8)
  grains /= np.sqrt(quanta * count)
  shown += grains
  body = shown[::4, ::4][(inside & (exposed > 0.99))[::4, ::4]]
  low, high = np.percentile(body, [6, 99.6]) if body.size else (0.0, 1.0)
  span = float(high - low)
  dark, bright = float(rng.uniform(0.02, 0.2)), float(rng.uniform(-0.04, 0.08))
  window = (float(low) - dark * span, float(high) + bright * span)
  # Under the blades the film is black.
  shown -= window[0] - 0.2 * span
  shown *= exposed
  shown += window[0] - 0.2 * span
  straight /= count
  straight *= exposed
  return shown, straight, window
