"""A small LIDC-IDRI series with nodules known beforehand, for the tests beside this file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.data.readers.dicom_files import dataset, save

SERIES = "1.2.826.0.1.3680043.8.498.1"
Roi = tuple[int, np.ndarray, bool]  # number of the slice, points (column, row), inclusion


def outline(mask: np.ndarray) -> np.ndarray:
  """The ring of the first pixels outside of a mask without holes, in order: what a reader draws."""
  cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
  return rim(cv2.dilate(mask.astype(np.uint8), cross))


def rim(mask: np.ndarray) -> np.ndarray:
  """The outermost pixels of a mask, in order; the first again at the end."""
  (points,), _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
  points = points[:, 0]
  return np.concatenate([points, points[:1]])


def disc(shape: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
  rows, columns = np.mgrid[: shape[0], : shape[1]]
  return np.hypot(rows - row, columns - column) <= radius


def uid(number: int, series: str = SERIES) -> str:
  return f"{series}.{number + 1}"


def write_slice(path: Path, number: int, z: float, **elements: Any) -> Path:
  pixels = np.full((40, 48), number - 1000, np.int16)
  known = {
    "SeriesInstanceUID": SERIES, "SOPInstanceUID": uid(number), "PixelSpacing": [0.5, 0.8],
    "ImagePositionPatient": [-100.0, -90.0, z], "InstanceNumber": 100 - number,
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
  }  # fmt: skip
  return save(path, dataset(pixels, **{**known, **elements}))


def write_series(folder: Path, positions: Sequence[float] = range(0, 60, 5)) -> list[Path]:
  """Slices whose names are in another order than their z."""
  folder.mkdir(parents=True, exist_ok=True)
  order = np.random.default_rng(0).permutation(len(positions))
  return [write_slice(folder / f"{order[n]:03d}.dcm", n, float(z)) for n, z in enumerate(positions)]


def nodule(rois: Iterable[Roi], *, uids: bool = True, name: str = "Nodule 001") -> str:
  body = "".join(
    f"<roi><imageZposition>{5.0 * number:.6f} </imageZposition>"
    f"<imageSOP_UID>{uid(number) if uids else '9.9.9'}</imageSOP_UID>"
    f"<inclusion>{str(inclusion).upper()}</inclusion>"
    + "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    + "</roi>"
    for number, points, inclusion in rois
  )
  return f"<unblindedReadNodule><noduleID>{name}</noduleID>{body}</unblindedReadNodule>"


def message(
  readers: Iterable[Sequence[str]],
  *,
  series: str = SERIES,
  namespace: str = 'xmlns="http://www.nih.gov"',
) -> str:
  """All readers have the same id, as in more than half of the real files."""
  sessions = "".join(
    "<readingSession><servicingRadiologistID>0</servicingRadiologistID>"
    + "".join(marks)
    + "</readingSession>"
    for marks in readers
  )
  return (
    f'<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage {namespace}><ResponseHeader>'
    f"<SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>{sessions}</LidcReadMessage>"
  )


def point(number: int, x: int, y: int) -> str:
  """A nodule below 3 mm."""
  return nodule([(number, np.array([[x, y]]), True)])


def other(number: int, x: int, y: int) -> str:
  return (
    f"<nonNodule><nonNoduleID>7</nonNoduleID><imageZposition>{5.0 * number}</imageZposition>"
    f"<imageSOP_UID>{uid(number)}</imageSOP_UID>"
    f"<locus><xCoord>{x}</xCoord><yCoord>{y}</yCoord></locus></nonNodule>"
  )
