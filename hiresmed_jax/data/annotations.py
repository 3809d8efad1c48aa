"""Boxes and masks in files beside the images: found by name, checked, and matched."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hiresmed_jax.data.listing import stem_of
from hiresmed_jax.data.readers import boxes as readers
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.errors import UserError

BOX_FORMATS = ("yolo", "coco", "voc")

_SUFFIX = {"yolo": ".txt", "voc": ".xml"}

# (path of an image below the image folder, width, height) -> its boxes, None without a label
BoxLookup = Callable[[Path, int, int], np.ndarray | None]


def box_lookup(kind: str, labels: Path) -> BoxLookup:
  """A function that finds the boxes of an image.

  Args:
    kind: one of `BOX_FORMATS`.
    labels: the folder of label files, or the JSON file of COCO.

  Raises:
    UserError: there are none, or the COCO file is refused.
  """
  if kind == "coco":
    return _coco(labels)
  if not labels.is_dir():
    raise UserError(f"no folder of labels {labels}: name it with --labels")
  suffix = _SUFFIX[kind]
  known = {path.relative_to(labels).as_posix() for path in labels.rglob(f"*{suffix}")}
  if not known:
    raise UserError(f"no {suffix} file in the folder of labels {labels}")

  def look_up(image: Path, width: int, height: int) -> np.ndarray | None:
    names = (stem_of(image.as_posix()) + suffix, stem_of(image.name) + suffix)
    name = next((n for n in names if n in known), None)
    if name is None:
      return None
    if kind == "yolo":
      return readers.read_yolo(labels / name, width, height)
    return readers.check_boxes(readers.read_voc(labels / name), width, height)

  return look_up


def _coco(path: Path) -> BoxLookup:
  if path.is_dir():
    files = sorted(path.glob("*.json"))
    if len(files) != 1:
      raise UserError(f"{path} holds {len(files)} JSON files: name one with --labels FILE")
    path = files[0]
  try:
    found = readers.read_coco(path)
  except readers.BadBoxes as error:
    raise UserError(f"the COCO file {path} {error}") from error
  except OSError as error:
    raise UserError(f"the COCO file {path} cannot be read: {error.strerror}") from error

  def look_up(image: Path, width: int, height: int) -> np.ndarray | None:
    boxes = found.get(image.as_posix(), found.get(image.name))
    return None if boxes is None else readers.check_boxes(boxes, width, height)

  return look_up


@dataclasses.dataclass(frozen=True)
class Annotations:
  """Facts of the images that are not in their files.

  Attributes:
    boxes: finds the boxes, if there are any.
    lesion_masks: folder of PNG masks, one label per lesion, or one for all.
    forbidden_masks: folder of PNG masks, nonzero where no lesion can be.
    physics: replaces that of the reader; "" keeps it.
    spacing_mm: (row, column) of images without one.
  """

  boxes: BoxLookup | None = None
  lesion_masks: Path | None = None
  forbidden_masks: Path | None = None
  physics: str = ""
  spacing_mm: tuple[float, float] = (math.nan, math.nan)

  def add_to(self, sample: Sample, image: Path) -> Sample:
    """The sample with these facts; `image` is the path of its file below the image folder.

    Raises:
      Unreadable: labels that are refused, or a mask that does not fit.
    """
    height, width = sample.image.shape[:2]
    found: dict[str, Any] = {}
    if self.boxes is not None:
      try:
        boxes = self.boxes(image, width, height)
      except readers.BadBoxes as error:
        raise Unreadable(f"has a label file that {error}") from error
      if boxes is not None:
        found["boxes"] = boxes
    if self.lesion_masks is not None:
      mask = _read_mask(self.lesion_masks, image, (height, width))
      if mask is not None:
        found["lesion_mask"], found["boxes"] = match(mask, found.get("boxes", sample.boxes))
    if self.forbidden_masks is not None:
      mask = _read_mask(self.forbidden_masks, image, (height, width))
      if mask is not None:
        found["forbidden_mask"] = (mask > 0).astype(np.uint8)
    if self.physics:
      found["physics"] = self.physics
    if not np.isfinite(sample.spacing_mm).all():
      found["spacing_mm"] = self.spacing_mm
    return dataclasses.replace(sample, **found)


def _read_mask(folder: Path, image: Path, shape: tuple[int, int]) -> np.ndarray | None:
  """Labels [H, W] of the PNG of the same name, None if there is none."""
  names = (stem_of(image.as_posix()), stem_of(image.name))
  path = next((p for p in (folder / f"{name}.png" for name in names) if p.is_file()), None)
  if path is None:
    return None
  mask = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
  if mask is None:
    raise Unreadable("has a mask that is not a PNG image")
  if mask.ndim == 3:
    mask = mask[..., :3].max(-1)
  if mask.shape != shape:
    raise Unreadable(f"has a mask of another size ({mask.shape[1]} x {mask.shape[0]})")
  return np.asarray(mask)


def match(mask: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Gives the lesions of a mask the numbers of their boxes.

  A mask with one label is split into its connected parts; one with several is taken as it is. A
  lesion belongs to the box with most of it; where no box has half of it, it gets a new box.

  Args:
    mask: labels [H, W], 0 elsewhere.
    boxes: f32[N, 4] xyxy pixels.

  Returns:
    (uint16[H, W] ids, id = box index + 1; boxes f32[N + new, 4]).
  """
  labels = np.unique(mask[mask > 0])
  if len(labels) == 1:
    count, mask = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)
    labels = np.arange(1, count)
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
