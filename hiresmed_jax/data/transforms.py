"""From a record to network input: window and fit to a size.

H, W of the record; S, T rows and columns of the view; C channels; N boxes. Boxes, masks, spacing
and `valid`, which is False on padding, change with the pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from hiresmed_jax.errors import UserError

Example = dict[str, Any]

_PERCENTILES = (0.5, 99.5)
_PERCENTILE_PIXELS = 1 << 16  # that percentiles are taken of, spread evenly
FITS = ("stretch", "pad", "crop")
_LEAST_SHARE = 0.1  # of a box that must be left, or it is dropped


@dataclasses.dataclass(frozen=True)
class View:
  """How stored images become network input.

  Attributes:
    size: side, or (rows, columns), of the output.
    fit: "stretch" resizes each axis by itself. "pad" keeps the aspect; it shrinks larger images
      and does not enlarge smaller ones. "crop" keeps the aspect, covers the output and cuts the
      overhang evenly.
    window: "stored" is the range of the record (the VOI window, 0..255 of 8 bits), "percentile" the
      .5 to 99.5 % range of each image, (low, high) a range in rescaled units.
    channels: 3 keeps the colours of colour images; grey images always have 1 channel.

  Raises:
    UserError: another fit or window, or a size that is not positive.
  """

  size: int | tuple[int, int]
  fit: str = "stretch"
  window: str | tuple[float, float] = "stored"
  channels: int = 1

  def __post_init__(self) -> None:
    if min(self.shape) < 1:
      raise UserError(f"size {self.size} of the view: use a side or (rows, columns), at least 1")
    if self.fit not in FITS:
      raise UserError(f"fit {self.fit!r}: use {', '.join(repr(f) for f in FITS)}")
    if self.channels not in (1, 3):
      raise UserError(f"channels {self.channels} of the view: use 1 or 3")
    window = self.window
    if isinstance(window, str):
      if window not in ("stored", "percentile"):
        raise UserError(f"window {window!r}: use 'stored', 'percentile' or (low, high)")
    elif len(window) != 2 or not window[0] < window[1]:
      raise UserError(f"window {tuple(window)}: low must be below high")

  @property
  def shape(self) -> tuple[int, int]:
    """(rows, columns)."""
    if isinstance(self.size, int):
      return self.size, self.size
    rows, columns = self.size
    return int(rows), int(columns)


def load(example: Mapping[str, Any], view: View) -> Example:
  """Turns an item of `records.Records` into network input.

  Resizing comes first, in stored units, where the mean of several pixels is the value of a larger
  detector element; then the window clips; MONOCHROME1 is inverted last.

  Returns:
    images_m11 f32[S, T, C] in [-1, 1], -1 on padding; boxes f32[M, 4] in output pixels, without
    those that a crop cuts away; lesion_mask uint16[S, T] or (0, 0), ids of these boxes;
    forbidden_mask uint8[S, T] or (0, 0); valid bool[S, T]; spacing_mm f32[2] (row, column) of the
    output; group, image_id.
  """
  image = example["image"]
  placement = place(image.shape[:2], view.shape, view.fit)
  pixels = placement.resize(image.astype(np.float32))
  if pixels.shape[-1] == 3 and view.channels == 1:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
  low, high = window_of(example, view.window)
  gain = 2.0 / (high - low)
  pixels *= example["rescale_slope"] * gain
  pixels += (example["rescale_intercept"] - low) * gain - 1.0
  np.clip(pixels, -1.0, 1.0, out=pixels)
  if example["photometric"] == "MONOCHROME1":
    np.negative(pixels, out=pixels)
  boxes, lesion_mask = keep_inside(
    placement.boxes(example["boxes"]), placed(example["lesion_mask"], placement), view.shape
  )
  return {
    "images_m11": placement.paste(pixels, fill=-1.0),
    "boxes": boxes,
    "lesion_mask": lesion_mask,
    "forbidden_mask": placed(example["forbidden_mask"], placement),
    "valid": placement.paste(np.ones((*placement.inner, 1), bool), fill=False)[..., 0],
    "spacing_mm": (example["spacing_mm"] / placement.scale).astype(np.float32),
    "group": example["group"],
    "image_id": example["image_id"],
  }


def values_of(item: Mapping[str, Any]) -> tuple[np.ndarray, tuple[float, float]]:
  """The pixels of a record in value units, dense tissue bright.

  Args:
    item: of `records.Records`.

  Returns:
    (f32[H, W, C], (low, high) of its value range).
  """
  low, high = (float(v) for v in item["value_range"])
  values = item["image"].astype(np.float32) * np.float32(item["rescale_slope"])
  values += np.float32(item["rescale_intercept"])
  if item["photometric"] == "MONOCHROME1":
    values = np.float32(low + high) - values
  return values, (low, high)


def window_of(example: Mapping[str, Any], window: str | tuple[float, float]) -> tuple[float, float]:
  """(low, high) of a window of `View` for a record, in rescaled units, low < high."""
  if window == "stored":
    low, high = (float(v) for v in example["value_range"])
  elif window == "percentile":
    image = example["image"]
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / _PERCENTILE_PIXELS)))
    stored = np.percentile(image[::step, ::step], _PERCENTILES)
    low, high = sorted(example["rescale_slope"] * stored + example["rescale_intercept"])
  else:
    low, high = (float(v) for v in window)
  return low, max(high, low + 1e-6 * max(1.0, abs(low)))  # a constant image is black


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """f32[H, W, 1 or 3] -> f32[H, W, channels]: grey is repeated, colours are averaged."""
  if image.shape[-1] == channels:
    return image
  if channels == 1:
    return image.mean(axis=-1, keepdims=True)
  return np.repeat(image, channels, axis=-1)


def placed(mask: np.ndarray, placement: "Placement") -> np.ndarray:
  """A mask [H, W] in a view, 0 on padding; (0, 0) stays."""
  if mask.size == 0:
    return mask
  return placement.paste(placement.resize_labels(mask)[..., None], fill=0)[..., 0]


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where an image lies in an output: resized to `inner`, with its corner at `corner`.

  Attributes:
    outer: (rows, columns) of the output.
    inner: (rows, columns) of the resized image.
    corner: (row, column) in the output, negative where the image overhangs.
    scale: f64[2], output pixels per input pixel, (row, column).
  """

  outer: tuple[int, int]
  inner: tuple[int, int]
  corner: tuple[int, int]
  scale: np.ndarray

  def resize(self, image: np.ndarray) -> np.ndarray:
    """Resizes f32[H, W, C]: the area's mean on an axis that shrinks, linear on others."""
    rows, columns = self.inner
    channels = image.shape[-1]
    small = (min(rows, image.shape[0]), min(columns, image.shape[1]))
    if small != image.shape[:2]:
      image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    if small != self.inner:
      image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return image.reshape(rows, columns, channels)

  @property
  def filled(self) -> tuple[slice, slice]:
    """(rows, columns) of the output that the image fills; the rest is padding."""
    rows, columns = (
      slice(max(corner, 0), min(corner + inner, outer))
      for corner, inner, outer in zip(self.corner, self.inner, self.outer)
    )
    return rows, columns

  def resize_labels(self, mask: np.ndarray) -> np.ndarray:
    """Resizes labels [H, W]: each output pixel has the label under its centre."""
    if mask.shape == self.inner:
      return mask
    return cv2.resize(mask, self.inner[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

  def paste(self, image: np.ndarray, *, fill: float) -> np.ndarray:
    """Puts [*inner, C] into the output [*outer, C], `fill` elsewhere."""
    if self.inner == self.outer:
      return image
    out = np.full((*self.outer, image.shape[-1]), fill, image.dtype)
    to, of = zip(*(_overlap(c, i, o) for c, i, o in zip(self.corner, self.inner, self.outer)))
    out[to] = image[of]
    return out

  def boxes(self, boxes: np.ndarray) -> np.ndarray:
    """Boxes f32[N, 4] of the input in output pixels, not clipped."""
    scale = np.tile(self.scale[::-1], 2)
    shift = np.tile(np.asarray(self.corner, np.float64)[::-1], 2)
    return (boxes * scale + shift).astype(np.float32)


def place(shape: tuple[int, int], outer: tuple[int, int], fit: str) -> Placement:
  """Places an image of `shape` (rows, columns) in an output of `outer`; `fit` as in `View`."""
  ratios = (outer[0] / shape[0], outer[1] / shape[1])
  if fit == "stretch":
    inner = outer
  elif fit == "pad":
    ratio = min(*ratios, 1.0)
    inner = (_at_most(shape[0] * ratio, outer[0]), _at_most(shape[1] * ratio, outer[1]))
  else:
    ratio = max(ratios)
    inner = (max(round(shape[0] * ratio), outer[0]), max(round(shape[1] * ratio), outer[1]))
  return Placement(
    outer=outer,
    inner=inner,
    corner=((outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2),
    scale=np.array([inner[0] / shape[0], inner[1] / shape[1]]),
  )


def keep_inside(
  boxes: np.ndarray, lesion_mask: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Clips boxes to the image and drops those of which less than a tenth is left.

  Args:
    boxes: f32[N, 4] xyxy pixels.
    lesion_mask: uint16 [H, W] with id = box index + 1, or (0, 0).
    shape: (rows, columns) of the image.

  Returns:
    (boxes f32[M, 4], the mask with the ids of the boxes that are left).
  """
  limits = np.array([shape[1], shape[0]] * 2, np.float32)
  clipped = np.clip(boxes, 0, limits)
  kept = _areas(clipped) > _LEAST_SHARE * _areas(boxes)
  if not kept.all() and lesion_mask.size:
    ids = np.zeros(max(len(boxes), int(lesion_mask.max())) + 1, np.uint16)
    ids[1 : len(boxes) + 1][kept] = np.arange(1, kept.sum() + 1)
    lesion_mask = ids[lesion_mask]
  return clipped[kept], lesion_mask


def _areas(boxes: np.ndarray) -> np.ndarray:
  return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _at_most(side: float, limit: int) -> int:
  return max(1, min(round(side), limit))


def _overlap(corner: int, inner: int, outer: int) -> tuple[slice, slice]:
  """(where in the output, where in the image) on one axis."""
  first, last = max(corner, 0), min(corner + inner, outer)
  return slice(first, last), slice(first - corner, last - corner)
