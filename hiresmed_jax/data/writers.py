"""Synthetic images and their labels as bytes of files: DICOM, YOLO, COCO, nnU-Net, lines of JSON.

The DICOM files are Secondary Capture with a fixed list of attributes. No dataset of a source is
used, so no attribute of a patient can be left in one.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

CATEGORY = "lesion"

_MAKER = "hiresmed_jax"


class DicomFacts(NamedTuple):
  """The content of a DICOM header.

  Attributes:
    token: the UIDs are derived from it: equal tokens give equal UIDs.
    number: of the image in its set; also the number of its fictitious patient.
    series: 1 for images, others for their twins; all series of one image share its study.
    derivation: how the image was made, at most 1,024 characters.
    rescale_slope: value = rescale_slope * stored + rescale_intercept.
    rescale_intercept: see `rescale_slope`.
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


def dicom(image: np.ndarray, facts: DicomFacts) -> bytes:
  """A DICOM file of an image uint8|uint16 [H, W, 1 or 3] of stored values.

  Raises:
    ValueError: an image of another kind.
  """
  if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[-1] not in (1, 3):
    raise ValueError(f"no DICOM of {image.dtype} {image.shape}")
  meta = FileMetaDataset()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
  meta.MediaStorageSOPInstanceUID = _uid(facts, "instance", facts.series)
  dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
  dataset.SOPClassUID = meta.MediaStorageSOPClassUID
  dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  _describe(dataset, facts)
  _add_pixels(dataset, image, facts)
  file = io.BytesIO()
  pydicom.dcmwrite(file, dataset, enforce_file_format=True)
  return file.getvalue()


def _describe(dataset: Dataset, facts: DicomFacts) -> None:
  """Adds what identifies the image. Attributes that are required and have no value are empty."""
  dataset.SyntheticData = "YES"
  dataset.ImageType = ["DERIVED", "SECONDARY"]
  dataset.DerivationDescription = facts.derivation
  dataset.ContributingEquipmentSequence = [_contributing_equipment()]
  dataset.PatientName = f"SYNTHETIC^{facts.number:06d}"
  dataset.PatientID = f"SYNTHETIC-{facts.number:06d}"
  dataset.PatientBirthDate, dataset.PatientSex = "", "O"
  dataset.StudyInstanceUID = _uid(facts, "study")
  dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = ""
  dataset.ReferringPhysicianName = ""
  dataset.StudyID = str(facts.number)
  dataset.StudyDescription = "SYNTHETIC"
  dataset.SeriesInstanceUID = _uid(facts, "series", facts.series)
  dataset.Modality, dataset.SeriesNumber, dataset.Laterality = "OT", facts.series, ""
  dataset.Manufacturer = _MAKER
  dataset.ConversionType = "SYN"  # synthetic image
  dataset.InstanceNumber = 1
  dataset.PatientOrientation = ""


def _contributing_equipment() -> Dataset:
  purpose = Dataset()
  purpose.CodeValue, purpose.CodingSchemeDesignator = "109100", "DCM"
  purpose.CodeMeaning = "Synthesizing Equipment"
  equipment = Dataset()
  equipment.PurposeOfReferenceCodeSequence = [purpose]
  equipment.Manufacturer = _MAKER
  equipment.ContributionDescription = "Made this synthetic image"
  return equipment


def _add_pixels(dataset: Dataset, image: np.ndarray, facts: DicomFacts) -> None:
  bits, grey = 8 * image.dtype.itemsize, image.shape[-1] == 1
  dataset.SamplesPerPixel = image.shape[-1]
  dataset.PhotometricInterpretation = _photometric(facts, grey)
  if not grey:
    dataset.PlanarConfiguration = 0
  dataset.Rows, dataset.Columns = image.shape[:2]
  dataset.BitsAllocated = dataset.BitsStored = bits
  dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
  if all(math.isfinite(side) for side in facts.spacing_mm):
    dataset.PixelSpacing = [f"{side:.6g}" for side in facts.spacing_mm]
  if grey:
    dataset.RescaleSlope = _decimal(facts.rescale_slope)
    dataset.RescaleIntercept = _decimal(facts.rescale_intercept)
    dataset.RescaleType = "HU" if facts.hounsfield else "US"
    # The standard counts the window's end pixels whole: C.11.2.1.2.1.
    low, high = facts.value_range
    dataset.WindowCenter = _decimal((low + high + 1) / 2)
    dataset.WindowWidth = _decimal(high - low + 1)
  pixels = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("<"), copy=False).tobytes()
  dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
  dataset["PixelData"].VR = "OW" if bits == 16 else "OB"


def _photometric(facts: DicomFacts, grey: bool) -> str:
  """MONOCHROME2 for a colour image that was made grey."""
  if not grey:
    return "RGB"
  return "MONOCHROME2" if facts.photometric == "RGB" else facts.photometric


def _decimal(value: float) -> str:
  """A decimal string of at most 16 characters."""
  return pydicom.valuerep.format_number_as_ds(float(value))


def _uid(facts: DicomFacts, *what: str | int) -> UID:
  """A UID below 2.25, the arc for UIDs without registration."""
  name = "/".join(map(str, (facts.token, facts.number, *what)))
  return UID(f"2.25.{int(hashlib.sha256(name.encode()).hexdigest()[:32], 16)}")


def json_line(record: Mapping[str, Any]) -> bytes:
  """One line of JSON: keys sorted, numbers that are not finite as null."""
  return (json.dumps(_finite(record), sort_keys=True, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(one) for one in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


class Classes(NamedTuple):
  """The classes of labels.

  Attributes:
    numbers: of the user's classes, by name.
    lesion: the class of the lesions.
    coco: whether the numbers are ids of COCO categories; else they count from 0.
  """

  numbers: Mapping[str, int]
  lesion: str
  coco: bool = False

  def yolo(self) -> dict[str, int]:
    """Numbers from 0 without gaps; a number that no class has gets a name of its own."""
    ordered = sorted(self.numbers, key=lambda name: self.numbers[name])
    if self.coco:
      return {name: number for number, name in enumerate(ordered)}
    of_number = {number: name for name, number in self.numbers.items()}
    return {
      of_number.get(number, f"class {number}"): number for number in range(max(of_number) + 1)
    }

  def categories(self) -> dict[str, int]:
    """COCO's ids, which count from 1 where they are not the user's own."""
    return {name: number + (not self.coco) for name, number in self.numbers.items()}


ONE_CLASS = Classes({CATEGORY: 0}, CATEGORY)


def yolo_labels(
  boxes: Iterable[Sequence[float]], *, height: int, width: int, number: int = 0
) -> bytes:
  """A YOLO label file: one line a box, `number cx cy w h` in shares of the image.

  Args:
    boxes: xyxy pixels.
    height: of the image, pixels.
    width: of the image, pixels.
    number: of the class.
  """
  lines = []
  for x1, y1, x2, y2 in boxes:
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    lines.append(f"{number} " + " ".join(f"{share:.8f}" for share in shares) + "\n")
  return "".join(lines).encode()


def yolo_dataset(classes: Classes, *, val: str | None) -> bytes:
  """`data.yaml` of a folder with `images/` and `labels/`.

  Args:
    classes: of the labels.
    val: folder of real images; None leaves the entry out.
  """
  head = "# SYNTHETIC images made by hiresmed_jax, for training.\n"
  head += "# `twins` are the same images without the new lesions.\n"
  if val is None:
    head += "# No `val`: name a folder of REAL images there, or synthesize with --with-real.\n"
  names = sorted(classes.yolo().items(), key=lambda pair: pair[1])
  return (
    head
    + "train: images\n"
    + (f"val: {val}\n" if val else "")
    + "names:\n"
    + "".join(f"  {number}: {json.dumps(name)}\n" for name, number in names)
  ).encode()


def nnunet_dataset(classes: Classes, *, channels: int, images: int) -> bytes:
  """`dataset.json` of nnU-Net for PNG files in `imagesTr/` and `labelsTr/`."""
  names = ("grey",) if channels == 1 else ("red", "green", "blue")
  content = {
    "channel_names": {str(number): name for number, name in enumerate(names)},
    "labels": {"background": 0, classes.lesion: 1},
    "numTraining": images,
    "file_ending": ".png",
  }
  return (json.dumps(content, indent=1) + "\n").encode()


def coco(
  images: Iterable[Mapping[str, Any]], classes: Classes = ONE_CLASS, *, made: bool = True
) -> bytes:
  """A COCO annotation file. Ids of annotations run from 1 in the order given.

  Args:
    images: of each `id` int, `file_name` (relative to the folder of the images), `height`, `width`,
      and `lesions`: of each `box` (xyxy pixels), and where its mask is known `area` (pixels) and
      `counts` (see `run_lengths`).
    classes: of the lesions.
    made: whether the images are synthetic.
  """
  numbers = classes.categories()
  entries: list[dict[str, Any]] = []
  annotations: list[dict[str, Any]] = []
  for image in images:
    size = [image["height"], image["width"]]
    entries.append({key: image[key] for key in ("id", "file_name", "height", "width")})
    for lesion in image["lesions"]:
      x1, y1, x2, y2 = lesion["box"]
      annotation = {
        "id": len(annotations) + 1,
        "image_id": image["id"],
        "category_id": numbers[classes.lesion],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": lesion.get("area", (x2 - x1) * (y2 - y1)),
        "iscrowd": 0,
      }
      if "counts" in lesion:
        annotation["segmentation"] = {"size": size, "counts": lesion["counts"]}
      annotations.append(annotation)
  content = {
    "info": {"description": f"{'SYNTHETIC' if made else 'Real'} images, hiresmed_jax"},
    "images": entries,
    "annotations": annotations,
    "categories": [{"id": number, "name": name} for name, number in numbers.items()],
  }
  return (json.dumps(content, allow_nan=False) + "\n").encode()


def run_lengths(mask: np.ndarray) -> str:
  """COCO's compressed run lengths of bool[H, W]: down the columns, zeros first.

  From the fourth on, a length is less the one of the same colour before it. A number is written in
  groups of five bits, lowest first, as a character from "0" on: 32 is added where more follow, and
  the last group holds the sign.
  """
  flat = mask.ravel(order="F")
  changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
  runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
  if flat.size and flat[0]:
    runs = [0, *runs]
  text = []
  for place, run in enumerate(runs):
    rest = run - runs[place - 2] if place > 2 else run
    while not -16 <= rest < 16:
      text.append(chr(48 + 32 + (rest & 31)))
      rest >>= 5
    text.append(chr(48 + (rest & 31)))
  return "".join(text)
