"""Pictures as a viewer shows them, and the entries of a set that they are loaded from.

H, W rows and columns, C channels (1 grey, 3 RGB). Intensities are in [0, 1], dense is bright.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.data.readers import dicom, images
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.inference import canvas

ASPECT = 0.1  # sides may differ by so much before two pictures do not show the same region
_NO_BOXES = np.zeros((0, 4), np.float32)
_NO_MASK = np.zeros((0, 0), np.uint16)


class Picture(NamedTuple):
  """An image to be judged and what belongs to it.

  Attributes:
    image: f32[H, W, C] in [0, 1].
    reference: the real image, of the same shape; None where there is none.
    no_reference: why there is none.
    boxes: f32[N, 4] xyxy pixels, of the lesions in the image.
    lesion_mask: uint16[H, W], id = box index + 1; (0, 0) where not known.
  """

  image: np.ndarray
  reference: np.ndarray | None = None
  no_reference: str = "there is no real image beside it"
  boxes: np.ndarray = _NO_BOXES
  lesion_mask: np.ndarray = _NO_MASK


class Entry(NamedTuple):
  """An image that can be loaded.

  Attributes:
    key: of the real image that it belongs to, or of its own.
    group: whose image that is: what is drawn together in a bootstrap.
    sampling: 0 for the first image of a key, 1 for the second, and so on.
    donors: of the lesions that were put in.
    load: reads it; raises Unreadable.
  """

  key: str
  group: str
  sampling: int
  donors: tuple[str, ...]
  load: Callable[[], Picture]


class Scale(NamedTuple):
  """How stored values are shown: rescaled, then `low` is black and `high` white."""

  low: float
  high: float
  slope: float
  intercept: float
  inverted: bool


def scale_of(item: Mapping[str, Any], window: str | tuple[float, float]) -> Scale:
  """Of a record, by a window of `transforms.View`."""
  low, high = transforms.window_of(item, window)
  slope, intercept = float(item["rescale_slope"]), float(item["rescale_intercept"])
  return Scale(low, high, slope, intercept, item["photometric"] == "MONOCHROME1")


def shown(stored: np.ndarray, scale: Scale) -> np.ndarray:
  """Stored values [H, W, C] -> f32[H, W, C] in [0, 1]."""
  return canvas.shown(
    stored,
    (scale.low, scale.high),
    slope=scale.slope,
    intercept=scale.intercept,
    inverted=scale.inverted,
  )


def read(path: Path) -> Sample:
  """The image of a file, the first where it holds several.

  Raises:
    Unreadable: it is none, or damaged.
  """
  reader = dicom.read if path.suffix.lower() == ".dcm" else images.read
  for sample in reader(path):
    return sample
  raise Unreadable("holds no image")


def show_sample(sample: Sample, scale: Scale | None = None) -> np.ndarray:
  """A sample in [0, 1]: by its own range, or by that of `scale`."""
  own = Scale(
    *sample.value_range,
    sample.rescale_slope,
    sample.rescale_intercept,
    sample.photometric == "MONOCHROME1",
  )
  return shown(sample.image, own if scale is None else scale)


def beside(reference: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | str:
  """A real image brought to the size and channels of the one beside it, or why that cannot be.

  What shrinks becomes the mean of its pixels, what grows is interpolated.
  """
  rows, columns = reference.shape[:2]
  if abs(np.log((rows / columns) / (shape[0] / shape[1]))) > ASPECT:
    return f"it is of {shape[1]} x {shape[0]} pixels and the real image of {columns} x {rows}"
  if (rows, columns) != tuple(shape[:2]):
    reference = transforms.place((rows, columns), (shape[0], shape[1]), "stretch").resize(reference)
  return transforms.with_channels(reference, shape[2])


def at_most(image: np.ndarray, longest: int | None) -> np.ndarray:
  """The image, reduced by area means where its longest side is greater."""
  side = max(image.shape[:2])
  if longest is None or side <= longest:
    return image
  rows, columns = (max(1, round(n * longest / side)) for n in image.shape[:2])
  return transforms.place((image.shape[0], image.shape[1]), (rows, columns), "stretch").resize(
    image
  )
