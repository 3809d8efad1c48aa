"""Random changes of training images: pose, size, place and exposure; mosaics of four images.

All random numbers are drawn whatever is switched on, so that one switch does not change others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from hiresmed_jax.data.transforms import Example, keep_inside

_LEAST_SIDE = 1.0  # px of a box that is worth finding


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

  Beyond its edges the image is mirrored, so that no black wedges are learnt; `valid` is False
  there. Padding stays -1. A box becomes the box of its turned ellipse, which does not grow as the
  box of turned corners would.

  Args:
    example: of `transforms.load`.
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
  # In place: new memory for every step costs more than the arithmetic.
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


def compose(
  examples: Sequence[Mapping[str, Any]],
  rng: np.random.Generator,
  *,
  side: int,
  scale: float = 0.0,
  shift: float = 0.0,
  gain: float = 0.0,
  flip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """One random image, of one example or of a mosaic of four.

  Args:
    examples: of `transforms.load`, one or four. Padding is cut away first.
    rng: source of the numbers.
    side: S.
    scale: greatest change of size, as a share: .5 draws from half to one and a half.
    shift: greatest shift, as a share of the side.
    gain: greatest change of brightness, as a share.
    flip: whether left and right may change places; one coin for the whole image.

  Returns:
    (images_m11 f32[S, S, C] in [-1, 1]; boxes f32[N, 4] of which at least a tenth is left).

  Raises:
    ValueError: neither one nor four examples.
  """
  if len(examples) not in (1, 4):
    raise ValueError(f"a mosaic is made of 4 images, not of {len(examples)}")
  size, right, down, bright, coin, across, along = rng.uniform(-1, 1, 7)
  zoom = 1.0 + scale * size
  mirrored = flip and coin < 0
  channels = examples[0]["images_m11"].shape[-1]
  out = np.full((side, side, channels), -1.0, np.float32)
  moved = side * np.array([shift * right, shift * down])
  found = []
  for place, example in enumerate(examples):
    image, boxes = _without_padding(example)
    rows, columns = image.shape[:2]
    if len(examples) == 1:
      corner = np.array([-columns / 2, -rows / 2])
    else:
      # Four quadrants around a point somewhere in the middle of a canvas of twice the side.
      corner = side / 2 * np.array([across, along])
      corner -= np.array([columns * (place % 2 == 0), rows * (place < 2)])
    # x' = zoom (x + corner) + middle + moved
    origin = zoom * corner + side / 2 + moved
    _draw(out, image, zoom, origin)
    found.append(boxes * zoom + np.tile(origin, 2))
  boxes, _ = keep_inside(
    np.concatenate(found).astype(np.float32), np.zeros((0, 0), np.uint16), (side, side)
  )
  boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > _LEAST_SIDE).all(1)]
  if mirrored:
    out = np.ascontiguousarray(out[:, ::-1])
    boxes = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [side, 0, side, 0]
  if gain:
    out += 1.0
    out *= np.float32(1.0 + gain * bright)
    out -= 1.0
    np.clip(out, -1.0, 1.0, out=out)
  return out, boxes.astype(np.float32)


def _without_padding(example: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """The image and its boxes without padding."""
  valid = example["valid"]
  if valid.all():
    return example["images_m11"], example["boxes"]
  rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
  top, left = rows[0], columns[0]
  image = example["images_m11"][top : rows[-1] + 1, left : columns[-1] + 1]
  return image, example["boxes"] - np.array([left, top, left, top], np.float32)


def _draw(out: np.ndarray, image: np.ndarray, zoom: float, origin: np.ndarray) -> None:
  """Draws an image, enlarged by `zoom`, with its upper left corner at `origin` (x, y) of `out`."""
  side = out.shape[0]
  first = np.maximum(np.floor(origin).astype(int), 0)
  size = np.array(image.shape[1::-1]) * zoom
  last = np.minimum(np.ceil(origin + size).astype(int), side)
  width, height = last - first
  if width <= 0 or height <= 0:
    return
  # OpenCV counts from pixel centres.
  shift = origin - first + (zoom - 1) / 2
  matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
  # Blurred before it is reduced, so that a stone of 7 px does not fall between samples.
  if zoom < 1.0:
    image = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(1.0 / zoom**2 - 1.0) + 1e-3)
  drawn = cv2.warpAffine(
    image, matrix, (int(width), int(height)), flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )  # fmt: skip
  out[first[1] : last[1], first[0] : last[0]] = drawn.reshape(height, width, -1)
