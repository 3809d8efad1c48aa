"""A synthetic image as DICOM Secondary Capture, built from nothing: an allow-list of attributes.

No dataset of a source is ever at hand here, so nothing of one can be left over in the file.
"""

import hashlib
import io
import math
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

_MAKER = "hiresmed_jax"


class About(NamedTuple):
  """What a file says beside its pixels.

  Attributes:
    token: what the UIDs are derived from: the same token gives the same ones.
    number: of the image in its set, which is also that of its patient, who does not exist.
    series: 1 for images, others for their twins; series of one image share its study.
    derivation: how it was made, at most 1,024 characters.
    rescale_slope: value = rescale_slope * stored + rescale_intercept.
    rescale_intercept: see there.
    hounsfield: whether values are HU.
    value_range: (low, high) values to show.
    photometric: "MONOCHROME1", "MONOCHROME2" or "RGB".
    spacing_mm: (row, column); NaN when unknown.
  """

  token: str
  number: int
  series: int
  derivation: str
  rescale_slope: float
  rescale_intercept: float
  hounsfield: bool
  value_range: tuple[float, float]
  photometric: str
  spacing_mm: tuple[float, float]


def encode(image: np.ndarray, about: About) -> bytes:
  """The bytes of a DICOM file of an image uint8|uint16 [H, W, 1 or 3], stored values.

  Raises:
    ValueError: an image of another kind.
  """
  if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[-1] not in (1, 3):
    raise ValueError(f"no DICOM of {image.dtype} {image.shape}")
  meta = FileMetaDataset()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
  meta.MediaStorageSOPInstanceUID = _uid(about, "instance", about.series)
  dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
  dataset.SOPClassUID = meta.MediaStorageSOPClassUID
  dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  _describe(dataset, about)
  _add_pixels(dataset, image, about)
  file = io.BytesIO()
  pydicom.dcmwrite(file, dataset, enforce_file_format=True)
  return file.getvalue()


def _describe(dataset: Dataset, about: About) -> None:
  """All that names it. Attributes that must be there and have no value are empty."""
  dataset.SyntheticData = "YES"
  dataset.ImageType = ["DERIVED", "SECONDARY"]
  dataset.DerivationDescription = about.derivation
  dataset.ContributingEquipmentSequence = Sequence([_contributing_equipment()])
  dataset.PatientName = f"SYNTHETIC^{about.number:06d}"
  dataset.PatientID = f"SYNTHETIC-{about.number:06d}"
  dataset.PatientBirthDate, dataset.PatientSex = "", "O"
  dataset.StudyInstanceUID = _uid(about, "study")
  dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = ""
  dataset.ReferringPhysicianName = ""
  dataset.StudyID = str(about.number)
  dataset.StudyDescription = "SYNTHETIC"
  dataset.SeriesInstanceUID = _uid(about, "series", about.series)
  dataset.Modality, dataset.SeriesNumber, dataset.Laterality = "OT", about.series, ""
  dataset.Manufacturer = _MAKER
  dataset.ConversionType = "SYN"  # synthetic image
  dataset.InstanceNumber = 1
  dataset.PatientOrientation = ""
  dataset.BurnedInAnnotation = "NO"


def _contributing_equipment() -> Dataset:
  purpose = Dataset()
  purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
  purpose.CodeMeaning = "Processing Equipment"
  equipment = Dataset()
  equipment.PurposeOfReferenceCodeSequence = Sequence([purpose])
  equipment.Manufacturer = _MAKER
  equipment.ContributionDescription = "Made this synthetic image"
  return equipment


def _add_pixels(dataset: Dataset, image: np.ndarray, about: About) -> None:
  bits, grey = 8 * image.dtype.itemsize, image.shape[-1] == 1
  dataset.SamplesPerPixel = image.shape[-1]
  dataset.PhotometricInterpretation = _photometric(about, grey)
  if not grey:
    dataset.PlanarConfiguration = 0
  dataset.Rows, dataset.Columns = image.shape[:2]
  dataset.BitsAllocated = dataset.BitsStored = bits
  dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
  if all(math.isfinite(side) for side in about.spacing_mm):
    dataset.PixelSpacing = [_decimal(side) for side in about.spacing_mm]
  if grey:
    dataset.RescaleSlope = _decimal(about.rescale_slope)
    dataset.RescaleIntercept = _decimal(about.rescale_intercept)
    dataset.RescaleType = "HU" if about.hounsfield else "US"
    # The standard counts the window's end pixels whole: C.11.2.1.2.1.
    low, high = about.value_range
    dataset.WindowCenter = _decimal((low + high + 1) / 2)
    dataset.WindowWidth = _decimal(high - low + 1)
  pixels = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("<"), copy=False).tobytes()
  dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
  dataset["PixelData"].VR = "OW" if bits == 16 else "OB"


def _photometric(about: About, grey: bool) -> str:
  """Of a colour image that was made grey, bright is bright."""
  if not grey:
    return "RGB"
  return "MONOCHROME2" if about.photometric == "RGB" else about.photometric


def _decimal(value: float) -> str:
  """A decimal string, which has 16 characters."""
  return pydicom.valuerep.format_number_as_ds(float(value))


def _uid(about: About, *what: str | int) -> UID:
  """A UID below 2.25, the arc of those that nobody has to register."""
  name = "/".join(map(str, (about.token, about.number, *what)))
  return UID(f"2.25.{int(hashlib.sha256(name.encode()).hexdigest()[:32], 16)}")
