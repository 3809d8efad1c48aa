"""How well one mask covers another: Dice, IoU on the device; Hausdorff distances on the host.

N images of H x W pixels. Empty masks are defined: two of them agree (Dice and IoU 1, distance 0),
one alone is as wrong as can be (Dice and IoU 0, distance infinite).

Source: Dice 1945; Jaccard 1912; Huttenlocher et al. 1993 (Hausdorff distance).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from hiresmed_jax.types import Array

_CROSS = ndimage.generate_binary_structure(2, 1)


class Overlap(NamedTuple):
  """Pixels, f32[...] each."""

  both: Array
  found: Array
  real: Array


def overlap(found: Array, real: Array, valid: Array) -> Overlap:
  """Counts the valid pixels of bool[..., H, W] masks, image by image."""
  kept = (found & valid, real & valid)
  both = kept[0] & kept[1]
  return Overlap(*(jnp.sum(x.astype(jnp.float32), (-2, -1)) for x in (both, *kept)))


def dice(counts: Overlap) -> Array:
  """Twice the common part over the sum of both, f32[...] in [0, 1]; 1 where both are empty."""
  return _share(2.0 * counts.both, counts.found + counts.real)


def iou(counts: Overlap) -> Array:
  """The common part over the union, f32[...] in [0, 1]; 1 where both are empty."""
  return _share(counts.both, counts.found + counts.real - counts.both)


def count(found: Array, real: Array, valid: Array, weight: Array) -> dict[str, Array]:
  """Totals of a batch, which add up over batches.

  `found`, `real` and `valid` are bool[N, H, W]; an image without a valid pixel does not count, nor
  does one of f32[N] `weight` 0.

  Returns:
    f32[] each: images, dice and iou (sums over images), both, found, real (pixels).
  """
  weight = weight * jnp.any(valid, (1, 2))
  counts = overlap(found, real, valid)
  sums = {"dice": dice(counts), "iou": iou(counts)} | counts._asdict()
  return {"images": jnp.sum(weight)} | {k: jnp.sum(v * weight) for k, v in sums.items()}


def summarise(totals: Mapping[str, Any]) -> dict[str, float]:
  """Dice and IoU as means over images, and the Dice of all pixels together."""
  images = max(float(totals["images"]), 1.0)
  pixels = float(totals["found"] + totals["real"])
  return {
    "dice": float(totals["dice"]) / images,
    "iou": float(totals["iou"]) / images,
    "dice_of_all": 2.0 * float(totals["both"]) / pixels if pixels else 1.0,
  }


def hausdorff(
  found: np.ndarray,
  real: np.ndarray,
  *,
  valid: np.ndarray | None = None,
  spacing: tuple[float, float] = (1.0, 1.0),
  percentile: float = 100.0,
) -> float:
  """Distance between the edges of two masks; on the host.

  Of each mask's edge pixels the distance to the other's nearest one, its percentile, and the
  greater of the two. An edge pixel is one of the mask with a neighbour (of four) outside the mask;
  the frame of the image is no edge, for a mask that meets it goes on beyond.

  Args:
    found: bool[H, W].
    real: bool[H, W].
    valid: bool[H, W], edge pixels elsewhere do not count; None: all do.
    spacing: (row, column) distance of pixel centres; in mm gives mm, (1, 1) pixels.
    percentile: 100 is the Hausdorff distance itself, 95 leaves out strays ("HD95").

  Returns:
    >= 0; 0 where both masks are empty or neither has an edge; infinite where one alone is or has.

  Raises:
    ValueError: masks of two sizes, a spacing that is not positive.
  """
  if found.shape != real.shape or not min(spacing) > 0:
    raise ValueError(f"masks of {found.shape} and {real.shape}, spacing {spacing}")
  masks = [mask.astype(bool) & (True if valid is None else valid) for mask in (found, real)]
  edges = [_edge(mask.astype(bool), valid) for mask in (found, real)]
  for one, other in (masks, edges):
    if one.any() != other.any():
      return np.inf
  if not edges[0].any():
    return 0.0
  ways = []
  for one, other in (edges, edges[::-1]):
    distance = ndimage.distance_transform_edt(~other, sampling=spacing)
    ways.append(np.percentile(distance[one], percentile))
  return float(max(ways))


def _edge(mask: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
  edge = mask & ~ndimage.binary_erosion(mask, _CROSS, border_value=1)
  return edge if valid is None else edge & valid


def _share(part: Array, whole: Array) -> Array:
  return jnp.where(whole > 0, part / jnp.maximum(whole, 1.0), 1.0)
