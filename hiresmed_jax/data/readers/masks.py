"""Masks of the pages or slices of a file, and masks beside boxes."""

import functools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hiresmed_jax.data.readers import images, mask_values, volumes
from hiresmed_jax.data.sample import Unreadable

SUFFIXES = (*mask_values.SUFFIXES, *volumes.SUFFIXES)


@functools.lru_cache(maxsize=3)
def slices(path: Path, image: Path, axis: str) -> list[np.ndarray]:
  """Labels [H, W] of every page or slice of a mask.

  Args:
    path: an image file or a volume.
    image: the file that it is the mask of.
    axis: how volumes are sliced.

  Raises:
    Unreadable: damaged, or it does not say which page it is of.
  """
  if path.name.lower().endswith(volumes.SUFFIXES):
    if _size(path) != _size(image):
      raise Unreadable("has a mask of another size")
    return volumes.label_slices(path, axis=axis)
  if not path.name.lower().endswith((".tif", ".tiff")):
    raise Unreadable(
      "holds several pages, frames or slices and its mask does not say which it is of: name the "
      "mask NAME#0 for the first, NAME#1 for the second"
    )
  return [sample.image.max(-1).astype(np.int32) for sample in images.read(path)]


def _size(path: Path) -> tuple[int, ...] | None:
  reader = sitk.ImageFileReader()
  reader.SetFileName(str(path))
  try:
    reader.ReadImageInformation()
  except RuntimeError:
    return None
  return tuple(reader.GetSize())


def match(mask: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Gives the lesions of a mask the numbers of their boxes.

  A lesion belongs to the box with most of it; where no box has half of it, it gets a new box.

  Args:
    mask: one label a lesion [H, W], 0 elsewhere.
    boxes: f32[N, 4] xyxy pixels.

  Returns:
    (uint16[H, W] ids, id = box index + 1; boxes f32[N + new, 4]).
  """
  labels = np.unique(mask[mask > 0])
  ids, own = np.zeros(mask.shape, np.uint16), []
  for label in labels:
    rows, columns = np.nonzero(mask == label)
    x, y = columns[:, None] + 0.5, rows[:, None] + 0.5
    inside = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    share = inside.mean(0)
    if len(boxes) and share.max() >= 0.5:
      ids[rows, columns] = int(share.argmax()) + 1
    else:
      own.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
      ids[rows, columns] = len(boxes) + len(own)
  return ids, np.concatenate([boxes, np.array(own, np.float32).reshape(-1, 4)])
