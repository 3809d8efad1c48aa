"""DICOM images, decoded by pydicom and its plugins: one sample a frame.

Stored values stay as they are: MONOCHROME1 is noted, not inverted; the VOI window is noted, not
applied. Both take effect when an image is loaded.
"""

import math
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
  ExplicitVRBigEndian,
  ExplicitVRLittleEndian,
  ImplicitVRLittleEndian,
  JPEGBaseline8Bit,
  JPEGExtended12Bit,
)

from hiresmed_jax.data.readers import dicom_header as header
from hiresmed_jax.data.readers.guard import (
  PIXEL_KEYWORDS,
  check_file,
  check_pixels,
  mended_jpeg,
  or_unreadable,
)
from hiresmed_jax.data.sample import LeftOut, Sample, Unreadable
from hiresmed_jax.data.stored import (
  CT_RANGE,
  full_range,
  increasing,
  rescale_with,
  source_of,
  to_stored,
  with_channels,
)

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom gives RGB of these
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_WITHOUT_PIXELS = ("SR", "PR", "KO", "DOC", "REG", "AU", "PLAN")
_RADIOTHERAPY = "1.2.840.10008.5.1.4.1.1.481."


def read(
  path: Path, *, root: Path | None = None, keep: Collection[str] = header.LEFT_OUT
) -> Iterator[Sample]:
  """The frames of one DICOM file.

  Args:
    path: a DICOM file, with or without preamble, whatever its name.
    root: folder that `source` (and the group of a file without identity) is relative to.
    keep: kinds of `dicom_header.LEFT_OUT` that are read.

  Yields:
    Sample per frame, `source` ending in `#index` where there are several. The group is the
    PatientID, else the study's or series' UID, else the folder. A modality LUT is applied (slope 1
    then); 32-bit and floating pixels are requantised to 16 bits with the slope adjusted; palette
    and YBR become RGB. A window that misses the pixels is not used, and noted.

  Raises:
    LeftOut: a kind that is not in `keep`.
    Unreadable: no image, damaged, undecodable, or larger than its bytes allow. A later frame can
      raise it after earlier ones were yielded. No reason quotes the header.
  """
  check_file(path)
  dataset = _opened(path)
  notes = tuple(_notes(dataset, keep))
  check_pixels(dataset)
  source, folder = source_of(path, root), header.folder_of(path, root)
  count = int(dataset.get("NumberOfFrames") or 1)
  many = count > 1
  syntax = dataset.file_meta.TransferSyntaxUID
  coding = syntax.name if not syntax.is_private else "a private coding"
  frames = iter_pixels(dataset)
  for index in range(count):  # there may be more bytes than frames
    with or_unreadable(f"has pixels that cannot be decoded ({coding})"):
      try:
        pixels = next(frames, None)
      except Exception:  # whatever a decoder raises
        if index or syntax not in (JPEGBaseline8Bit, JPEGExtended12Bit):
          raise
        frames = _mended(dataset, count)
        pixels = next(frames)
    if pixels is None:
      break
    name = f"{source}#{index}" if many else source
    group = header.group_of(dataset, folder)
    yield _sample(dataset, pixels, index, source=name, group=group, notes=notes)


def _notes(dataset: Dataset, keep: Collection[str]) -> Iterator[str]:
  """What a user should know of the file; fills in what its header lacks.

  Raises:
    LeftOut: a kind that is not in `keep`.
    Unreadable: an attribute is missing that cannot be filled in.
  """
  found = header.left_out(dataset)
  if found is None and header.is_capture(dataset):
    found = "captures", "is a secondary capture among other images"
  if found is not None and found[0] not in keep:
    raise LeftOut(f"{found[1]} (--keep {found[0]})")
  keyword = next(keyword for keyword in PIXEL_KEYWORDS if keyword in dataset)
  filled = header.complete(dataset, keyword)
  if filled:
    yield f"its header lacks {', '.join(filled)}: the obvious values were taken"
  if keyword == "PixelData":
    with or_unreadable("declares the size of its image in a way that is not understood"):
      moved = header.align(dataset)
    if moved:
      yield "its pixels lay in the upper bits, as its header says: they were moved down"
  if header.is_tilted(dataset):
    yield "taken with a tilted gantry: the slices are sheared"


def _mended(dataset: Dataset, count: int) -> Iterator[np.ndarray]:
  """The frames of sequential JPEGs whose scan headers are mended first."""
  frames = generate_frames(dataset.PixelData, number_of_frames=count)
  dataset.PixelData = encapsulate([mended_jpeg(frame) for frame in frames])
  return iter_pixels(dataset)


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
  if not keywords and modality in _WITHOUT_PIXELS:
    raise LeftOut("is a report, a presentation state or a document, not an image")
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


def _sample(
  dataset: Dataset,
  pixels: np.ndarray,
  index: int,
  *,
  source: str,
  group: str,
  notes: tuple[str, ...],
) -> Sample:
  photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
  physics = header.physics_of(dataset, index)
  bits = 0
  if photometric in _GREY:
    raw, possible = _modality_values(dataset, pixels)
    lut = _has_lut(dataset)
    slope, intercept = (1.0, 0.0) if lut else header.rescale_of(dataset, index)
    low, high = (slope * end + intercept for end in possible)
    possible = increasing(low, high)
    bits = 0 if lut or pixels.dtype.itemsize > 2 else int(dataset.get("BitsStored") or 16)
    shown = CT_RANGE if physics == "ct" else possible
    windows = header.windows_of(dataset, index, signed=possible[0] < 0)
    if windows:
      shown, why = header.shown_by(windows, shown, _few(raw) * slope + intercept, physics, bits)
      notes = (*notes, *why)
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
    bits_stored=bits,
    notes=notes,
  )


def _few(raw: np.ndarray) -> np.ndarray:
  """Some 65,000 pixels, spread evenly, f64."""
  step = max(1, math.isqrt(raw.size >> 16))
  return raw[::step, ::step].astype(np.float64)


def _has_lut(dataset: Dataset) -> bool:
  """Whether there is a modality LUT. An item without a table is none."""
  items = dataset.get("ModalityLUTSequence")
  return bool(items) and "LUTDescriptor" in items[0] and "LUTData" in items[0]


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
