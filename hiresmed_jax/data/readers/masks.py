"""Masks of the pages or slices of a file, and masks beside boxes."""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

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
    own, other = _grid(path), _grid(image)
    if own and other and own.size != other.size:
      raise Unreadable("has a mask of another size")
    if own and other and own.axes != other.axes and np.abs(own.ends - other.ends).max() > 1.0:
      raise Unreadable(
        "has a mask that lies elsewhere: its header turns it otherwise than its image. Give it the "
        "image's affine"
      )
    return volumes.label_slices(path, axis=axis)
  if not path.name.lower().endswith((".tif", ".tiff")):
    raise Unreadable(
      "holds several pages, frames or slices and its mask does not say which it is of: name the "
      "mask NAME#0 for the first, NAME#1 for the second"
    )
  return [sample.image.max(-1).astype(np.int32) for sample in images.read(path)]


class _Grid(NamedTuple):
  size: tuple[int, ...]
  axes: str  # where they point to, such as LPS
  ends: np.ndarray  # f64[2, 3], least and greatest place of a voxel, in voxels of the grid


def _grid(path: Path) -> _Grid | None:
  """Where the voxels of a volume lie; None of other files, and of headers that do not tell."""
  reader = sitk.ImageFileReader()
  reader.SetFileName(str(path))
  try:
    reader.ReadImageInformation()
  except RuntimeError:
    return None
  size = tuple(reader.GetSize())
  if len(size) != 3:
    return _Grid(size, "", np.zeros((2, 3)))
  turn = np.reshape(reader.GetDirection(), (3, 3))
  spacing = np.array(reader.GetSpacing())
  corners = np.array(list(itertools.product(*((0, n - 1) for n in size))))
  places = reader.GetOrigin() + (corners * spacing) @ turn.T
  axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(turn.ravel())
  along = np.abs(turn).argmax(1)  # which axis of the file runs along each of the patient's
  ends = np.stack([places.min(0), places.max(0)]) / spacing[along]
  return _Grid(size, axes, ends)


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
