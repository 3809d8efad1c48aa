"""What a set of labels tells of itself: wrong units and orders, and images of other names."""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from hiresmed_jax.data import matching
from hiresmed_jax.data.readers.boxes import Label
from hiresmed_jax.errors import UserError

_FEW_BOXES = 5  # of which too little can be said


def check_order(labels: Sequence[Label]) -> None:
  """Raises UserError where YOLO's numbers are two corners, or other labels' are shares.

  Two corners of a lesion lie close together, so that they vary together: what is read as centre
  and size then differs by far less than each of them varies. No lesion's own size does so.
  """
  in_pixels = [label for label in labels if not label.in_shares]
  pixels = np.array([mark.corners for label in in_pixels for mark in label.marks if mark.corners])
  if pixels.size and pixels.max() <= 1.0 and (pixels != np.rint(pixels)).any():
    raise UserError("the labels give boxes in shares of the image (0 to 1): write them in pixels")
  corners = np.array(
    [mark.corners for label in labels if label.in_shares for mark in label.marks if mark.corners]
  ).reshape(-1, 4)
  centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
  if not len(corners) or not ((centre < size) & (size <= 1)).all():
    return
  outside = ((corners < -0.05) | (corners > 1.05)).any()
  together = len(corners) >= _FEW_BOXES and ((size - centre).std(0) < 0.5 * centre.std(0)).all()
  if outside or together:
    raise UserError(
      "the YOLO boxes are two corners (x1 y1 x2 y2): as cx cy w h, many lie outside of their image "
      "or cover most of it. Write them as centre, width and height"
    )


def settle_names(labels: Sequence[Label], images: Sequence[str]) -> list[Label]:
  """Labels of one image each whose content names another image than their file does.

  Where the one or the other image is not there, the label is of that which is, and says so; where
  both are, the label is refused.

  Args:
    labels: of a set.
    images: paths of its images.
  """
  settled = list(labels)
  doubtful = [n for n, one in enumerate(labels) if one.own_name and _differ(one.own_name, one.name)]
  if not doubtful:
    return settled
  by_file = _images_of([label.name for label in labels], images)
  taken = set(by_file.values())
  by_content = _images_of(sorted({labels[n].own_name for n in doubtful}), images)
  for n in doubtful:
    label, other = labels[n], by_content.get(labels[n].own_name)
    own = by_file.get(label.name)
    if own is not None and other is None:
      note = "has a label file that names an image which is not there: its file's name counts"
      settled[n] = dataclasses.replace(label, notes=(*label.notes, note))
    elif own is None and other is not None and other not in taken:
      note = "has a label file of another name, which names this image inside"
      settled[n] = dataclasses.replace(label, name=label.own_name, notes=(*label.notes, note))
    elif own != other:
      settled[n] = dataclasses.replace(label, refused="names another image inside than by its name")
  return settled


def _images_of(names: Sequence[str], images: Sequence[str]) -> dict[str, int]:
  """The number of the image that a name fits alone."""
  return {names[n]: image for (image, _), n in matching.match(names, images).found.items()}


def _differ(one: str, other: str) -> bool:
  """Whether two names are of different images, folders, case and suffix aside."""
  names = (PurePosixPath(name.replace("\\", "/")).name for name in (one, other))
  first, second = (matching.stem_of(name).casefold() for name in names)
  return first != second
