"""What most files of a source are, looked at before all of them are read.

One scout among slices is left out; a folder of scouts is what its owner wants. Headers tell this,
and a few pictures how a lesion adds to them, where no header does.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
from PIL import Image

from hiresmed_jax.data.audit import pixels
from hiresmed_jax.data.readers import dicom_header, images, volumes
from hiresmed_jax.data.readers.guard import check_regular, or_unreadable
from hiresmed_jax.data.sample import Sample, Unreadable

_LOOKED_AT = 15  # pictures, spread evenly
_SIDE = 256  # that a picture is shrunk to
_PEAKS = ((-1024, -850), (-130, 150))  # HU of air, and of fat and soft tissue
_TAGS = [
  *("SOPClassUID", "Modality", "ImageType", "SeriesDescription", "ImageComments"),
  *("SamplesPerPixel", "PhotometricInterpretation"),
]


class Survey(NamedTuple):
  """What most files are.

  Attributes:
    keep: kinds of `dicom_header.LEFT_OUT` that are not left out.
    physics: "ct" or "projection" as the pictures look, "" when that is not sure.
  """

  keep: frozenset[str]
  physics: str


def survey(files: Sequence[Path], kind: str, keep: Collection[str] = ()) -> Survey:
  """Looks at the headers of all files and at some pictures.

  Args:
    files: of the images.
    kind: `images`, `dicom` or `volumes`.
    keep: kinds that the user keeps.
  """
  if kind == "dicom":
    kinds = [found for path in files if (found := _kinds(path)) is not None]
    most = {
      name for name in dicom_header.LEFT_OUT if 2 * sum(name in k for k in kinds) > len(kinds)
    }
    return Survey(frozenset({*keep, *most}), "")
  if kind == "volumes":
    return Survey(frozenset(keep), _of_volume(files))
  colour = [path for path in files if _is_colour(path)]
  most_colour = False
  if 2 * len(colour) > len(files):
    seen = list(_samples(_spread(colour)))
    most_colour = 2 * sum(sample.image.shape[-1] == 3 for sample in seen) > len(seen)
  physics = physics_of(sample for sample in _samples(_spread(files)) if sample.image.shape[-1] == 1)
  return Survey(frozenset({*keep, *(["colour"] if most_colour else [])}), physics)


def _spread(files: Sequence[Path]) -> Sequence[Path]:
  return files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]


def _samples(files: Iterable[Path]) -> Iterator[Sample]:
  """The first image of each file that can be read."""
  for path in files:
    try:
      yield next(images.read(path))
    except (Unreadable, StopIteration):
      continue


def _kinds(path: Path) -> set[str] | None:
  """The kinds of `dicom_header.LEFT_OUT` that a DICOM header tells; None for no image."""
  try:
    check_regular(path)
    with or_unreadable(""):
      dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=_TAGS)
      found = dicom_header.left_out(dataset)
      samples = int(dataset.get("SamplesPerPixel") or 1)
      palette = dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
      capture = dicom_header.is_capture(dataset)
      pictured = "SamplesPerPixel" in dataset or "PhotometricInterpretation" in dataset
  except Unreadable:
    return None
  if not pictured:
    return None
  kinds = {found[0]} if found else {"captures"} if capture else set()
  return kinds | ({"colour"} if samples == 3 or palette else set())


def _is_colour(path: Path) -> bool:
  """Whether the header of a PNG, JPEG or TIFF tells of colours, which may all be grey."""
  try:
    check_regular(path)
    with or_unreadable(""), Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
      return image.mode in ("RGB", "RGBA", "P", "YCbCr")
  except Unreadable:
    return False


def _of_volume(files: Sequence[Path]) -> str:
  """ "ct" where the first volume that can be read holds HU."""
  for path in files[:3]:
    try:
      sample = next(volumes.read(path))
    except (Unreadable, StopIteration):
      continue
    low, high = sample.value_range
    return "ct" if _is_hounsfield(low, high) else ""
  return ""


def _is_hounsfield(low: float, high: float) -> bool:
  """Whether values reach from air to tissue, in HU."""
  return -4096 <= low <= -700 and 100 <= high <= 32767


def _is_shifted_hounsfield(image: np.ndarray) -> bool:
  """Whether air and soft tissue lie where HU + 1,024 or HU + 32,768 has them."""
  return int(image.max()) - int(image.min()) < 8192 and any(
    all(((image >= zero + low) & (image <= zero + high)).mean() > 0.1 for low, high in _PEAKS)
    for zero in (1024, 32768)
  )


def physics_of(samples: Iterable[Sample]) -> str:
  """ "ct" or "projection" as some grey pictures look, "" when that is not sure.

  A CT slice holds HU, or shows a body with air all around and air and bone inside. A picture of
  more than 1,200 pixels a side without air around is no slice.
  """
  looks = [_look(sample) for sample in samples]
  if "projection" not in looks and looks.count("ct") > 0.4 * len(looks):
    return "ct"
  return "projection" if looks and looks.count("projection") > 0.7 * len(looks) else ""


def _look(sample: Sample) -> str:
  signed = sample.rescale_intercept < 0 or sample.bits_stored == 0
  if signed and _is_hounsfield(*sample.value_range):
    return "ct"
  if sample.image.dtype == np.uint16 and not signed and _is_shifted_hounsfield(sample.image):
    return "ct"
  scale = sample.rescale_slope, sample.rescale_intercept
  low, high = sample.value_range
  grey = pixels.display(sample.image, (low, high), *scale, inverted=_inverted(sample))
  if sample.image.dtype == np.uint16:
    top = max(float(np.percentile(grey, 99.8)), 1.0)
    grey = np.clip(grey * (255.0 / top), 0, 255).astype(np.uint8)
  enclosed = _is_enclosed(grey)
  if enclosed:
    return "ct"
  return "projection" if min(grey.shape) >= 1200 and enclosed is not None else ""


def _inverted(sample: Sample) -> bool:
  return sample.photometric == "MONOCHROME1"


def _is_enclosed(grey: np.ndarray) -> bool | None:
  """Whether a body lies in air, with air and bone inside; None where it does but lacks these."""
  shrink = _SIDE / max(grey.shape)
  if shrink < 1 and min(grey.shape) * shrink >= 8:
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
  _, parts = cv2.connectedComponents((grey <= 12).astype(np.uint8))
  sides = parts[0], parts[-1], parts[:, 0], parts[:, -1]
  outer = np.unique(np.concatenate(sides))
  air = np.isin(parts, outer[outer > 0])
  around = min(float((side > 0).mean()) for side in sides)
  if around < 0.45 or air.mean() < 0.1:
    return False
  inside = float(((grey <= 12) & ~air).mean()) >= 0.002
  bone = float((grey >= 250).mean()) >= 0.002
  return True if inside and bone else None
