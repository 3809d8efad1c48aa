"""A training image of one record, or of four around a point: resized, moved, mirrored at random.

Everything happens in one resampling of each image. S is the side of the output; boxes are xyxy
pixels. Where no image lies, the output is -1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from hiresmed_jax.data.fit import keep_inside

_LEAST_SIDE = 1.0  # px of a box that is worth finding


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
  """One random image.

  Args:
    examples: what `transforms.load` gives: one, or four for a mosaic. Padding is cut away first.
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
  # All numbers are drawn whatever is switched on, so that one switch does not change the others.
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
  """The image and its boxes without the bars that fill the view up."""
  valid = example["valid"]
  if valid.all():
    return example["images_m11"], example["boxes"]
  rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
  top, left = rows[0], columns[0]
  image = example["images_m11"][top : rows[-1] + 1, left : columns[-1] + 1]
  return image, example["boxes"] - np.array([left, top, left, top], np.float32)


def _draw(out: np.ndarray, image: np.ndarray, zoom: float, origin: np.ndarray) -> None:
  """Puts an image, enlarged by `zoom`, with its upper left corner at `origin` (x, y) of `out`."""
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
  # What is reduced is blurred first: a stone of 7 px at half size must not fall between samples.
  if zoom < 1.0:
    image = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(1.0 / zoom**2 - 1.0) + 1e-3)
  drawn = cv2.warpAffine(
    image, matrix, (int(width), int(height)), flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )  # fmt: skip
  out[first[1] : last[1], first[0] : last[0]] = drawn.reshape(height, width, -1)
