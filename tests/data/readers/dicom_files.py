"""Small DICOM files with values known beforehand, for the tests beside this file."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
  UID,
  ExplicitVRLittleEndian,
)

from hiresmed_jax.data.readers.dicom import read
from hiresmed_jax.data.sample import Sample

CT, CR, DX = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "1", "1.1"))
SECRET = "Doe^Jane"


def dataset(pixels: np.ndarray, *, frames: int = 1, **elements: Any) -> FileDataset:
  """A small DICOM image around `pixels`, [H, W], [frames, H, W] or [H, W, 3]."""
  meta = FileMetaDataset()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = UID(elements.get("SOPClassUID", CT))
  meta.MediaStorageSOPInstanceUID = UID("1.2.3")
  ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
  ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
  ds.PatientName, ds.PatientID = SECRET, f"{SECRET}-1"
  ds.Modality = "CT"
  colour = pixels.shape[-1] == 3
  ds.SamplesPerPixel = 3 if colour else 1
  if colour:
    ds.PlanarConfiguration = 0
  ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
  ds.Rows, ds.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
  if frames > 1:
    ds.NumberOfFrames = frames
  ds.BitsAllocated = 8 * pixels.dtype.itemsize
  if pixels.dtype.kind == "f":
    ds.add_new("FloatPixelData", "OF", pixels.astype(np.float32).tobytes())
  else:
    ds.BitsStored, ds.HighBit = ds.BitsAllocated, ds.BitsAllocated - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
  for keyword, value in elements.items():
    setattr(ds, keyword, value)
  return ds


def save(path: Path, ds: Dataset) -> Path:
  pydicom.dcmwrite(path, ds, enforce_file_format=True)
  return path


def only(path: Path) -> Sample:
  (sample,) = read(path)
  return sample


def values(sample: Sample) -> np.ndarray:
  return sample.rescale_slope * sample.image[..., 0].astype(float) + sample.rescale_intercept


def item(**elements: Any) -> Dataset:
  ds = Dataset()
  for keyword, value in elements.items():
    setattr(ds, keyword, value)
  return ds


def lut(first: int, entries: list[int], bits: int = 16, signed: bool = False) -> Sequence:
  ds = Dataset()
  ds.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries), first, bits])
  ds.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
  return Sequence([ds])


SIGNED = np.array([[-2000, -1], [0, 3000]], np.int16)
