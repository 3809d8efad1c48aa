"""What a DICOM header holds of an image: patient group, modality, unit, scale, range and spacing.

Multi-frame objects keep these in functional groups, one per frame or shared by all: every function
looks in the frame's group first, then in the shared one, then in the top of the header (PS3.3
C.7.6.16).
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi

from hiresmed_jax.data.readers.guard import or_unreadable
from hiresmed_jax.data.sample import Unreadable

PROJECTIONS = ("CR", "DX", "MG", "RF", "XA", "RG", "IO", "PX")

# What `prepare` leaves out of a set unless all of it, or the user, is so.
LEFT_OUT = ("scouts", "captures", "colour")

_AIR_HU = -300.0
_LEAST_MM, _MOST_MM = 1e-4, 100.0  # of a spacing that is meant
_FAR_WIDER = 3.5  # times what pixels can have
_FEW_PIXELS = 32  # of which nothing can be said
_CROSS_SECTIONAL = ("CT", "MR", "PT", "NM")
_SCREENS = {
  *("SCREEN SAVE", "SCREENSAVE", "SCREEN_SAVE", "DOSE", "DOSE_INFO", "DOSE REPORT"),
  *("CT_SOM5 PROT", "CT_SOM7 PROT", "PROT", "PROTOCOL", "REPORT"),
}
_REPORT = re.compile(r"dose|protocol|report|summary|screen ?save", re.IGNORECASE)
_SCOUT = re.compile(r"\b(scout|topogram|scanogram|surview|locali[sz]er)", re.IGNORECASE)
_PIXEL_ATTRIBUTES = (
  *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
  *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_RECONSTRUCTED = _STORAGE + "13.1."  # tomosynthesis and 3D angiography: slices, not projections
_MODALITY_OF_CLASS = {
  "1": "CR", "1.1": "DX", "1.1.1": "DX", "1.2": "MG", "1.2.1": "MG", "2": "CT", "2.1": "CT",
  "4": "MR", "4.1": "MR", "12.1": "XA", "12.1.1": "XA", "12.2": "RF", "12.2.1": "RF",
}  # fmt: skip


def group_of(dataset: Dataset, folder: str) -> str:
  """Raw name of the patient, else of the study, else of the series, else the folder."""
  for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
    name = _text(dataset, keyword)
    if name:
      return name
  return folder


def modality_of(dataset: Dataset) -> str:
  """The declared modality, else the one that the storage class implies, else ""."""
  declared = _text(dataset, "Modality").upper()
  storage_class = _text(dataset, "SOPClassUID").removeprefix(_STORAGE)
  return declared or _MODALITY_OF_CLASS.get(storage_class, "")


def physics_of(dataset: Dataset, frame: int) -> str:
  """How a lesion adds to the image: "ct" for slices in HU, "projection" for radiographs."""
  modality = modality_of(dataset)
  image_type = [str(value).upper() for value in _values(dataset, "ImageType")]
  if modality == "CT" and "LOCALIZER" in image_type:
    return "projection"
  if modality == "CT":
    transformation = _part(dataset, "PixelValueTransformationSequence", frame)
    # Perfusion maps, too, have the modality CT, and another unit.
    return "ct" if _text(transformation, "RescaleType").upper() in ("", "HU") else "none"
  reconstructed = _text(dataset, "SOPClassUID").startswith(_RECONSTRUCTED)
  return "projection" if modality in PROJECTIONS and not reconstructed else "none"


def rescale_of(dataset: Dataset, frame: int) -> tuple[float, float]:
  """(slope, intercept); (1, 0) where the header has none.

  Raises:
    Unreadable: a slope or intercept that is no number.
  """
  part = _part(dataset, "PixelValueTransformationSequence", frame)
  slope = (_numbers(part, "RescaleSlope") or [1.0])[0]
  intercept = (_numbers(part, "RescaleIntercept") or [0.0])[0]
  if not (math.isfinite(slope) and math.isfinite(intercept)):
    raise Unreadable("has a rescale slope or intercept that is not a number")
  return slope, intercept


def spacing_of(dataset: Dataset, frame: int) -> tuple[float, float]:
  """(row, column) mm between pixel centres, else those in the detector's plane, else NaN."""
  part = _part(dataset, "PixelMeasuresSequence", frame)
  for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
    values = _numbers(part, keyword)
    if len(values) == 2 and all(_LEAST_MM < value < _MOST_MM for value in values):
      return values[0], values[1]
  return math.nan, math.nan


def windows_of(dataset: Dataset, frame: int, *, signed: bool) -> list[tuple[float, float]]:
  """(low, high) of what the header shows: the first VOI LUT's span, then its windows.

  Args:
    dataset: the header.
    frame: index of the frame.
    signed: whether values can be negative.
  """
  part = _part(dataset, "FrameVOILUTSequence", frame)
  found = [_lut_span(part, signed), *_windows(part)]
  return [w for w in found if w is not None and all(map(math.isfinite, w)) and w[0] < w[1]]


def shown_by(
  windows: Sequence[tuple[float, float]],
  possible: tuple[float, float],
  values: np.ndarray,
  physics: str,
  bits: int,
) -> tuple[tuple[float, float], tuple[str, ...]]:
  """(the range to show, notes): the first window of the header that can be of this image.

  Args:
    windows: (low, high) in rescaled units, at least one.
    possible: (low, high) that pixels can have; shown where no window can be of them.
    values: a sample of the pixels, rescaled.
    physics: of `physics_of`.
    bits: that the header declares, 0 where `possible` is the range of this image alone.
  """
  notes = []
  for low, high in windows:
    if misses((low, high), values, physics=physics):
      notes.append("its header's window misses the pixels: not used")
    elif bits and high - low > _FAR_WIDER * (possible[1] - possible[0]):
      notes.append("its header's window is far wider than its pixels can be: not used")
    else:
      return (low, high), tuple(notes[:1])
  return possible, tuple(notes[:1])


def misses(window: tuple[float, float], values: np.ndarray, *, physics: str) -> bool:
  """Whether fewer than one pixel in a hundred lies in a window: then it is not of this image.

  A slice of air alone may lie outside of its window, so that of a CT only what is denser counts.

  Args:
    window: (low, high) in rescaled units.
    values: a sample of the pixels, rescaled.
    physics: of `physics_of`.
  """
  if physics == "ct":
    dense = values > _AIR_HU
    if dense.mean() < 0.05:
      return False
    values = values[dense]
  if values.size < _FEW_PIXELS:
    return False
  return float(((values >= window[0]) & (values <= window[1])).mean()) < 0.01


def left_out(dataset: Dataset) -> tuple[str, str] | None:
  """(kind of `LEFT_OUT`, reason) of what a scanner or a screen adds to the images, or None."""
  image_type = {str(value).upper().strip() for value in _values(dataset, "ImageType")}
  names = " ".join(_text(dataset, key) for key in ("SeriesDescription", "ImageComments"))
  capture = _text(dataset, "SOPClassUID").startswith(_STORAGE + "7")
  crossed = modality_of(dataset) in _CROSS_SECTIONAL
  if image_type & _SCREENS or (capture and _REPORT.search(names)):
    return "captures", "is a dose report or another saved screen, not an image"
  if capture and crossed:
    return "captures", "is a secondary capture: a picture of a screen, not an image"
  scout = crossed and ("LOCALIZER" in image_type or _SCOUT.search(names) is not None)
  return ("scouts", "is a scout (localizer), not a slice") if scout else None


def is_capture(dataset: Dataset) -> bool:
  """Whether the storage class is Secondary Capture."""
  return _text(dataset, "SOPClassUID").startswith(_STORAGE + "7")


def is_tilted(dataset: Dataset) -> bool:
  """Whether a CT was taken with a tilted gantry, so that its slices are sheared."""
  angles = _numbers(dataset, "GantryDetectorTilt")
  return bool(angles) and math.isfinite(angles[0]) and abs(angles[0]) > 0.5


def complete(dataset: Dataset, keyword: str) -> list[str]:
  """Fills in attributes of the pixels that have one obvious value.

  Args:
    dataset: changed in place.
    keyword: of the element that holds the pixels.

  Returns:
    The keywords that were filled in.

  Raises:
    Unreadable: one is missing that has no obvious value.
  """
  frames = 0
  with or_unreadable("has a damaged header"):
    before = {key for key in _PIXEL_ATTRIBUTES if dataset.get(key) not in (None, "")}
  photometric = _text(dataset, "PhotometricInterpretation")
  colour = photometric in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
  with or_unreadable("declares the size of its image in a way that is not understood"):
    if "SamplesPerPixel" not in before:
      dataset.SamplesPerPixel = 3 if colour else 1
    samples = int(dataset.SamplesPerPixel)
    if not photometric and samples in (1, 3):
      palette = "RedPaletteColorLookupTableDescriptor" in dataset
      grey = "PALETTE COLOR" if palette else "MONOCHROME2"
      dataset.PhotometricInterpretation = "RGB" if samples == 3 else grey
    if samples == 3 and "PlanarConfiguration" not in before:
      dataset.PlanarConfiguration = 0
    if "BitsAllocated" not in before:
      pixels = int(dataset.Rows) * int(dataset.Columns) * samples
      pixels *= int(dataset.get("NumberOfFrames") or 1)
      sizes = [8 * size for size in (1, 2) if 0 <= len(dataset[keyword].value) - size * pixels <= 1]
      if len(sizes) != 1 or dataset[keyword].is_undefined_length:
        raise Unreadable("does not say how many bits a pixel has")
      dataset.BitsAllocated = sizes[0]
    if keyword == "PixelData":
      frames = _frames_held(dataset) if "NumberOfFrames" not in dataset else 0
      if frames > 1:
        dataset.NumberOfFrames = frames
      if "BitsStored" not in before:
        dataset.BitsStored = int(dataset.BitsAllocated)
      if "HighBit" not in before:
        dataset.HighBit = int(dataset.BitsStored) - 1
      if "PixelRepresentation" not in before:
        _check_unsigned(dataset)
        dataset.PixelRepresentation = 0
  optional = () if samples == 3 else ("PlanarConfiguration",)
  needed = [key for key in _PIXEL_ATTRIBUTES if key not in (*before, *optional)]
  needed += ["NumberOfFrames"] if frames > 1 else []
  return needed if keyword == "PixelData" else []


def align(dataset: Dataset) -> bool:
  """Moves uncompressed pixels down whose bits do not begin at bit 0; whether there were any.

  `HighBit` tells it, sometimes wrongly: pixels that use the lowest bit, and none beyond
  `BitsStored`, begin at bit 0.

  Args:
    dataset: changed in place, its attributes complete.
  """
  stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
  low_bits = int(dataset.HighBit) + 1 - stored
  if low_bits <= 0 or allocated not in (8, 16) or dataset["PixelData"].is_undefined_length:
    return False
  order = "<" if dataset.original_encoding[1] is not False else ">"
  kind = "i" if int(dataset.PixelRepresentation) else "u"
  data = dataset.PixelData
  size = len(data) // (allocated // 8) * (allocated // 8)
  pixels = np.frombuffer(data[:size], f"{order}{kind}{allocated // 8}")
  dataset.HighBit = stored - 1
  most = 1 << (stored - 1 if kind == "i" else stored)
  fits = -most <= int(pixels.min()) and int(pixels.max()) < most
  if fits and (pixels & ((1 << low_bits) - 1)).any():
    return False
  dataset.PixelData = (pixels >> low_bits).tobytes() + data[size:]
  return True


def _frames_held(dataset: Dataset) -> int:
  """Whole frames in uncompressed pixels; 0 where bytes are left over."""
  size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
  size *= int(dataset.BitsAllocated) // 8
  if dataset["PixelData"].is_undefined_length or not size:
    return 0
  frames, left = divmod(len(dataset.PixelData or b""), size)
  return frames if left <= 1 else 0


def _check_unsigned(dataset: Dataset) -> None:
  """Raises Unreadable where the pixels could be signed as well as unsigned."""
  sixteen = int(dataset.BitsAllocated) == 16 and not dataset["PixelData"].is_undefined_length
  if modality_of(dataset) in PROJECTIONS or not sixteen:
    return
  pixels = np.frombuffer(dataset.PixelData[: len(dataset.PixelData) // 2 * 2], "<u2")
  if pixels.size and int(pixels.max()) >> (int(dataset.BitsStored) - 1):
    raise Unreadable("does not say whether its pixels are signed")


def _lut_span(part: Dataset, signed: bool) -> tuple[float, float] | None:
  """Input values between which the first VOI LUT changes (PS3.3 C.11.2.1.1)."""
  try:
    with or_unreadable(""):
      if not part.get("VOILUTSequence"):
        return None
      count, first, _ = (int(value) for value in part.VOILUTSequence[0].LUTDescriptor)
      values = np.arange(first, first + (count or 1 << 16), dtype=np.int32)
      changes = np.flatnonzero(np.diff(apply_voi(values, part).astype(np.int32)))
  except Unreadable:  # the image is kept without an invalid LUT
    return None
  if changes.size == 0:
    return None
  if signed and first >= 1 << 15:  # a negative start written as unsigned
    first -= 1 << 16
  return float(first + changes[0]), float(first + changes[-1] + 1)


def _windows(part: Dataset) -> list[tuple[float, float]]:
  """Values that the windows map to black and white (PS3.3 C.11.2.1.2)."""
  centres, widths = _numbers(part, "WindowCenter"), _numbers(part, "WindowWidth")
  function = _text(part, "VOILUTFunction").upper()
  found = []
  for centre, width in zip(centres, widths):
    if function == "SIGMOID":  # at centre +- width the curve is within 2 % of its ends
      found.append((centre - width, centre + width))
    elif function == "LINEAR_EXACT" or width <= 1.0:
      found.append((centre - width / 2, centre + width / 2))
    else:
      found.append((centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2))
  return found


def _part(dataset: Dataset, group: str, frame: int) -> Dataset:
  """The functional group `group` of a frame, else the shared one, else the dataset itself."""
  try:
    with or_unreadable(""):
      frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
      shared = dataset.get("SharedFunctionalGroupsSequence") or []
      for item in (*frames[frame : frame + 1], *shared[:1]):
        if item.get(group):
          return item[group].value[0]
  except Unreadable:  # a damaged functional group: the top of the header is used
    return dataset
  return dataset


def _values(dataset: Dataset, keyword: str) -> list[object]:
  """The values of an element, [] where it is absent or empty, [None] where it is unreadable."""
  try:
    with or_unreadable(""):
      value = dataset.get(keyword)
  except Unreadable:
    return [None]
  if value is None or value == "":
    return []
  return [value] if isinstance(value, (str, float, int)) else list(value)


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
  """The values as floats, NaN where one is not a number."""
  numbers = []
  for value in _values(dataset, keyword):
    try:
      numbers.append(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
      numbers.append(math.nan)
  return numbers


def _text(dataset: Dataset, keyword: str) -> str:
  values = _values(dataset, keyword)
  return "" if not values or values[0] is None else str(values[0]).strip()


def folder_of(path: Path, root: Path | None) -> str:
  """The folder of a file below `root`, else the name of its folder."""
  return path.parent.relative_to(root).as_posix() if root is not None else path.parent.name
