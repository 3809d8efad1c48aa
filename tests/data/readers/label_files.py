"""Boxes of one label file, as tests want them."""

from pathlib import Path

import numpy as np

from hiresmed_jax.data.readers import layouts
from hiresmed_jax.data.readers.boxes import boxes_of
from hiresmed_jax.data.readers.text import BadBoxes


def all_boxes(path: Path, kind: str, width: int, height: int) -> dict[str, np.ndarray]:
  """Boxes by the name of the image. Raises BadBoxes for a label that is refused."""
  found = {}
  for label in layouts.read(path, kind, path.stem):
    if label.refused:
      raise BadBoxes(label.refused)
    found[label.name] = boxes_of(label, label.marks, *(label.size or (width, height)))
  return found


def boxes(path: Path, kind: str = "yolo", width: int = 0, height: int = 0) -> np.ndarray:
  (found,) = all_boxes(path, kind, width, height).values()
  return found
