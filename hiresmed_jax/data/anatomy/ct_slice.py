"""Axial chest CT slices in Hounsfield units: anatomy, the scanner's blur and its noise."""

import dataclasses

import cv2
import numpy as np

from hiresmed_jax.data.anatomy import chest as organs
from hiresmed_jax.data.anatomy import lungs, thorax
from hiresmed_jax.data.anatomy.shapes import Grid, blur, cover, fractal, resize

FIELD_MM = (250.0, 330.0)  # height and width that are always covered


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
  """A lesion-free slice and what is known of it.

  Attributes:
    clean: f32[H, W] HU without noise.
    noise: f32[H, W] HU.
    forbidden: bool[H, W], all but lung, the lung's edge, and its thick vessels.
    host: bool[H, W], lung.
    spacing: mm per pixel.
    blur_px: sigma of the scanner's blur in pixels.
    field: bool[H, W], inside the circle that is reconstructed.
  """

  clean: np.ndarray
  noise: np.ndarray
  forbidden: np.ndarray
  host: np.ndarray
  spacing: float
  blur_px: float
  field: np.ndarray


def render(rng: np.random.Generator, noise: np.random.Generator, size: tuple[int, int]) -> Slice:
  """A patient drawn from `rng` on a slice of `size` (rows, columns), with `noise` of its own."""
  height, width = size
  chest = thorax.Chest.random(rng)
  body = 2 * (chest.wide + chest.wall[1]) + 12
  across = float(rng.uniform(0.88, 1.1)) * max(body, FIELD_MM[1])
  tall = -chest.front + chest.back + chest.wall[0] + chest.wall[2] + 20
  spacing = max(across / width, max(tall, FIELD_MM[0]) / height)
  middle = (chest.front - chest.wall[0] + chest.back + chest.wall[2]) / 2
  center = (float(rng.normal(0, 4)), middle + float(rng.normal(4, 6)))
  grid = Grid(height, width, spacing, center, float(rng.normal(0, 0.035)))
  fine = grid.refined(int(np.clip(round(768 / max(size)), 1, 4)))

  hu = np.full(fine.shape, thorax.AIR, np.float32)
  canvas = thorax.Canvas(hu, fine)
  thorax.wall(canvas, chest, rng)
  for side in (-1.0, 1.0):
    organs.scapula(canvas, chest, side, rng)
  organs.ribs(canvas, chest, rng)
  hu += 7 * fractal(rng, fine, 9.0, 2) * (hu > -200)
  organs.mediastinum(canvas, chest, rng)
  organs.vertebra(canvas, chest, rng)
  outlines = [lungs.outline(chest, side, rng) for side in (-1.0, 1.0)]
  inside = lungs.fill(canvas, chest, outlines, rng)
  liver = organs.liver(chest, rng)
  if liver is not None:
    canvas.paint(55 + 0.25 * (chest.blood - 42), liver, soft=1.6)
    window, share = cover(fine, liver)
    inside[window] *= 1 - share
  sharp = float(rng.uniform(0.3, 0.6))  # mm
  hu = blur(hu, sharp / fine.spacing)
  clean = resize(hu, grid.shape)
  host = resize(inside, grid.shape) > 0.5
  field = _field(grid, rng)
  return Slice(
    clean,
    _noise(grid, clean, rng, noise),
    _forbidden(host, clean, spacing) | ~field,
    host,
    spacing,
    max(sharp / spacing, 0.45),
    field,
  )


def _forbidden(host: np.ndarray, clean: np.ndarray, spacing: float) -> np.ndarray:
  """All but lung, the lung's outermost 1.5 mm, and its vessels thicker than 3 mm."""
  rim = max(1, round(1.5 / spacing))
  ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
  lung = cv2.erode(host.astype(np.uint8), ball, borderType=cv2.BORDER_CONSTANT, borderValue=0)
  vessels = cv2.morphologyEx((clean > -450).astype(np.uint8), cv2.MORPH_OPEN, ball)
  return (lung == 0) | (vessels > 0)


def _field(grid: Grid, rng: np.random.Generator) -> np.ndarray:
  """The reconstructed circle; on many slices it is wider than the image."""
  x = np.arange(grid.width)[None, :] + 0.5 - grid.width / 2
  y = np.arange(grid.height)[:, None] + 0.5 - grid.height / 2
  radius = max(grid.shape) / 2 * rng.choice((1.0, 1.5))
  return x * x + y * y < radius * radius


def _noise(
  grid: Grid, clean: np.ndarray, rng: np.random.Generator, noise: np.random.Generator
) -> np.ndarray:
  """HU noise with the band-pass grain of filtered back-projection, strongest deep in the body."""
  sigma = float(np.exp(rng.uniform(np.log(9), np.log(42))))
  grain = max(float(rng.uniform(0.35, 0.65)) / grid.spacing, 0.4)  # the kernel, pixels
  white = noise.standard_normal(grid.shape, dtype=np.float32)
  texture = blur(white, grain) - 0.85 * blur(white, 2.2 * grain)
  texture /= float(texture.std()) + 1e-6
  dense = blur(np.clip((clean + 1000) / 1000, 0, 1.3), 32 / grid.spacing)
  local = sigma * (0.35 + 0.85 * dense)
  return texture * local
