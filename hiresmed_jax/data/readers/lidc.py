"""LIDC-IDRI: series of CT slices in DICOM and their readers' XML, one sample a slice with a nodule.

The two find each other by the series' UID, wherever the files lie; contours find their slice by its
UID, else by its z position. Slices are in order of z, whatever their names and numbers say.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from scipy import ndimage

from hiresmed_jax.data.readers import dicom
from hiresmed_jax.data.readers import dicom_header as header
from hiresmed_jax.data.readers.guard import check_file, check_size, foreign
from hiresmed_jax.data.readers.lidc_readings import Contour, Reading, agreed, enclosed, lesion_mask
from hiresmed_jax.data.sample import Sample, Unreadable

AGREE = 2  # readers of four: half of them, which is what most studies call consensus

_SAME_Z = 0.05  # mm: positions are written with few digits
_KEYWORDS = (
  *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns"),
  *(
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceLocation",
    "PixelSpacing",
  ),
)


class Slice(NamedTuple):
  """One slice of a series, its pixels unread.

  Attributes:
    path: of its file.
    sop_uid: SOP instance UID.
    z: position in mm, NaN when unknown.
    shape: (H, W).
  """

  path: Path
  sop_uid: str
  z: float
  shape: tuple[int, int]


class Labelled(NamedTuple):
  """A slice and the nodules in it.

  Attributes:
    path: of the slice.
    lesion_mask: uint16[H, W], ids from 1; all 0 on a slice on which no reader marked anything.
  """

  path: Path
  lesion_mask: np.ndarray


def series_of(files: Iterable[Path], refuse: Callable[[Path, str], None]) -> dict[str, list[Slice]]:
  """The CT series among DICOM files, by UID, slices in ascending z; only headers are read.

  Args:
    files: in any order.
    refuse: called with each file that is no slice of a CT series, or a second copy of one.
  """
  found: dict[str, dict[str, Slice]] = {}
  for path in files:
    try:
      uid, one = _slice(path)
    except Unreadable as reason:
      refuse(path, str(reason))
      continue
    slices = found.setdefault(uid, {})
    if one.sop_uid in slices:
      refuse(path, "is a second copy of a slice")
      continue
    slices[one.sop_uid] = one
  # NaN last: such slices are found by their UID alone.
  return {
    uid: sorted(slices.values(), key=lambda s: (math.isnan(s.z), s.z))
    for uid, slices in found.items()
  }


def _slice(path: Path) -> tuple[str, Slice]:
  check_file(path)
  with foreign("is not a DICOM file"):
    dataset = pydicom.dcmread(
      path, force=True, stop_before_pixels=True, specific_tags=list(_KEYWORDS)
    )
    series, sop = (str(dataset.get(k, "")) for k in ("SeriesInstanceUID", "SOPInstanceUID"))
    shape = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    modality, kind = header.modality_of(dataset), list(dataset.get("ImageType") or ())
    known = bool(dataset)
  if not known:
    raise Unreadable("is not a DICOM file")
  if modality != "CT" or "LOCALIZER" in kind:
    raise Unreadable("is no slice of a CT series")
  if not series or not sop:
    raise Unreadable("does not say which slice of which series it is")
  check_size(*shape, 2)
  return series, Slice(path, sop, _position(dataset), shape)


def _position(dataset: pydicom.Dataset) -> float:
  """z in patient coordinates (mm), which the readers' z is; the slice location stands in for it."""
  for keyword, index in (("ImagePositionPatient", 2), ("SliceLocation", 0)):
    try:
      with foreign(""):
        value = dataset.get(keyword)
        numbers = [float(v) for v in (value if index else [value])]
        if len(numbers) > index and math.isfinite(numbers[index]):
          return numbers[index]
    except Unreadable:
      continue
  return math.nan


def label(
  slices: list[Slice], reading: Reading, *, agree: int = AGREE, free: int = 0
) -> tuple[list[Labelled], int]:
  """The slices of a series that become samples.

  A pixel belongs to a nodule when at least `agree` readers enclosed it. Nodules below 3 mm, which
  are points, and non-nodules give no mask.

  Args:
    slices: of one series, as `series_of` gives them.
    reading: of that series.
    agree: readers who must agree.
    free: how many slices without any reader's nodule to add, spread evenly over the series; a slice
      with a nodule that too few agreed on, or with one below 3 mm, is never among them.

  Returns:
    (slices in order of z, number of contours on slices that are not there).

  Raises:
    Unreadable: slices of several sizes, or a contour that leaves its slice.
  """
  if len({one.shape for one in slices}) > 1:
    raise Unreadable("is a series with slices of several sizes")
  shape = slices[0].shape
  find = _finder(slices)
  placed = [
    [[(find(contour), contour) for contour in nodule] for nodule in reader]
    for reader in reading.readers
  ]
  marks = [number for reader in placed for nodule in reader for number, _ in nodule]
  drawn = [
    [enclosed(((n, c) for n, c in nodule if n is not None), shape) for nodule in reader]
    for reader in placed
  ]
  nodules = agreed(drawn, agree)
  touched = {int(n) for one in nodules for n in np.unique(one.voxels // (shape[0] * shape[1]))}
  chosen = touched | _spread(len(slices), set(marks), free)
  labelled = [Labelled(slices[n].path, lesion_mask(nodules, n, shape)) for n in sorted(chosen)]
  return labelled, marks.count(None)


def _finder(slices: list[Slice]) -> Callable[[Contour], int | None]:
  """Finds the number of a contour's slice; None when it is not there or cannot be told."""
  by_uid = {one.sop_uid: number for number, one in enumerate(slices)}
  positions = np.array([one.z for one in slices])

  def find(contour: Contour) -> int | None:
    if contour.sop_uid in by_uid:
      return by_uid[contour.sop_uid]
    near = np.flatnonzero(np.abs(positions - contour.z) <= _SAME_Z)
    return int(near[0]) if len(near) == 1 else None  # two slices at one z: it could be either

  return find


def _spread(count: int, marked: set[int | None], number: int) -> set[int]:
  unmarked = [n for n in range(count) if n not in marked]
  if not unmarked or number < 1:
    return set()
  at = (np.arange(number) + 0.5) * len(unmarked) / number
  return {unmarked[int(i)] for i in at}


def tight_boxes(mask: np.ndarray) -> np.ndarray:
  """f32[N, 4] xyxy pixels around the ids 1 to N of a mask [H, W]."""
  found = ndimage.find_objects(mask)
  boxes = [(x.start, y.start, x.stop, y.stop) for y, x in found]
  return np.array(boxes, np.float32).reshape(-1, 4)


def read(labelled: Labelled, *, root: Path | None = None) -> Sample:
  """The slice with its labels: group, HU, window and spacing as `dicom.read` has them, tight boxes.

  Raises:
    Unreadable: pixels that cannot be decoded, or several frames.
  """
  samples = list(dicom.read(labelled.path, root=root))
  if len(samples) != 1 or samples[0].image.shape[:2] != labelled.lesion_mask.shape:
    raise Unreadable("holds several images, not one slice")
  mask = labelled.lesion_mask
  return dataclasses.replace(samples[0], lesion_mask=mask, boxes=tight_boxes(mask))
