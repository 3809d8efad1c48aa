"""Images that look like negatives of the others, such as exports of MONOCHROME1 without its header.

Images of one kind share their coarse structure, such as a dark border: a negative shows its
opposite.
"""

from collections.abc import Sequence

import cv2
import numpy as np

_SIDE, _LOOKED_AT = 8, 64  # pixels across of a thumbnail, and rows of the image that it is made of
_FEW_IMAGES = 8  # of which none can be told apart
# Of the likeness of an image to the others, 1 to -1. Measured: 450 CT slices and radiographs have
# 0.23 or more, their negatives -0.4 or less; noise and unlike images lie around 0.
_ALIKE, _OPPOSITE, _MEDIAN = 0.15, -0.3, 0.4
_BETWEEN = 0.1  # share of images that may be neither


def thumbnail(grey: np.ndarray) -> np.ndarray:
  """The coarse structure of a display image uint8 [H, W]: uint8 [8, 8]."""
  step = max(1, min(grey.shape) // _LOOKED_AT)
  few = np.ascontiguousarray(grey[::step, ::step])
  return cv2.resize(few, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def negatives(thumbnails: Sequence[np.ndarray]) -> list[int]:
  """Numbers of the images that look like negatives of the others; none where images are unlike.

  Args:
    thumbnails: of `thumbnail`, of all images.
  """
  if len(thumbnails) < _FEW_IMAGES:
    return []
  planes = np.stack(thumbnails).reshape(len(thumbnails), -1).astype(np.float64)
  planes -= planes.mean(axis=1, keepdims=True)
  planes /= np.linalg.norm(planes, axis=1, keepdims=True) + 1e-6
  # What most images share but for a sign is their first principal axis.
  alike = planes @ np.linalg.eigh(planes.T @ planes)[1][:, -1]
  alike *= np.sign(np.median(alike))
  between = (alike > _OPPOSITE) & (alike < _ALIKE)
  if np.median(alike) < _MEDIAN or between.mean() > _BETWEEN:
    return []
  return np.flatnonzero(alike <= _OPPOSITE).tolist()
