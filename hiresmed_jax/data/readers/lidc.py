"""LIDC-IDRI: CT series in DICOM with their readers' XML, or slices with masks (`lidc_slices`).

A series and its XML are matched by the series' UID, a contour and its slice by the slice's UID,
else by the z position. There is one sample for each slice with a nodule.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom

from hiresmed_jax.data.readers import dicom, lidc_readings, lidc_slices
from hiresmed_jax.data.readers import dicom_header as header
from hiresmed_jax.data.readers.boxes import tight_boxes
from hiresmed_jax.data.readers.guard import check_file, check_size, or_unreadable
from hiresmed_jax.data.readers.lidc_readings import Contour, Reading, agreed, enclosed, lesion_mask
from hiresmed_jax.data.sample import Sample, Unreadable

AGREE = 2  # readers of four, the consensus of most studies

Refuse = Callable[[Path, object], None]
Advance = Callable[[], None]

_SAME_Z = 0.05  # mm: positions are written with few digits
_KEYWORDS = [
  *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns"),
  *("ImageType", "ImagePositionPatient", "SliceLocation"),
]


class Slice(NamedTuple):
  """One slice of a series, from its header.

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
    lesion_mask: uint16[H, W], ids from 1; all 0 on a slice without nodules.
  """

  path: Path
  lesion_mask: np.ndarray


def read(
  files: Sequence[Path],
  *,
  root: Path,
  agree: int,
  nodule_free: int,
  refuse: Refuse,
  advance: Advance,
) -> Iterator[Sample]:
  """Samples, with lesion mask and tight boxes, of the slices with a nodule and some without.

  Args:
    files: DICOM slices and readers' XML, or PNG and .npy slices with masks, or both. All but the
      XML lie below `root`.
    root: folder that `source` is relative to.
    agree: readers who must agree on a pixel.
    nodule_free: slices without a nodule to add per DICOM series; of PNG and .npy all are read.
    refuse: called with the path and the reason for each file that is not used, or not wholly.
    advance: called after each file.
  """
  xml = [path for path in files if path.suffix.lower() == ".xml"]
  cut = [path for path in files if path.suffix.lower() in lidc_slices.SUFFIXES]
  known = {*xml, *cut}
  readings = _readings(_each(xml, advance), refuse)
  series = series_of(_each([path for path in files if path not in known], advance), refuse)
  for uid, slices in series.items():
    if uid in readings:
      yield from _series(slices, *readings[uid], root, agree, nodule_free, refuse)
    else:
      refuse(slices[0].path, "is of a series without a reading")
  for uid, (path, _) in readings.items():
    if uid not in series:
      refuse(path, "is the reading of a series that is not there")
  pairs = lidc_slices.pairs(cut, root, refuse)
  for _ in range(len(cut) - len(pairs)):  # masks, and what was refused
    advance()
  for _, patient in itertools.groupby(pairs, key=lambda pair: pair.patient):
    group = list(patient)
    yield from lidc_slices.read_patient(group, root=root, agree=agree, refuse=refuse)
    for _ in group:
      advance()


def _each(files: Iterable[Path], advance: Advance) -> Iterator[Path]:
  for path in files:
    yield path
    advance()


def _readings(files: Iterable[Path], refuse: Refuse) -> dict[str, tuple[Path, Reading]]:
  """Path and content of the readers' XML by series UID."""
  found: dict[str, tuple[Path, Reading]] = {}
  for path in files:
    try:
      reading = lidc_readings.read(path)
    except Unreadable as reason:
      refuse(path, str(reason))
      continue
    if reading.series_uid in found:
      refuse(path, "is a second reading of one series")
    else:
      found[reading.series_uid] = path, reading
  return found


def _series(
  slices: list[Slice],
  path: Path,
  reading: Reading,
  root: Path,
  agree: int,
  nodule_free: int,
  refuse: Refuse,
) -> Iterator[Sample]:
  """The samples of one series; `path` is the file of its reading."""
  try:
    labelled, lost = label(slices, reading, agree=agree, nodule_free=nodule_free)
  except Unreadable as reason:
    refuse(path, str(reason))
    return
  if lost:
    refuse(path, "has contours on slices that are not there")
  if not labelled:
    refuse(path, "has no nodule that enough readers agree on")
  for one in labelled:
    try:
      yield read_slice(one, root=root)
    except Unreadable as reason:
      refuse(one.path, str(reason))


def series_of(files: Iterable[Path], refuse: Refuse) -> dict[str, list[Slice]]:
  """The CT series among DICOM files, by UID, slices in ascending z. Only headers are read.

  Args:
    files: in any order.
    refuse: called with each file that is no slice of a CT series, or is a second copy of one.
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
  # Slices without a position (NaN) come last.
  return {
    uid: sorted(slices.values(), key=lambda s: (math.isnan(s.z), s.z))
    for uid, slices in found.items()
  }


def _slice(path: Path) -> tuple[str, Slice]:
  check_file(path)
  with or_unreadable("is not a DICOM file"):
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_KEYWORDS)
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
  """z of the slice in patient coordinates (mm), else its slice location, else NaN."""
  for keyword, index in (("ImagePositionPatient", 2), ("SliceLocation", 0)):
    try:
      with or_unreadable(""):
        value = dataset.get(keyword)
        numbers = [float(v) for v in (value if index else [value])]
        if len(numbers) > index and math.isfinite(numbers[index]):
          return numbers[index]
    except Unreadable:
      continue
  return math.nan


def label(
  slices: list[Slice], reading: Reading, *, agree: int = AGREE, nodule_free: int = 0
) -> tuple[list[Labelled], int]:
  """The slices of a series that become samples.

  A pixel belongs to a nodule when at least `agree` readers enclosed it. Nodules below 3 mm, which
  are points, and non-nodules give no mask.

  Args:
    slices: of one series, from `series_of`.
    reading: of that series.
    agree: readers who must agree.
    nodule_free: slices to add on which no reader marked a nodule of any size, spread evenly; none
      on which a contour may lie whose slice is not known.

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
  touched = {int(n) for one in nodules for n in np.unique(one // (shape[0] * shape[1]))}
  lost = [c.z for reader in placed for nodule in reader for number, c in nodule if number is None]
  unsure = {n for n, one in enumerate(slices) if any(abs(one.z - z) <= _SAME_Z for z in lost)}
  chosen = (touched - unsure) | _spread(len(slices), set(marks) | unsure, nodule_free)
  labelled = [Labelled(slices[n].path, lesion_mask(nodules, n, shape)) for n in sorted(chosen)]
  return labelled, marks.count(None)


def _finder(slices: list[Slice]) -> Callable[[Contour], int | None]:
  """A function from a contour to the number of its slice; None if missing or ambiguous."""
  by_uid = {one.sop_uid: number for number, one in enumerate(slices)}
  positions = np.array([one.z for one in slices])

  def find(contour: Contour) -> int | None:
    if contour.sop_uid in by_uid:
      return by_uid[contour.sop_uid]
    near = np.flatnonzero(np.abs(positions - contour.z) <= _SAME_Z)
    return int(near[0]) if len(near) == 1 else None

  return find


def _spread(count: int, marked: set[int | None], number: int) -> set[int]:
  unmarked = [n for n in range(count) if n not in marked]
  if not unmarked or number < 1:
    return set()
  at = (np.arange(number) + 0.5) * len(unmarked) / number
  return {unmarked[int(i)] for i in at}


def read_slice(labelled: Labelled, *, root: Path | None = None) -> Sample:
  """The sample of `dicom.read` with the nodules of the slice and their tight boxes.

  Raises:
    Unreadable: pixels that cannot be decoded, or several frames.
  """
  samples = list(dicom.read(labelled.path, root=root))
  if len(samples) != 1 or samples[0].image.shape[:2] != labelled.lesion_mask.shape:
    raise Unreadable("holds several images, not one slice")
  mask = labelled.lesion_mask
  return dataclasses.replace(samples[0], lesion_mask=mask, boxes=tight_boxes(mask), labelled=True)
