"""What became of the grey values before the image reached us: depth, censoring, JPEG."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

# First and last row of the luminance table of annex K.1 of the JPEG standard (ITU-T T.81).
_STANDARD_ROWS = np.array([*(16, 11, 10, 16, 24, 40, 51, 61), *(72, 92, 95, 98, 112, 100, 103, 99)])


def display(
  image: np.ndarray, value_range: tuple[float, float], slope: float, intercept: float
) -> np.ndarray:
  """The image as a screen shows it (without MONOCHROME1's inversion): uint8 [H, W].

  Args:
    image: uint8 | uint16 [H, W, C], stored values.
    value_range: (low, high) in rescaled units.
    slope: value = slope * stored + intercept.
    intercept: see `slope`.
  """
  levels = np.arange(256 if image.dtype == np.uint8 else 65536, dtype=np.float64)
  low, high = value_range
  table = np.clip((levels * slope + intercept - low) / (high - low) * 255.0, 0, 255)
  shown = np.round(table).astype(np.uint8)[image]
  return shown[..., 0] if shown.shape[-1] == 1 else cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)


def censoring_level(image: np.ndarray) -> int:
  """Stored value from which on an image tells nothing: 250 of 8 bits, else its plateau at the top.

  A 16-bit image has a plateau when at least one pixel in 5,000 (and 16 pixels) holds its maximum;
  without one the level lies above the maximum.
  """
  if image.dtype == np.uint8:
    return 250
  top = int(image.max())
  plateau = int(np.count_nonzero(image == top))
  return top if plateau >= max(16, image.size // 5000) else top + 1


def column_gradients(image: np.ndarray) -> np.ndarray:
  """Mean |horizontal gradient| by column modulo 8, over its mean: f32[8], all 1 without a grid.

  JPEG codes blocks of 8 x 8: phase 7 is the step from column 8k + 7 to 8k + 8.

  Args:
    image: uint8 | uint16 [H, W, C].
  """
  width = (image.shape[1] - 1) // 8 * 8
  if width == 0:
    return np.ones(8, np.float32)
  plane = image[..., 0]
  steps = cv2.absdiff(plane[:, 1 : width + 1], plane[:, :width])
  profile = cv2.reduce(steps, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F).reshape(-1, 8).mean(0)
  mean = float(profile.mean())
  return profile / mean if mean > 0 else np.ones(8, np.float32)


def jpeg_quality(path: Path) -> int | None:
  """Quality (1 to 100, the scale of libjpeg) at which a JPEG was saved last, None for other files.

  Args:
    path: an image file; the header alone is read.
  """
  try:
    with Image.open(path) as image:
      tables = getattr(image, "quantization", None) if image.format == "JPEG" else None
  except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
    return None
  if not tables:
    return None
  # libjpeg scales it: (standard * S + 50) // 100, S = 200 - 2 q from q = 50 on, else 5000 // q.
  qualities = np.arange(1, 101)
  scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
  expected = np.clip((_STANDARD_ROWS * scales[:, None] + 50) // 100, 1, 255)
  found = np.array([*tables[0][:8], *tables[0][56:]])
  return int(qualities[np.abs(expected - found).sum(1).argmin()])
