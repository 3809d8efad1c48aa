"""The XML of an LIDC-IDRI reading: what up to four radiologists drew in one CT series.

Points are (column, row) pixel indices. An outline is the ring of the first pixels outside of the
nodule; around a hole ("exclusion") they are no part of the nodule either. A nodule below 3 mm is a
single point. Which of the readers drew the same nodule is not said: names of nodules and of readers
mean nothing beyond their session. Source: the annotated XML of the collection's documentation.
"""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from hiresmed_jax.data.readers.boxes import BadBoxes, parse_xml
from hiresmed_jax.data.readers.guard import foreign
from hiresmed_jax.data.sample import Unreadable

MAX_FILE_BYTES = 1 << 27  # the largest of the collection has 3 MB
MAX_SIDE = 1 << 15  # pixels of a slice

_RADIOGRAPH = "idrireadmessage"


class Contour(NamedTuple):
  """An outline in one slice.

  Attributes:
    sop_uid: SOP instance UID of the slice, "" when it is not said.
    z: z position of the slice in mm, NaN when it is not said.
    inclusion: False for a hole: what it encloses is no part of the nodule.
    points: int32[N, 2] (column, row), in order; the first is often repeated as the last.
  """

  sop_uid: str
  z: float
  inclusion: bool
  points: np.ndarray

  @property
  def is_point(self) -> bool:
    """Whether it encloses nothing: a mark of a nodule below 3 mm."""
    return len(np.unique(self.points, axis=0)) < 3


class Reading(NamedTuple):
  """All readers' marks in one series.

  Attributes:
    series_uid: series instance UID.
    readers: per reader, per nodule, its contours. A reader who found nothing has no nodules.
    non_nodules: marks of other things (scars, and the like), of all readers: places alone.
  """

  series_uid: str
  readers: tuple[tuple[tuple[Contour, ...], ...], ...]
  non_nodules: tuple[Contour, ...]


def read(path: Path) -> Reading:
  """Reads the message of one CT series.

  Raises:
    Unreadable: not such XML, a document type declaration, the reading of a radiograph, no series,
      or a contour that makes no sense. No reason quotes the file.
  """
  with foreign("cannot be opened"):
    if path.stat().st_size > MAX_FILE_BYTES:
      raise Unreadable(f"is XML of more than {MAX_FILE_BYTES >> 20} MB")
    data = path.read_bytes()
  try:
    root = parse_xml(data)
  except BadBoxes as error:
    raise Unreadable(str(error)) from None
  if _name(root) == _RADIOGRAPH:
    raise Unreadable("is the reading of a radiograph, not of a CT series")
  if _name(root) != "lidcreadmessage":
    raise Unreadable("is XML, but no LIDC reading")
  header = next(_children(root, "responseheader"), root)
  series = _text(header, "seriesinstanceuid")
  if not series:
    raise Unreadable("is an LIDC reading that does not say of which series")
  sessions = list(_children(root, "readingsession"))
  return Reading(
    series,
    tuple(tuple(map(_nodule, _children(s, "unblindedreadnodule"))) for s in sessions),
    tuple(_contour(mark, "locus") for s in sessions for mark in _children(s, "nonnodule")),
  )


def is_reading(path: Path) -> bool:
  """Whether an XML file looks like an LIDC reading, from its first bytes."""
  try:
    with path.open("rb") as file:
      return b"LidcReadMessage" in file.read(4096)
  except OSError:
    return False


def _nodule(element: Element) -> tuple[Contour, ...]:
  return tuple(_contour(roi, "edgemap") for roi in _children(element, "roi"))


def _contour(element: Element, points: str) -> Contour:
  found = [(_pixel(edge, "xcoord"), _pixel(edge, "ycoord")) for edge in _children(element, points)]
  if not found:
    raise Unreadable("is an LIDC reading with a contour without points")
  inclusion = _text(element, "inclusion").upper()
  if inclusion not in ("", "TRUE", "FALSE"):
    raise Unreadable("is an LIDC reading with a contour that is neither inclusion nor exclusion")
  try:
    z = float(_text(element, "imagezposition") or math.nan)
  except ValueError:
    z = math.nan
  uid = _text(element, "imagesop_uid")
  if not uid and not math.isfinite(z):
    raise Unreadable("is an LIDC reading with a contour on no slice")
  return Contour(uid, z, inclusion != "FALSE", np.array(found, np.int32))


def _pixel(element: Element, name: str) -> int:
  try:
    value = float(_text(element, name))
  except ValueError:
    value = math.nan
  if not (0 <= value < MAX_SIDE and value == int(value)):
    raise Unreadable("is an LIDC reading with a point that is no pixel")
  return int(value)


def _name(element: Element) -> str:
  """Without its namespace and in small letters: messages differ in both."""
  return element.tag.rpartition("}")[2].lower()


def _children(element: Element, name: str) -> "filter[Element]":
  return filter(lambda child: _name(child) == name, element)


def _text(element: Element, name: str) -> str:
  child = next(_children(element, name), None)
  return (child.text or "").strip() if child is not None else ""
