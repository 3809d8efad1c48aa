"""Small random changes of a loaded example: a little rotation, size, place, and exposure."""

from typing import Any

import cv2
import numpy as np

from hiresmed_jax.data.fit import keep_inside

Example = dict[str, Any]


def augment(
  example: Example,
  rng: np.random.Generator,
  *,
  degrees: float = 0.0,
  scale: float = 0.0,
  shift: float = 0.0,
  gain: float = 0.0,
  offset: float = 0.0,
  gamma: float = 0.0,
  flip: bool = False,
) -> Example:
  """Draws one random change and applies it in one resampling.

  The image is mirrored at its edges where the change looks past them, so that no black wedges are
  learnt; `valid` is False there. Padding stays -1. A box becomes the box of its turned ellipse,
  which does not grow as the box of turned corners would.

  Args:
    example: what `transforms.load` gives.
    rng: source of the numbers.
    degrees: greatest rotation.
    scale: greatest change of size, as a share: .05 draws from 1/1.05 to 1.05.
    shift: greatest shift, as a share of the side.
    gain: greatest change of contrast, as a share.
    offset: greatest change of brightness, as a share of the full range.
    gamma: greatest change of the exponent, as a share, like `scale`.
    flip: whether left and right may change places.

  Returns:
    A new example of the same shapes; spacing follows the size.
  """
  rows, columns = example["images_m11"].shape[:2]
  # All numbers are drawn whatever is switched on, so that one switch does not change the others.
  turn, size, down, right, contrast, brightness, exponent, coin = rng.uniform(-1, 1, 8)
  angle, zoom = np.deg2rad(degrees * turn), (1.0 + scale) ** size
  mirrored = flip and coin < 0
  cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
  linear = np.array([[cos, sin], [-sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
  centre = np.array([columns / 2, rows / 2])
  moved = centre - linear @ centre + (shift * right * columns, shift * down * rows)
  if gain or offset or gamma:
    tone = (1.0 + gain * contrast, offset * brightness, (1.0 + gamma) ** exponent)
    toned = _exposed(example["images_m11"], *tone)
    if not example["valid"].all():
      toned[~example["valid"]] = -1.0  # before the warp, `valid` is False on padding alone
    example = {**example, "images_m11": toned}
  if not np.allclose(linear, np.eye(2)) or moved.any():
    example = _warped(example, linear, moved)
    example["spacing_mm"] = (example["spacing_mm"] / zoom).astype(np.float32)
  return example


def _exposed(images_m11: np.ndarray, gain: float, offset: float, gamma: float) -> np.ndarray:
  """gain * x ** gamma + offset of x in [0, 1], clipped."""
  # In place: fresh memory for every step costs more than the arithmetic.
  if gamma == 1.0:
    out = images_m11 * np.float32(gain)
    out += np.float32(gain + 2.0 * offset - 1.0)
  else:
    out = images_m11 + np.float32(1.0)
    out *= np.float32(0.5)
    np.power(out, np.float32(gamma), out=out)
    out *= np.float32(2.0 * gain)
    out += np.float32(2.0 * offset - 1.0)
  return np.clip(out, -1.0, 1.0, out=out)


def _warped(example: Example, linear: np.ndarray, moved: np.ndarray) -> Example:
  """Moves everything by x' = linear x + moved, in edge coordinates (pixel i covers [i, i + 1))."""
  images, valid = example["images_m11"], example["valid"]
  rows, columns = images.shape[:2]
  half = np.array([0.5, 0.5])
  # OpenCV counts from pixel centres.
  matrix = np.concatenate([linear, (moved + linear @ half - half)[:, None]], axis=1)

  def warp(array: np.ndarray, how: int, border: int) -> np.ndarray:
    return cv2.warpAffine(array, matrix, (columns, rows), flags=how, borderMode=border)

  def labels(mask: np.ndarray) -> np.ndarray:
    return warp(mask, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) if mask.size else mask

  warped = warp(images, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101).reshape(images.shape)
  if not valid.all():
    padding = warp(valid.astype(np.uint8), cv2.INTER_NEAREST, cv2.BORDER_REFLECT_101) == 0
    warped[padding] = -1.0
  boxes, lesion_mask = keep_inside(
    _turned(example["boxes"], linear, moved), labels(example["lesion_mask"]), (rows, columns)
  )
  return {
    **example,
    "images_m11": warped,
    "valid": labels(valid.astype(np.uint8)) > 0,
    "boxes": boxes,
    "lesion_mask": lesion_mask,
    "forbidden_mask": labels(example["forbidden_mask"]),
  }


def _turned(boxes: np.ndarray, linear: np.ndarray, moved: np.ndarray) -> np.ndarray:
  """Boxes of the images of the ellipses inscribed in boxes f32[N, 4]."""
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear.T + moved
  radii = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (linear**2).T)
  return np.concatenate([centres - radii, centres + radii], axis=1).astype(np.float32)
