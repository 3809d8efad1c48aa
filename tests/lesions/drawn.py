"""Lesions with known outlines, for the tests of this room."""

import jax
import numpy as np
from scipy import ndimage

from hiresmed_jax.lesions.bank import Group, member_of, training_image
from hiresmed_jax.lesions.patch import LesionPatch, diameter
from hiresmed_jax.lesions.sampling import Generators
from hiresmed_jax.ops import pyramid as pyramids

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


def bank_group(patches: list[LesionPatch]) -> Group:
  """SinGANs with weights such that the fixed noise gives each patch's occupancy back.

  The coarsest generator hands its noise through to values and soft mask, the others add nothing.
  """
  side, channels = patches[0].alpha.shape[0], patches[0].values.shape[-1] + 1
  coarse = 3 * side // 4  # two levels: each costs time to compile
  pyramid = pyramids.Pyramid(((coarse, coarse), (side, side)), 0.75, 1.0)
  width = 4
  levels = []
  for level in range(len(pyramid.sizes)):
    shapes = [(3, 3, channels, width), *[(3, 3, width, width)] * 3, (3, 3, width, channels)]
    body = {}
    for index, shape in enumerate(shapes):
      kernel = np.zeros(shape, np.float32)
      bias = np.zeros(shape[-1], np.float32)
      if level == 0:  # one channel through the middle tap, lifted over the bend of the activation
        kernel[1, 1, 0, :] = 1
        bias[:] = 50.0 if index == 0 else -50.0 if index == 4 else 0.0
      body[f"kernel{index}"], body[f"bias{index}"] = kernel, bias
      if index < 4:
        body[f"norm{index}"] = {
          "scale": np.full(width, np.sqrt(1 + 1e-5), np.float32),
          "shift": np.zeros(width, np.float32),
        }
    norm = {"mean": np.zeros(width, np.float32), "var": np.ones(width, np.float32)}
    levels.append(
      {"params": {"body": body}, "batch_stats": {"body": {f"norm{i}": norm for i in range(4)}}}
    )
  count = len(patches)
  stacked = jax.tree.map(lambda a: np.stack([a] * count), tuple(levels))
  images = np.stack([training_image(p)[..., -1:] for p in patches])
  coarse = np.asarray(pyramids.levels(images, pyramid)[0])
  fixed = np.arctanh(np.clip(coarse, -0.98, 0.98)).astype(np.float32)
  amplitudes = np.ones((count, len(levels)), np.float32)
  return Group(
    tuple(member_of(p) for p in patches), Generators(stacked, amplitudes, fixed), pyramid
  )
