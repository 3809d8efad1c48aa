"""Pictures as a viewer shows them, and the entries of a set that they are loaded from.

H, W rows and columns, C channels (1 grey, 3 RGB). Intensities are in [0, 1]; dense tissue is
bright.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.data.readers import dicom, images
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.inference import canvas

ASPECT = 0.1  # greatest difference of log(rows / columns) of two pictures of one region
_NO_BOXES = np.zeros((0, 4), np.float32)
_NO_MASK = np.zeros((0, 0), np.uint16)


class Picture(NamedTuple):
  """An image to evaluate, with its reference and its lesions."""

  image: np.ndarray  # f32[H, W, C] in [0, 1]
  reference: np.ndarray | None = None  # the real image, of the same shape; None where there is none
  no_reference: str = "there is no real image beside it"  # the reason why there is none
  boxes: np.ndarray = _NO_BOXES  # f32[N, 4] xyxy pixels, of the lesions in the image
  lesion_mask: np.ndarray = _NO_MASK  # uint16[H, W], id = box index + 1; (0, 0) when unknown


class Entry(NamedTuple):
  """An image that can be loaded."""

  key: str  # of the real image that it belongs to, or its own
  group: str  # patient group of that image, the unit of a bootstrap
  sampling: int  # 0 for the first image of a key, 1 for the second, and so on
  donors: tuple[str, ...]  # of the inserted lesions
  load: Callable[[], Picture]  # reads the image; raises Unreadable


class Scale(NamedTuple):
  """How stored values are shown: the arguments of `canvas.shown`."""

  item_range: tuple[float, float]
  slope: float
  intercept: float
  inverted: bool


def scale_of(item: Mapping[str, Any], window: str | tuple[float, float]) -> Scale:
  """The scale of a record for a window of `transforms.View`."""
  slope, intercept = float(item["rescale_slope"]), float(item["rescale_intercept"])
  inverted = item["photometric"] == "MONOCHROME1"
  return Scale(transforms.window_of(item, window), slope, intercept, inverted)


def shown(stored: np.ndarray, scale: Scale) -> np.ndarray:
  """Stored values [H, W, C] -> f32[H, W, C] in [0, 1]."""
  return canvas.shown(stored, **scale._asdict())


def read(path: Path) -> Sample:
  """The first image of a file.

  Raises:
    Unreadable: it holds none, or is damaged.
  """
  reader = dicom.read if path.suffix.lower() == ".dcm" else images.read
  for sample in reader(path):
    return sample
  raise Unreadable("holds no image")


def show_sample(sample: Sample, scale: Scale | None = None) -> np.ndarray:
  """A sample in [0, 1]: by its own range, or by that of `scale`."""
  if scale is None:
    inverted = sample.photometric == "MONOCHROME1"
    scale = Scale(sample.value_range, sample.rescale_slope, sample.rescale_intercept, inverted)
  return shown(sample.image, scale)


def beside(reference: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | str:
  """A real image resized to the shape of another, or the reason why that cannot be done.

  An axis that shrinks is averaged, one that grows is interpolated.
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
