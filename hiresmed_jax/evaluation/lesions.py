"""Single lesions: how visible they are, and how much contrast a reconstruction keeps of them.

L lesions, h x w pixels of the window around each, C channels. Intensities in [0, 1].
"""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hiresmed_jax.evaluation.pictures import Picture
from hiresmed_jax.metrics import ssim
from hiresmed_jax.metrics.image import contrast_kept
from hiresmed_jax.types import Array

MARGIN = 4.0  # pixels of the ring of background around a box
WINDOW = 64  # pixels a side at least, for LPIPS
BINS = (0.0, 5.0, 8.0, 12.0, np.inf)  # diameter, pixels


class Retention(NamedTuple):
  """Share of the contrast kept, of the lesions of a bin of diameters."""

  diameter_px: str
  lesions: int
  median: float
  low: float  # quartiles
  high: float


def windows(picture: Picture) -> list[dict[str, np.ndarray]]:
  """A window around each lesion of a picture, at least 64 px wide where the picture is.

  Returns:
    For each lesion image and reference f32[h, w, C], mask bool[h, w], box f32[4] in the window.
    Without a reference the image takes its place. Without a mask a lesion is the part of its box
    above half of its contrast in the reference. Boxes without a pixel, or without contrast, are
    left out.
  """
  image = picture.image
  reference = image if picture.reference is None else picture.reference
  known = picture.lesion_mask.shape == image.shape[:2]
  found = []
  for number, box in enumerate(picture.boxes, 1):
    rows, columns = (_span(box[i], box[i + 2], image.shape[axis]) for axis, i in enumerate((1, 0)))
    crop = reference[rows, columns]
    inner = box - np.array([columns.start, rows.start] * 2, np.float32)
    if min(crop.shape[:2]) < 1:
      continue
    mask = picture.lesion_mask[rows, columns] == number if known else core(crop, inner)
    if mask.any():
      found.append({"image": image[rows, columns], "reference": crop, "mask": mask, "box": inner})
  return found


def core(window: np.ndarray, box: np.ndarray) -> np.ndarray:
  """bool[h, w]: the pixels in a box of f32[h, w, C] above half of its highest contrast."""
  grey = window.mean(axis=-1)
  inside, ring = _box(box, grey.shape), _box(box + MARGIN * np.array([-1, -1, 1, 1]), grey.shape)
  ring &= ~inside
  if not (inside.any() and ring.any()):
    return np.zeros(grey.shape, bool)
  level = (grey[inside].max() + grey[ring].mean()) / 2.0
  return np.asarray(inside & (grey > level))


def fidelity(images: Array, references: Array, masks: Array, boxes: Array) -> dict[str, Array]:
  """Numbers of each lesion, on the device.

  Args:
    images: f32[L, h, w, C].
    references: the same of the real images.
    masks: bool[L, h, w].
    boxes: f32[L, 4] xyxy pixels.

  Returns:
    f32[L] each: kept (share of the contrast, see `metrics.image.contrast_kept`), diameter_px, ssim
    (inside the mask), cnr and cnr_reference (see `cnr`).
  """
  grey, real = images.mean(axis=-1), references.mean(axis=-1)
  kept, diameter = contrast_kept(real, grey, boxes[:, None], margin=MARGIN)
  area = jnp.sum(masks, axis=(1, 2))
  found = {
    "kept": kept[:, 0],
    "diameter_px": jnp.where(
      jnp.isnan(diameter[:, 0]), 2 * jnp.sqrt(area / jnp.pi), diameter[:, 0]
    ),
    "cnr": cnr(grey, masks, boxes),
    "cnr_reference": cnr(real, masks, boxes),
  }
  if min(images.shape[1:3]) >= ssim.WINDOW:
    found["ssim"] = ssim.ssim(images, references, data_range=1.0, where=masks)
  return found


def cnr(grey: Array, masks: Array, boxes: Array) -> Array:
  """Contrast-to-noise ratio f32[L]: (mean in the mask - mean of the ring) / SD of the ring.

  The ring lies within 4 px of the box and outside the mask; NaN where it is constant.
  """
  height, width = grey.shape[1:]
  rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
  wide = boxes + MARGIN * jnp.array([-1.0, -1.0, 1.0, 1.0])

  def within(b: Array) -> Array:
    x1, y1, x2, y2 = (b[:, i, None] for i in range(4))
    across, down = (columns >= x1) & (columns < x2), (rows >= y1) & (rows < y2)
    return down[:, :, None] & across[:, None, :]

  ring = within(wide) & ~within(boxes) & ~masks
  mean = jnp.mean(grey, axis=(1, 2), where=ring)
  sd = jnp.std(grey, axis=(1, 2), where=ring)
  contrast = jnp.mean(grey, axis=(1, 2), where=masks) - mean
  return jnp.where(sd > 0, contrast / jnp.where(sd > 0, sd, 1.0), jnp.nan)


def retention(kept: np.ndarray, diameter_px: np.ndarray) -> list[Retention]:
  """Median and quartiles of the contrast kept, by diameter at half maximum; empty bins left out."""
  found = []
  for low, high in itertools.pairwise(BINS):
    chosen = kept[(diameter_px >= low) & (diameter_px < high) & np.isfinite(kept)]
    if len(chosen):
      name = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"
      quartiles = np.percentile(chosen, [50, 25, 75])
      found.append(Retention(name, len(chosen), *(float(q) for q in quartiles)))
  return found


def _span(low: float, high: float, length: int) -> slice:
  """A window around a box on one axis: a power of two wide, where the image is large enough."""
  need = float(high - low) + 2 * (MARGIN + ssim.RADIUS + 1)
  side = WINDOW
  while side < need:
    side *= 2
  side = min(side, length)
  start = int(np.clip(round((low + high - side) / 2), 0, length - side))
  return slice(start, start + side)


def _box(box: np.ndarray, shape: Any) -> np.ndarray:
  rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
  across, down = (columns >= box[0]) & (columns < box[2]), (rows >= box[1]) & (rows < box[3])
  return np.asarray(down[:, None] & across[None, :])
