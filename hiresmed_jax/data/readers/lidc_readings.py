"""LIDC-IDRI readings: the XML of what up to four radiologists drew, and the mask of consensus."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import cv2
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from hiresmed_jax.data.readers.guard import or_unreadable, read_file
from hiresmed_jax.data.readers.text import BadBoxes, parse_xml
from hiresmed_jax.data.sample import Unreadable

MAX_FILE_BYTES = 1 << 27  # the largest of the collection has 3 MB
MAX_SIDE = 1 << 15  # pixels of a slice

_RADIOGRAPH = "idrireadmessage"
_CRUMB = 0.1  # of a nodule's largest part in a slice: smaller parts are where outlines barely meet


class Contour(NamedTuple):
  """An outline in one slice.

  Attributes:
    sop_uid: SOP instance UID of the slice, "" when unknown.
    z: z position of the slice in mm, NaN when unknown.
    inclusion: False for a hole in the nodule.
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
  """All readers' nodules in one series.

  Attributes:
    series_uid: series instance UID.
    readers: per reader, per nodule, its contours. A reader who found nothing has no nodules.
  """

  series_uid: str
  readers: tuple[tuple[tuple[Contour, ...], ...], ...]


def read(path: Path) -> Reading:
  """Reads the XML of one CT series.

  Raises:
    Unreadable: not such XML, a document type declaration, the reading of a radiograph, no series,
      or an invalid contour. No reason quotes the file.
  """
  with or_unreadable("cannot be opened"):
    data = read_file(path, MAX_FILE_BYTES)
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
  sessions = _children(root, "readingsession")
  return Reading(
    series, tuple(tuple(map(_nodule, _children(s, "unblindedreadnodule"))) for s in sessions)
  )


def is_reading(path: Path) -> bool:
  """Whether an XML file looks like an LIDC reading, from its first bytes."""
  if not path.is_file():
    return False
  try:
    with path.open("rb") as file:
      return b"LidcReadMessage" in file.read(4096)
  except OSError:
    return False


def _nodule(element: Element) -> tuple[Contour, ...]:
  return tuple(map(_contour, _children(element, "roi")))


def _contour(element: Element) -> Contour:
  edges = _children(element, "edgemap")
  found = [(_pixel(edge, "xcoord"), _pixel(edge, "ycoord")) for edge in edges]
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
  """The tag without its namespace and in small letters, since files differ in both."""
  return element.tag.rpartition("}")[2].lower()


def _children(element: Element, name: str) -> "filter[Element]":
  return filter(lambda child: _name(child) == name, element)


def _text(element: Element, name: str) -> str:
  child = next(_children(element, name), None)
  return (child.text or "").strip() if child is not None else ""


def interior(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The pixels that an outline encloses, without the outline itself.

  Args:
    points: int32[N, 2] (column, row) in order, closed or not; steps of more than a pixel are
      bridged by straight lines.

  Returns:
    (inside bool[h, w], corner (row, column) of that window in the slice).
  """
  low = points.min(0)
  size = points.max(0) - low + 1
  ring = np.zeros(size[::-1], np.uint8)
  cv2.polylines(ring, [(points - low).reshape(-1, 1, 2)], isClosed=True, color=1, lineType=8)
  return ndimage.binary_fill_holes(ring) & (ring == 0), low[::-1].astype(np.int64)


def enclosed(contours: Iterable[tuple[int, Contour]], shape: tuple[int, int]) -> np.ndarray:
  """The voxels of one reader's nodule: inside its outlines, and neither inside nor on its holes.

  Args:
    contours: each with the number of its slice.
    shape: (H, W).

  Returns:
    int64[n], sorted.

  Raises:
    Unreadable: an outline that leaves the slice.
  """
  inside, outside = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
  for number, contour in contours:
    if contour.is_point:
      continue
    if (contour.points >= shape[::-1]).any():
      raise Unreadable("is an LIDC reading with a contour outside of its slice")
    mask, corner = interior(contour.points)
    if contour.inclusion:
      inside.append(_voxels(np.argwhere(mask) + corner, number, shape))
    else:
      outside.append(_voxels(np.argwhere(mask) + corner, number, shape))
      outside.append(_voxels(contour.points[:, ::-1].astype(np.int64), number, shape))
  return np.setdiff1d(np.concatenate(inside), np.concatenate(outside))


def _voxels(rows_columns: np.ndarray, number: int, shape: tuple[int, int]) -> np.ndarray:
  return (number * shape[0] + rows_columns[:, 0]) * shape[1] + rows_columns[:, 1]


def agreed(drawn: Sequence[Sequence[np.ndarray]], least: int) -> list[np.ndarray]:
  """Matches the readers' nodules and keeps the voxels that enough readers enclosed.

  Drawings that share a voxel, directly or by way of others, are of one nodule. A reader counts once
  at a voxel, however many drawings enclose it.

  Args:
    drawn: per reader, per drawing, sorted voxels.
    least: readers who must have enclosed a voxel.

  Returns:
    The voxels int64[n] of each nodule, sorted, maybe none; nodules by their first drawn voxel.
  """
  drawings = [(r, voxels) for r, one in enumerate(drawn) for voxels in one if len(voxels)]
  if not drawings:
    return []
  owners = np.repeat(np.arange(len(drawings)), [len(v) for _, v in drawings])
  known, columns = np.unique(np.concatenate([v for _, v in drawings]), return_inverse=True)
  touches = sparse.coo_array(
    (np.ones(len(owners), np.int32), (owners, columns)), shape=(len(drawings), len(known))
  ).tocsr()
  count, labels = connected_components(touches @ touches.T, directed=False)
  nodules = []
  for label in range(count):
    by_reader: dict[int, list[np.ndarray]] = {}
    for (reader, voxels), one in zip(drawings, labels):
      if one == label:
        by_reader.setdefault(reader, []).append(voxels)
    votes = np.concatenate([np.unique(np.concatenate(one)) for one in by_reader.values()])
    voxels, counts = np.unique(votes, return_counts=True)
    nodules.append((int(voxels[0]), voxels[counts >= least]))
  return [nodule for _, nodule in sorted(nodules, key=lambda pair: pair[0])]


def lesion_mask(nodules: Iterable[np.ndarray], number: int, shape: tuple[int, int]) -> np.ndarray:
  """The nodules in one slice: uint16[H, W] ids from 1, 0 elsewhere.

  Each connected part of a nodule in the slice is a lesion of its own; tiny parts are left out.
  """
  ids = np.zeros(shape, np.uint16)
  size = shape[0] * shape[1]
  for nodule in nodules:
    first, last = np.searchsorted(nodule, [number * size, (number + 1) * size])
    if first == last:
      continue
    mask = np.zeros(size, np.uint8)
    mask[nodule[first:last] - number * size] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.reshape(shape), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    for part in range(1, count):
      if areas[part - 1] >= _CRUMB * areas.max():
        ids[labels == part] = int(ids.max()) + 1
  return ids
