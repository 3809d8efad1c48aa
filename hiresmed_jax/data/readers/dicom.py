"""DICOM images, decoded by pydicom and its plugins: one sample a frame.

Stored values stay as they are: MONOCHROME1 is noted, not inverted; the VOI window is noted, not
applied. Both take effect when an image is loaded.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
  ExplicitVRBigEndian,
  ExplicitVRLittleEndian,
  ImplicitVRLittleEndian,
)

from hiresmed_jax.data.readers import dicom_header as header
from hiresmed_jax.data.readers.guard import PIXEL_KEYWORDS, check_file, check_pixels, or_unreadable
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.data.stored import (
  full_range,
  rescale_with,
  source_of,
  to_stored,
  with_channels,
)

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom gives RGB of these
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."


def read(path: Path, *, root: Path | None = None) -> Iterator[Sample]:
  """The frames of one DICOM file.

  Args:
    path: a DICOM file, with or without preamble, whatever its name.
    root: folder that `source` (and the group of a file without identity) is relative to.

  Yields:
    Sample per frame, `source` ending in `#index` where there are several. The group is the
    PatientID, else the study's or series' UID, else the folder. A modality LUT is applied (slope 1
    then); 32-bit and floating pixels are requantised to 16 bits with the slope adjusted; palette
    and YBR become RGB.

  Raises:
    Unreadable: no image, damaged, undecodable, or larger than its bytes allow. A later frame can
      raise it after earlier ones were yielded. No reason quotes the header.
  """
  check_file(path)
  dataset = _opened(path)
  check_pixels(dataset)
  source, folder = source_of(path, root), header.folder_of(path, root)
  many = int(dataset.get("NumberOfFrames") or 1) > 1
  syntax = dataset.file_meta.TransferSyntaxUID
  coding = syntax.name if not syntax.is_private else "a private coding"
  frames = iter_pixels(dataset)
  for index in itertools.count():
    with or_unreadable(f"has pixels that cannot be decoded ({coding})"):
      pixels = next(frames, None)
    if pixels is None:
      break
    name = f"{source}#{index}" if many else source
    yield _sample(dataset, pixels, index, source=name, group=header.group_of(dataset, folder))


def _opened(path: Path) -> Dataset:
  """The parsed file, with a transfer syntax. Raises Unreadable unless it is an image."""
  with or_unreadable("cannot be opened"), path.open("rb") as file:
    marked = file.read(132)[128:] == b"DICM"
  with or_unreadable("has a damaged header" if marked else "is not a DICOM file"):
    dataset = pydicom.dcmread(path, force=True)
    known = marked or "SOPClassUID" in dataset or "Rows" in dataset
    keywords = [keyword for keyword in PIXEL_KEYWORDS if keyword in dataset]
    storage_class = str(dataset.get("SOPClassUID", ""))
    modality = header.modality_of(dataset)
  if not known:
    raise Unreadable("is not a DICOM file")
  if modality == "SEG" or storage_class in _SEGMENTATIONS:
    raise Unreadable("is a segmentation object: labels, not an image")
  if modality.startswith("RT") or storage_class.startswith(_RADIOTHERAPY):
    raise Unreadable("is a radiotherapy object, not an image")
  if not keywords:
    raise Unreadable("holds no pixels, or ends before them")
  with or_unreadable("does not say how its pixels are coded"):
    _settle_transfer_syntax(dataset, keywords[0])
  return dataset


def _settle_transfer_syntax(dataset: Dataset, keyword: str) -> None:
  """Gives a file without a header group the encoding of its other elements."""
  if not hasattr(dataset, "file_meta"):
    dataset.file_meta = FileMetaDataset()
  if syntax := dataset.file_meta.get("TransferSyntaxUID"):
    if not syntax.is_transfer_syntax:
      raise ValueError("not a transfer syntax")
    return
  if dataset[keyword].is_undefined_length:
    raise ValueError("compressed in an unknown way")
  implicit, little = dataset.original_encoding
  explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
  dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _sample(dataset: Dataset, pixels: np.ndarray, index: int, *, source: str, group: str) -> Sample:
  photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
  physics = header.physics_of(dataset, index)
  if photometric in _GREY:
    raw, possible = _modality_values(dataset, pixels)
    slope, intercept = (1.0, 0.0) if _has_lut(dataset) else header.rescale_of(dataset, index)
    low, high = (slope * end + intercept for end in possible)
    possible = (min(low, high), max(low, high))
    shown = header.value_range_of(dataset, index, physics=physics, possible=possible)
  else:
    raw = _colours(dataset, pixels, photometric)
    slope, intercept, shown = 1.0, 0.0, full_range(raw)
  stored, scale, offset = to_stored(raw)
  slope, intercept = rescale_with(slope, intercept, scale, offset)
  image = with_channels(stored)
  if photometric not in _GREY:
    photometric = "RGB" if image.shape[-1] == 3 else "MONOCHROME2"
  return Sample(
    image=image,
    group=group,
    source=source,
    rescale_slope=slope,
    rescale_intercept=intercept,
    value_range=shown,
    photometric=photometric,
    physics=physics,
    spacing_mm=header.spacing_of(dataset, index),
    modality=header.modality_of(dataset),
  )


def _has_lut(dataset: Dataset) -> bool:
  return bool(dataset.get("ModalityLUTSequence"))


def _modality_values(
  dataset: Dataset, pixels: np.ndarray
) -> tuple[np.ndarray, tuple[float, float]]:
  """Grey values after the modality LUT, if there is one, and the range that they can have."""
  wide = pixels.dtype.itemsize > 2 or pixels.dtype.kind == "f"
  bits = int(dataset.get("BitsStored") or 16)
  if wide:
    possible = full_range(pixels)
  elif pixels.dtype.kind == "i":
    possible = (float(-(1 << (bits - 1))), float((1 << (bits - 1)) - 1))
  else:
    possible = (0.0, float((1 << bits) - 1))
  if not _has_lut(dataset):
    return pixels, possible
  with or_unreadable("has a modality LUT that cannot be applied"):
    # int32: the subtraction of the first mapped value would wrap around in 16 bits
    raw = apply_modality_lut(pixels.astype(np.int32), dataset)
    ends = np.arange(int(possible[0]), int(possible[1]) + 1, dtype=np.int32)
    mapped = apply_modality_lut(ends, dataset)
  return raw, (float(mapped.min()), float(mapped.max()))


def _colours(dataset: Dataset, pixels: np.ndarray, photometric: str) -> np.ndarray:
  if photometric == "PALETTE COLOR":
    with or_unreadable("has a palette that cannot be applied"):
      pixels = apply_color_lut(pixels, dataset)
  elif photometric not in _COLOUR:
    raise Unreadable("has colours that are neither grey nor RGB")
  return pixels
