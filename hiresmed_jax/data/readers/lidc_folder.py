"""A folder of LIDC-IDRI, as it comes from the archive or as slices that others cut out of it."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from hiresmed_jax.data.readers import lidc, lidc_slices, lidc_xml
from hiresmed_jax.data.sample import Sample, Unreadable

Refuse = Callable[[Path, str], None]
Advance = Callable[[], None]


def read(
  files: Sequence[Path], *, root: Path, agree: int, free: int, refuse: Refuse, advance: Advance
) -> Iterator[Sample]:
  """Every slice with a nodule, and some without.

  Args:
    files: DICOM slices and readers' XML, or PNG and .npy slices with masks (see `lidc_slices`), or
      both. All but the XML lie below `root`.
    root: folder that `source` is relative to.
    agree: readers who must agree on a pixel.
    free: slices without any nodule to add per DICOM series; of the other layouts all come.
    refuse: called with each file that gives nothing, or not all it holds, and the reason.
    advance: called for each file once it is looked at.

  Yields:
    Sample with lesion mask and tight boxes, see `lidc` and `lidc_slices`; `source` is the path of
    its file below `root`.
  """
  xml = [path for path in files if path.suffix.lower() == ".xml"]
  cut = [path for path in files if path.suffix.lower() in lidc_slices.SUFFIXES]
  known = {*xml, *cut}
  dicom = [path for path in files if path not in known]
  yield from _series(xml, dicom, root, agree, free, refuse, advance)
  yield from _slices(cut, root, agree, refuse, advance)


def _series(
  xml: list[Path],
  dicom: list[Path],
  root: Path,
  agree: int,
  free: int,
  refuse: Refuse,
  advance: Advance,
) -> Iterator[Sample]:
  readings: dict[str, tuple[Path, lidc_xml.Reading]] = {}
  for path in _told(xml, advance):
    try:
      reading = lidc_xml.read(path)
    except Unreadable as reason:
      refuse(path, str(reason))
      continue
    if reading.series_uid in readings:
      refuse(path, "is a second reading of one series")
    else:
      readings[reading.series_uid] = path, reading
  series = lidc.series_of(_told(dicom, advance), refuse)
  for uid, slices in series.items():
    if uid not in readings:
      refuse(slices[0].path, "is of a series without a reading")
      continue
    path, reading = readings[uid]
    try:
      labelled, lost = lidc.label(slices, reading, agree=agree, free=free)
    except Unreadable as reason:
      refuse(path, str(reason))
      continue
    if lost:
      refuse(path, "has contours on slices that are not there")
    if not labelled:
      refuse(path, "has no nodule that enough readers agree on")
    for one in labelled:
      try:
        yield lidc.read(one, root=root)
      except Unreadable as reason:
        refuse(one.path, str(reason))
  for uid, (path, _) in readings.items():
    if uid not in series:
      refuse(path, "is the reading of a series that is not there")


def _slices(
  files: list[Path], root: Path, agree: int, refuse: Refuse, advance: Advance
) -> Iterator[Sample]:
  pairs = lidc_slices.pairs(files, root, refuse)
  for _ in range(len(files) - len(pairs)):  # masks, and what was refused
    advance()
  for _, patient in itertools.groupby(pairs, key=lambda pair: pair.patient):
    group = list(patient)
    yield from lidc_slices.read_patient(group, root=root, agree=agree, refuse=refuse)
    for _ in group:
      advance()


def _told(files: Iterable[Path], advance: Advance) -> Iterator[Path]:
  for path in files:
    yield path
    advance()
