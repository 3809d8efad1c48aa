"""Written by us, read by others: SimpleITK for the pixels, dciodvfy for what the standard asks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from hiresmed_jax.data import writers
from hiresmed_jax.data.readers import dicom as reader

ABOUT = writers.DicomFacts(
  token="seed 7",
  number=3,
  series=1,
  derivation="2 lesions put into a reconstruction",
  rescale_slope=0.5,
  rescale_intercept=-1024.0,
  hounsfield=True,
  value_range=(-1000.0, 400.0),
  photometric="MONOCHROME2",
  spacing_mm=(0.7, 0.9),
)
NAN = float("nan")


def pixels(dtype=np.uint16, channels: int = 1) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, np.iinfo(dtype).max, (33, 21, channels)).astype(dtype)  # an odd number


def save(folder: Path, image: np.ndarray, **changes) -> Path:
  path = folder / "image.dcm"
  path.write_bytes(writers.dicom(image, ABOUT._replace(**changes)))
  return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_another_reader_sees_the_same_values(tmp_path, dtype, photometric):
  image = pixels(dtype)
  read = SimpleITK.ReadImage(str(save(tmp_path, image, photometric=photometric)))
  values = SimpleITK.GetArrayFromImage(read)[0]
  inverted = photometric == "MONOCHROME1"  # ITK makes high bright
  stored = np.iinfo(dtype).max - image[..., 0] if inverted else image[..., 0]
  np.testing.assert_array_equal(values, 0.5 * stored - 1024)
  assert read.GetSpacing()[:2] == (0.9, 0.7)  # x first
  assert read.GetMetaData("0028|0004").strip() == photometric


def test_another_reader_sees_the_same_colours(tmp_path):
  image = pixels(np.uint8, 3)
  read = SimpleITK.ReadImage(str(save(tmp_path, image, photometric="RGB")))
  np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read)[0], image)


def test_our_reader_takes_it_back(tmp_path):
  image = pixels()
  (sample,) = reader.read(save(tmp_path, image))
  np.testing.assert_array_equal(sample.image, image)
  assert (sample.rescale_slope, sample.rescale_intercept) == (0.5, -1024.0)
  assert sample.value_range == (-1000.0, 400.0)
  assert sample.spacing_mm == (0.7, 0.9)


def test_spacing_has_the_digits_that_it_was_given_with(tmp_path):
  path = save(tmp_path, pixels(), spacing_mm=tuple(np.float32([0.3, 0.139]).tolist()))
  assert [str(side) for side in pydicom.dcmread(path).PixelSpacing] == ["0.3", "0.139"]


@pytest.mark.parametrize(
  ("image", "changes"),
  [
    (pixels(), {}),
    (pixels(np.uint8), {"spacing_mm": (NAN, NAN), "photometric": "MONOCHROME1"}),
    (pixels(np.uint8, 3), {"photometric": "RGB"}),
    (pixels(), {"rescale_slope": 1 / 3, "rescale_intercept": -1e-7 / 3, "hounsfield": False}),
  ],
  ids=["grey", "eight bits", "colour", "long numbers"],
)
def test_a_validator_finds_no_error(tmp_path, image, changes):
  validator = Path(sys.executable).with_name("dciodvfy")
  command = [str(validator), "-new", str(save(tmp_path, image, **changes))]
  said = subprocess.run(command, capture_output=True, text=True, check=False)
  assert "SCImage" in said.stderr
  assert "Error" not in said.stderr


def test_it_says_that_it_is_synthetic_and_nothing_of_anyone(tmp_path):
  dataset = pydicom.dcmread(save(tmp_path, pixels()))
  assert dataset.SyntheticData == "YES"
  assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
  assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
  assert (str(dataset.PatientName), dataset.PatientID) == ("SYNTHETIC^000003", "SYNTHETIC-000003")
  assert dataset.DerivationDescription == ABOUT.derivation
  (equipment,) = dataset.ContributingEquipmentSequence
  assert equipment.Manufacturer == "hiresmed_jax"
  assert equipment.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Synthesizing Equipment"
  assert "BurnedInAnnotation" not in dataset  # nobody has looked
  elements = list(dataset.iterall())
  assert not any(element.tag.is_private for element in elements)
  assert not any(element.value for element in elements if element.VR in ("DA", "DT", "TM"))


def test_uids_follow_the_token_and_tell_images_and_twins_apart():
  def uids(**changes):
    file = pydicom.filebase.DicomBytesIO(writers.dicom(pixels(), ABOUT._replace(**changes)))
    dataset = pydicom.dcmread(file)
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID

  assert uids() == uids()
  assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids())
  twin = uids(series=2)
  assert twin[0] == uids()[0]
  assert set(twin[1:]).isdisjoint(uids())
  for changes in ({"token": "seed 8"}, {"number": 4}):
    assert set(uids(**changes)).isdisjoint(uids())


def test_grey_made_of_colour_is_bright_where_it_is_bright():
  file = pydicom.filebase.DicomBytesIO(writers.dicom(pixels(), ABOUT._replace(photometric="RGB")))
  assert pydicom.dcmread(file).PhotometricInterpretation == "MONOCHROME2"


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8)])
def test_what_is_no_image_is_refused(image):
  with pytest.raises(ValueError, match="no DICOM"):
    writers.dicom(image, ABOUT)
