"""DICOM files written here, with values known beforehand."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
  UID,
  DeflatedExplicitVRLittleEndian,
  ExplicitVRBigEndian,
  ImplicitVRLittleEndian,
  RLELossless,
)
from pydicom.uid import SecondaryCaptureImageStorage as CAPTURE

from hiresmed_jax.data.readers.dicom import read
from hiresmed_jax.data.sample import LeftOut, Unreadable
from tests.data.readers.dicom_files import (
  CR,
  CT,
  DX,
  SECRET,
  SIGNED,
  dataset,
  item,
  lut,
  only,
  save,
  values,
)


def test_signed_ct_is_shifted_and_rescaled(tmp_path: Path) -> None:
  ds = dataset(
    SIGNED, RescaleSlope="2", RescaleIntercept="-1024", PixelSpacing=["0.5", "0.7"],
    WindowCenter="40", WindowWidth="400",
  )  # fmt: skip
  sample = only(save(tmp_path / "a.dcm", ds))
  np.testing.assert_array_equal(sample.image[..., 0].astype(int), SIGNED.astype(int) + 32768)
  np.testing.assert_array_equal(values(sample), SIGNED * 2.0 - 1024)
  assert (sample.physics, sample.modality, sample.photometric) == ("ct", "CT", "MONOCHROME2")
  assert sample.spacing_mm == (0.5, 0.7)
  assert sample.value_range == (-160.0, 239.0)
  assert sample.source == "a.dcm"


def test_monochrome1_keeps_its_values_and_its_flag(tmp_path: Path) -> None:
  pixels = np.array([[0, 100], [200, 4095]], np.uint16)
  ds = dataset(
    pixels, PhotometricInterpretation="MONOCHROME1", Modality="CR", BitsStored=12, HighBit=11,
    ImagerPixelSpacing=["0.1", "0.2"],
  )  # fmt: skip
  sample = only(save(tmp_path / "a.dcm", ds))
  np.testing.assert_array_equal(sample.image[..., 0], pixels)
  assert (sample.photometric, sample.physics) == ("MONOCHROME1", "projection")
  assert sample.value_range == (0.0, 4095.0)
  assert sample.spacing_mm == (0.1, 0.2)


def test_bits_above_the_stored_ones_are_not_pixels(tmp_path: Path) -> None:
  pixels = np.array([[0x1005, 0x8FFF]], np.uint16)  # an overlay in the four spare bits
  ds = dataset(pixels, Modality="DX", BitsStored=12, HighBit=11)
  np.testing.assert_array_equal(only(save(tmp_path / "a.dcm", ds)).image[..., 0], [[0x005, 0xFFF]])


def test_modality_lut_replaces_the_values(tmp_path: Path) -> None:
  pixels = np.array([[-5, 0], [1, 300]], np.int16)
  ds = dataset(
    pixels, Modality="CR", BitsStored=12, HighBit=11, RescaleSlope="7", RescaleIntercept="9",
    ModalityLUTSequence=lut(-1, [10, 20, 1000, 30], signed=True),
  )  # fmt: skip
  sample = only(save(tmp_path / "a.dcm", ds))
  np.testing.assert_array_equal(values(sample), [[10, 20], [1000, 30]])
  assert sample.value_range == (10.0, 1000.0)


def test_modality_lut_does_not_wrap_around(tmp_path: Path) -> None:
  pixels = np.array([[-32768, 32767]], np.int16)
  ds = dataset(pixels, ModalityLUTSequence=lut(-32768, list(range(65535)), signed=True))
  np.testing.assert_array_equal(values(only(save(tmp_path / "a.dcm", ds))), [[0, 65534]])


def test_voi_lut_shows_where_it_changes(tmp_path: Path) -> None:
  ds = dataset(
    np.array([[0, 255]], np.uint8), Modality="OT", WindowCenter="5", WindowWidth="5",
    VOILUTSequence=lut(100, [0, 0, 0, 5, 9, 12, 12, 12], bits=12),
  )  # fmt: skip
  assert only(save(tmp_path / "a.dcm", ds)).value_range == (102.0, 105.0)
  negative = lut(65536 - 50, [0, 1, 2], bits=8)  # a negative start in an unsigned element
  ds = dataset(SIGNED, Modality="CT", VOILUTSequence=negative)
  assert only(save(tmp_path / "b.dcm", ds)).value_range == (-50.0, -48.0)


@pytest.mark.parametrize(
  ("elements", "expected"),
  [
    ({"WindowCenter": ["40", "300"], "WindowWidth": ["400", "1500"]}, (-160.0, 239.0)),
    ({"WindowCenter": "128", "WindowWidth": "256"}, (0.0, 255.0)),
    (
      {"WindowCenter": "5", "WindowWidth": "4", "VOILUTFunction": "LINEAR_EXACT"},
      (3.0, 7.0),
    ),
    ({"WindowCenter": "5", "WindowWidth": "4", "VOILUTFunction": "SIGMOID"}, (1.0, 9.0)),
    ({"WindowCenter": "0.5", "WindowWidth": "0.5"}, (0.25, 0.75)),
    ({"WindowCenter": "40", "WindowWidth": "0"}, (0.0, 65535.0)),
    ({"WindowCenter": "40", "WindowWidth": "-400"}, (0.0, 65535.0)),
    ({"WindowCenter": "40"}, (0.0, 65535.0)),
    ({"VOILUTSequence": lut(0, [3, 3, 3])}, (0.0, 65535.0)),
    ({"VOILUTSequence": lut(0, [3, 4, 5], bits=9)}, (0.0, 65535.0)),
    ({"RescaleSlope": "-2", "RescaleIntercept": "10"}, (-131060.0, 10.0)),
  ],
)
def test_what_is_shown_by_default(
  tmp_path: Path, elements: dict[str, Any], expected: tuple[float, float]
) -> None:
  ds = dataset(np.array([[0, 9]], np.uint16), Modality="MR", **elements)
  assert only(save(tmp_path / "a.dcm", ds)).value_range == pytest.approx(expected)


def test_ct_without_a_window_shows_what_a_scanner_measures(tmp_path: Path) -> None:
  assert only(save(tmp_path / "a.dcm", dataset(SIGNED))).value_range == (-1024.0, 3071.0)


def test_frames_become_samples_with_their_own_numbers(tmp_path: Path) -> None:
  pixels = np.arange(12, dtype=np.uint16).reshape(3, 2, 2)
  per_frame = [
    item(
      PixelValueTransformationSequence=Sequence(
        [item(RescaleSlope=str(k + 1), RescaleIntercept="-5", RescaleType="HU")]
      ),
      FrameVOILUTSequence=Sequence([item(WindowCenter=str(k), WindowWidth="11")]),
    )
    for k in range(3)
  ]
  shared = item(PixelMeasuresSequence=Sequence([item(PixelSpacing=["0.4", "0.3"])]))
  ds = dataset(
    pixels, frames=3, PerFrameFunctionalGroupsSequence=Sequence(per_frame),
    SharedFunctionalGroupsSequence=Sequence([shared]), RescaleSlope="99",
  )  # fmt: skip
  samples = list(read(save(tmp_path / "a.dcm", ds)))
  assert [sample.source for sample in samples] == ["a.dcm#0", "a.dcm#1", "a.dcm#2"]
  for k, sample in enumerate(samples):
    np.testing.assert_array_equal(values(sample), pixels[k] * (k + 1.0) - 5)
    assert sample.value_range == (k - 5.5, k + 4.5)
    assert sample.spacing_mm == (0.4, 0.3)
    assert sample.physics == "ct"


def test_rle_multi_frame(tmp_path: Path) -> None:
  pixels = np.random.default_rng(0).integers(-99, 99, (2, 8, 9)).astype(np.int16)
  ds = dataset(pixels, frames=2)
  ds.compress(RLELossless, generate_instance_uid=False)
  samples = list(read(save(tmp_path / "a.dcm", ds)))
  np.testing.assert_array_equal(np.stack([values(sample) for sample in samples]), pixels)


@pytest.mark.parametrize(
  "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_other_encodings_give_the_same_array(tmp_path: Path, syntax: UID) -> None:
  ds = dataset(SIGNED)
  ds.file_meta.TransferSyntaxUID = syntax
  if syntax == ExplicitVRBigEndian:
    ds.PixelData = SIGNED.astype(">i2").tobytes()
  sample = only(save(tmp_path / "a.dcm", ds))
  np.testing.assert_array_equal(values(sample), SIGNED)
  assert sample.image.dtype.isnative


def test_without_preamble_and_header_group(tmp_path: Path) -> None:
  path = tmp_path / "a"
  buffer = io.BytesIO()
  bare = Dataset()
  bare.update(dataset(SIGNED))
  bare.save_as(buffer, implicit_vr=True, little_endian=True)
  path.write_bytes(buffer.getvalue())
  np.testing.assert_array_equal(values(only(path)), SIGNED)


def test_floating_pixels_are_requantised(tmp_path: Path) -> None:
  pixels = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
  sample = only(save(tmp_path / "a.dcm", dataset(pixels, Modality="MR", RescaleSlope="3")))
  assert sample.image.dtype == np.uint16
  np.testing.assert_allclose(
    values(sample), pixels * 3.0, rtol=0, atol=3 * float(np.ptp(pixels)) / 65535
  )
  assert sample.value_range == pytest.approx((3 * pixels.min(), 3 * pixels.max()))
  pixels[0, 0] = np.nan
  with pytest.raises(Unreadable, match="NaN"):
    only(save(tmp_path / "a.dcm", dataset(pixels, Modality="MR")))


def test_32_bit_pixels_are_requantised_with_the_slope(tmp_path: Path) -> None:
  pixels = np.array([[-5, 0], [70_000, 1_000_000]], np.int32)
  sample = only(save(tmp_path / "a.dcm", dataset(pixels, Modality="MR", RescaleSlope="0.5")))
  np.testing.assert_allclose(values(sample), pixels * 0.5, rtol=0, atol=0.5 * 1_000_005 / 65535)


def test_colours(tmp_path: Path) -> None:
  rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
  sample = only(save(tmp_path / "a.dcm", dataset(rgb, Modality="US")))
  np.testing.assert_array_equal(sample.image, rgb)
  assert (sample.photometric, sample.physics) == ("RGB", "none")
  grey = np.repeat(rgb[..., :1], 3, -1)
  sample = only(save(tmp_path / "b.dcm", dataset(grey, Modality="OT")))
  np.testing.assert_array_equal(sample.image, rgb[..., :1])
  assert sample.photometric == "MONOCHROME2"
  ybr = np.full((4, 6, 3), (76, 85, 255), np.uint8)  # red in BT.601
  ds = dataset(ybr, Modality="US", PhotometricInterpretation="YBR_FULL")
  assert np.abs(only(save(tmp_path / "c.dcm", ds)).image.astype(int) - (254, 0, 0)).max() <= 1
  ds = dataset(rgb, Modality="US", PhotometricInterpretation="HSV")
  with pytest.raises(Unreadable):
    only(save(tmp_path / "d.dcm", ds))


def test_palette(tmp_path: Path) -> None:
  pixels = np.array([[0, 1], [2, 2]], np.uint8)
  channels = np.array([[9, 50, 7], [1, 50, 3], [200, 50, 5]], np.uint8)  # entry x colour
  ds = dataset(pixels, Modality="US", PhotometricInterpretation="PALETTE COLOR")
  for name, column in zip(("Red", "Green", "Blue"), channels.T):
    ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 8])
    ds.add_new(f"{name}PaletteColorLookupTableData", "OW", column.tobytes() + b"\0")
  sample = only(save(tmp_path / "a.dcm", ds))
  np.testing.assert_array_equal(sample.image, channels[pixels])
  del ds.RedPaletteColorLookupTableData
  with pytest.raises(Unreadable, match="palette"):
    only(save(tmp_path / "b.dcm", ds))


@pytest.mark.parametrize(
  ("elements", "physics"),
  [
    ({"Modality": "CT"}, "ct"),
    ({"Modality": "CT", "RescaleType": "HU"}, "ct"),
    ({"Modality": "CT", "RescaleType": "US"}, "none"),
    ({"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "projection"),
    ({"Modality": "MG"}, "projection"),
    ({"Modality": "MG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.13.1.3"}, "none"),
    ({"Modality": "XA"}, "projection"),
    ({"Modality": "MR"}, "none"),
    ({"Modality": "", "SOPClassUID": CR}, "projection"),
    ({"Modality": "", "SOPClassUID": DX}, "projection"),
    ({"Modality": "", "SOPClassUID": CT}, "ct"),
  ],
)
def test_physics(tmp_path: Path, elements: dict[str, Any], physics: str) -> None:
  ds = dataset(np.zeros((2, 2), np.uint16), **elements)
  assert only(save(tmp_path / "a.dcm", ds)).physics == physics


def test_group_is_the_patient_else_the_study_else_the_series_else_the_folder(
  tmp_path: Path,
) -> None:
  folder = tmp_path / "ward" / "bed 4"
  folder.mkdir(parents=True)
  ds = dataset(SIGNED, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.5")
  path = folder / "a.dcm"
  assert only(save(path, ds)).group == f"{SECRET}-1"
  ds.PatientID = "  "
  assert only(save(path, ds)).group == "1.2.4"
  del ds.StudyInstanceUID
  assert only(save(path, ds)).group == "1.2.5"
  del ds.SeriesInstanceUID, ds.PatientID
  assert only(save(path, ds)).group == "bed 4"
  (sample,) = read(path, root=tmp_path)
  assert (sample.group, sample.source) == ("ward/bed 4", "ward/bed 4/a.dcm")


def test_spacing_that_makes_no_sense_is_unknown(tmp_path: Path) -> None:
  for spacing in (["0", "0"], ["1e-9", "1"], ["0.5", "4000"], ["-1", "1"]):
    ds = dataset(SIGNED, PixelSpacing=spacing)
    assert all(map(math.isnan, only(save(tmp_path / "a.dcm", ds)).spacing_mm))


def test_overlays_and_private_elements_do_not_matter(tmp_path: Path) -> None:
  ds = dataset(SIGNED)
  ds.add_new(0x60000010, "US", 9999)
  ds.add_new(0x60000011, "US", 9999)
  ds.add_new(0x60000050, "SS", [-50, 70])
  ds.add_new(0x60003000, "OW", b"\1\2")
  ds.add_new(0x00290010, "LO", "MAKER")
  ds.add_new(0x00291010, "UN", b"\xfe\xff\x00\xe0\x10\0\0\0junk")
  np.testing.assert_array_equal(values(only(save(tmp_path / "a.dcm", ds))), SIGNED)


SCENE = (200 + 4 * np.arange(4096) % 1000).reshape(64, 64).astype(np.uint16)  # 200 to 1196


@pytest.mark.parametrize(
  ("elements", "shown", "noted"),
  [
    # In stored values, of a CT whose numbers begin at -8192: all HU lie below it.
    ({"RescaleIntercept": "-600", "WindowCenter": "8232", "WindowWidth": "400"}, None, True),
    ({"RescaleIntercept": "-600", "WindowCenter": "40", "WindowWidth": "400"}, (-160, 239), False),
    # Air alone, beside a window of tissue.
    ({"RescaleIntercept": "-1900", "WindowCenter": "40", "WindowWidth": "400"}, (-160, 239), False),
    # A copy of another radiograph's.
    ({"Modality": "CR", "BitsStored": 12, "WindowCenter": "3500", "WindowWidth": "500"}, 12, True),
    ({"Modality": "CR", "BitsStored": 12, "WindowCenter": "-9", "WindowWidth": "9"}, 12, True),
    # The next window is of this image.
    ({"Modality": "CR", "BitsStored": 12, "WindowCenter": ["3500", "700"],
      "WindowWidth": ["500", "500"]}, (450, 949), True),
    # Far wider than pixels can be.
    ({"Modality": "CR", "BitsStored": 12, "WindowCenter": "9000", "WindowWidth": "18000"},
     12, True),
    ({"RescaleIntercept": "-600", "WindowCenter": "40", "WindowWidth": "65536"}, None, True),
    ({"Modality": "CR", "BitsStored": 12, "WindowCenter": "700", "WindowWidth": "500"},
     (450, 949), False),
  ],
)  # fmt: skip
def test_a_window_that_misses_the_pixels_is_not_used(
  tmp_path: Path, elements: dict[str, Any], shown: Any, noted: bool
) -> None:
  if "BitsStored" in elements:
    elements = {**elements, "HighBit": 11}
  sample = only(save(tmp_path / "a.dcm", dataset(SCENE, RescaleSlope="1", **elements)))
  expected = {None: (-1024.0, 3071.0), 12: (0.0, 4095.0)}.get(shown, shown)
  assert sample.value_range == pytest.approx(expected)
  assert any("window" in note for note in sample.notes) == noted


@pytest.mark.parametrize(
  ("elements", "kind"),
  [
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "scouts"),
    ({"SeriesDescription": "Topogram 0.6 T20s"}, "scouts"),
    ({"Modality": "MR", "SeriesDescription": "3-plane Localiser"}, "scouts"),
    ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "captures"),
    ({"ImageType": ["ORIGINAL", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "captures"),
    ({"SOPClassUID": CAPTURE}, "captures"),
    ({"SOPClassUID": CAPTURE, "Modality": "OT", "SeriesDescription": "Dose Report"}, "captures"),
    ({"SOPClassUID": CAPTURE, "Modality": "CR"}, "captures"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, ""),
    ({"Modality": "DX", "SeriesDescription": "Abdomen low dose"}, ""),
  ],
)
def test_what_is_no_image_of_a_set_is_left_out_unless_asked_for(
  tmp_path: Path, elements: dict[str, Any], kind: str
) -> None:
  path = save(tmp_path / "a.dcm", dataset(SCENE, **elements))
  assert len(list(read(path))) == 1
  if kind:
    with pytest.raises(LeftOut, match=f"--keep {kind}"):
      list(read(path, keep=()))
  assert len(list(read(path, keep=(kind,)))) == 1


def test_attributes_with_one_obvious_value_are_filled_in(tmp_path: Path) -> None:
  for missing in (
    ["PhotometricInterpretation"], ["SamplesPerPixel"], ["BitsStored", "HighBit"], ["HighBit"],
    ["BitsAllocated", "BitsStored", "HighBit"], ["PixelRepresentation"],
  ):  # fmt: skip
    ds = dataset(SCENE)
    for keyword in missing:
      delattr(ds, keyword)
    sample = only(save(tmp_path / "a.dcm", ds))
    np.testing.assert_array_equal(sample.image[..., 0], SCENE)
    assert missing[-1] in sample.notes[0]
  assert only(save(tmp_path / "a.dcm", dataset(SCENE))).notes == ()
  rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
  ds = dataset(rgb, Modality="US")
  del ds.PhotometricInterpretation, ds.PlanarConfiguration
  np.testing.assert_array_equal(only(save(tmp_path / "a.dcm", ds)).image, rgb)
  two = dataset(np.stack([SCENE, SCENE // 2]), frames=2)
  del two.NumberOfFrames
  samples = list(read(save(tmp_path / "a.dcm", two)))
  assert [sample.source for sample in samples] == ["a.dcm#0", "a.dcm#1"]
  np.testing.assert_array_equal(samples[1].image[..., 0], SCENE // 2)
  two.NumberOfFrames = 1
  assert len(list(read(save(tmp_path / "a.dcm", two)))) == 1
  signed = dataset(SIGNED)
  del signed.PixelRepresentation
  with pytest.raises(Unreadable, match="signed"):
    only(save(tmp_path / "a.dcm", signed))


def test_a_modality_lut_without_a_table_is_none(tmp_path: Path) -> None:
  for entry in (Dataset(), item(ModalityLUTType="HU"), item(LUTExplanation="none")):
    ds = dataset(SCENE, RescaleSlope="2", ModalityLUTSequence=Sequence([entry]))
    np.testing.assert_array_equal(values(only(save(tmp_path / "a.dcm", ds))), SCENE * 2.0)


def test_a_tilted_gantry_is_told(tmp_path: Path) -> None:
  for tilt, notes in (("0", 0), ("-15", 1)):
    sample = only(save(tmp_path / "a.dcm", dataset(SCENE, GantryDetectorTilt=tilt)))
    assert len(sample.notes) == notes
