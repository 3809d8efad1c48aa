"""Lesions with known outlines, for the tests of this room."""

import numpy as np
from scipy import ndimage

from hiresmed_jax.lesions.patch import LesionPatch, diameter

FINER = 8


def disc(side: int, diameter_px: float, center: tuple[float, float], blur: float) -> np.ndarray:
  """f32[side, side], the share of each pixel in a disc at (x, y), blurred."""
  at = (np.arange(side * FINER) + 0.5) / FINER
  inside = np.hypot(at[None] - center[0], at[:, None] - center[1]) < diameter_px / 2
  share = inside.reshape(side, FINER, side, FINER).mean((1, 3)).astype(np.float32)
  return ndimage.gaussian_filter(share, blur, mode="constant")


def patch(
  diameter_px: float = 8.0,
  *,
  side: int = 32,
  physics: str = "ct",
  blur: float = 0.8,
  contrast: float = 100.0,
  seed: int = 0,
) -> LesionPatch:
  """A disc of one contrast on noise, its occupancy known."""
  alpha = disc(side, diameter_px, (side / 2, side / 2), blur)
  surround = np.random.default_rng(seed).normal(40, 2, (side, side, 1)).astype(np.float32)
  return LesionPatch(
    values=surround + np.float32(contrast) * alpha[..., None],
    surround=surround,
    alpha=alpha,
    diameter_px=diameter(alpha >= 0.5),
    spacing_mm=(0.7, 0.7),
    physics=physics,
    donor=f"donor{seed}",
    donor_group=f"group{seed}",
    kind="copy",
    value_range=(0.0, 255.0),
  )


def tolerance(wanted: float) -> float:
  """How far a diameter may be off: 5 %, or half a pixel below 10 px."""
  return 0.5 if wanted < 10 else 0.05 * wanted
