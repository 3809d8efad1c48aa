"""From a record to what a network sees: window, fit to a size, and small random changes.

Legend: H, W of the record; S, T rows and columns of the view; C channels; N boxes. Everything moves
along with the pixels: boxes, masks, spacing, and `valid`, which is False on padding.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from hiresmed_jax.data.fit import FITS, Placement, keep_inside, place
from hiresmed_jax.errors import UserError

Example = dict[str, Any]

_PERCENTILES = (0.5, 99.5)
_PERCENTILE_PIXELS = 1 << 16  # an even sample of so many tells the percentiles


@dataclasses.dataclass(frozen=True)
class View:
  """How stored images become network input.

  Attributes:
    size: side, or (rows, columns), of the output.
    fit: "stretch" resizes each axis by itself. "pad" keeps the aspect and shrinks what is too
      large; what is smaller stays at its native resolution, since enlarging adds nothing. "crop"
      keeps the aspect, covers the output and cuts the overhang evenly.
    window: "stored" shows the range that the record names (the VOI window, 0..255 of 8 bits);
      "percentile" the .5 to 99.5 % range of each image; (low, high) a range in rescaled units.
    channels: 3 keeps the colours of colour images; grey ones have 1 channel whatever it says.

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
  """Turns a record into network input.

  Resizing comes first, in stored units, where the mean of several pixels is what a larger detector
  element would have measured; the window clips afterwards; MONOCHROME1 is inverted last.

  Args:
    example: an item of `records.Records`.
    view: what to make of it.

  Returns:
    images_m11 f32[S, T, C] in [-1, 1], -1 on padding; boxes f32[M, 4] in output pixels, without
    those that a crop cuts away; lesion_mask uint16[S, T] or (0, 0), ids as the boxes are left;
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
    placement.boxes(example["boxes"]), _mask(example["lesion_mask"], placement), view.shape
  )
  return {
    "images_m11": placement.paste(pixels, fill=-1.0),
    "boxes": boxes,
    "lesion_mask": lesion_mask,
    "forbidden_mask": _mask(example["forbidden_mask"], placement),
    "valid": placement.paste(np.ones((*placement.inner, 1), bool), fill=False)[..., 0],
    "spacing_mm": (example["spacing_mm"] / placement.scale).astype(np.float32),
    "group": example["group"],
    "image_id": example["image_id"],
  }


def window_of(example: Mapping[str, Any], window: str | tuple[float, float]) -> tuple[float, float]:
  """The (low, high) that a window means for this record, in rescaled units, low < high."""
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


def _mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
  if mask.size == 0:
    return mask
  return placement.paste(placement.resize_labels(mask)[..., None], fill=0)[..., 0]
