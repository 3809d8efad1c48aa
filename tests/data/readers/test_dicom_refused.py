"""DICOM files that are refused, and what refusing them must not cost or tell."""

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
  DeflatedExplicitVRLittleEndian,
  JPEG2000Lossless,
  JPEGBaseline8Bit,
  JPEGExtended12Bit,
  RLELossless,
)

from hiresmed_jax.data.readers import guard
from hiresmed_jax.data.readers.dicom import read
from hiresmed_jax.data.sample import Sample, Unreadable
from tests.data.readers.dicom_files import (
  SECRET,
  SIGNED,
  dataset,
  item,
  lut,
  only,
  save,
)
from tests.data.readers.test_images import jpeg12


@pytest.mark.parametrize(
  ("elements", "reason"),
  [
    ({"Modality": "SEG"}, "segmentation"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "segmentation"),
    ({"Modality": "RTDOSE"}, "radiotherapy"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "radiotherapy"),
    ({"Rows": 0}, "empty image"),
    ({"Rows": 65535, "Columns": 65535}, "more than this program"),
    ({"Rows": 3}, "declares 12 bytes of pixels and holds 8"),
    ({"NumberOfFrames": 100_000_000}, "declares 800000000 bytes"),
    ({"NumberOfFrames": -1}, "no frames"),
    ({"BitsAllocated": 12}, "12 bits"),
    ({"SamplesPerPixel": 3}, "declares"),
    ({"PhotometricInterpretation": "SEPIA"}, "cannot be decoded"),
    ({"RescaleSlope": "0"}, "slope"),
    ({"RescaleSlope": "1e306"}, "slope"),
    ({"RescaleSlope": "1", "RescaleIntercept": "1e300"}, "slope"),
    ({"PixelData": b""}, "no pixels"),
    ({"ModalityLUTSequence": lut(0, [1, 2, 3], bits=13)}, "modality LUT"),
  ],
)
def test_what_is_no_image_is_refused_with_its_reason(
  tmp_path: Path, elements: dict[str, Any], reason: str
) -> None:
  path = save(tmp_path / "a.dcm", dataset(SIGNED, **elements))
  with pytest.raises(Unreadable, match=reason) as caught:
    list(read(path))
  assert SECRET not in str(caught.value)


def test_a_slope_that_is_text_is_refused(tmp_path: Path) -> None:
  path = save(tmp_path / "a.dcm", dataset(SIGNED, RescaleSlope="1.25"))
  path.write_bytes(path.read_bytes().replace(b"1.25", b"Jane"))
  with pytest.raises(Unreadable, match="slope") as caught:
    only(path)
  assert "Jane" not in str(caught.value)


def test_a_frame_larger_than_its_header_says_is_never_decoded(tmp_path: Path) -> None:
  size = struct.pack(">HH4I", 47, 0, 60_000, 60_000, 0, 0)
  codestream = b"\xff\x4f\xff\x51" + size + bytes(60)
  ds = dataset(SIGNED)
  ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
  ds.PixelData = encapsulate([codestream])
  ds["PixelData"].is_undefined_length = True
  with pytest.raises(Unreadable, match="another size"):
    only(save(tmp_path / "a.dcm", ds))


def test_compressed_pixels_that_claim_too_much_are_refused(tmp_path: Path) -> None:
  ds = dataset(SIGNED, Rows=9000, Columns=9000)
  ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
  ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
  ds["PixelData"].is_undefined_length = True
  with pytest.raises(Unreadable, match="162 MB of pixels"):
    only(save(tmp_path / "a.dcm", ds))
  ds.Rows = ds.Columns = 2
  with pytest.raises(Unreadable, match=r"cannot be decoded \(JPEG Baseline"):
    only(save(tmp_path / "b.dcm", ds))


def test_jpegs_that_are_cut_short_are_refused(tmp_path: Path) -> None:
  """Decoders fill up what is missing, without a word."""
  levels = [2048, 2300, 2020, 2200]
  ds = dataset(np.zeros((8, 32), np.uint16), BitsStored=12, HighBit=11)
  ds.file_meta.TransferSyntaxUID = JPEGExtended12Bit
  for cut, sound in ((None, True), (-2, False), (-8, False)):
    ds.PixelData = encapsulate([jpeg12(levels)[:cut]])
    ds["PixelData"].is_undefined_length = True
    path = save(tmp_path / "a.dcm", ds)
    if sound:
      np.testing.assert_array_equal(only(path).image[0, ::8, 0], levels)
    else:
      with pytest.raises(Unreadable, match="cut short"):
        only(path)


def test_a_panic_in_a_decoder_is_a_refusal(tmp_path: Path) -> None:
  ds = dataset(SIGNED)
  ds.file_meta.TransferSyntaxUID = RLELossless
  run = bytes([0x81, 7])  # 128 bytes where the segment has room for 4
  header = struct.pack("<16I", 2, 64, 64 + len(run), *(0,) * 13)
  ds.PixelData = encapsulate([header + run + run])
  ds["PixelData"].is_undefined_length = True
  with pytest.raises(Unreadable, match="cannot be decoded"):
    only(save(tmp_path / "a.dcm", ds))


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  ds = dataset(np.zeros((600, 600), np.uint16))
  ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
  path = save(tmp_path / "a.dcm", ds)
  assert only(path).image.shape == (600, 600, 1)
  monkeypatch.setattr(guard, "MAX_INFLATED_BYTES", 1 << 19)
  with pytest.raises(Unreadable, match="unpacks to more"):
    only(path)


def test_sizes_in_codestreams() -> None:
  jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11\x08\x00\x10\x00\x20\x03" + bytes(9)
  assert guard.codestream_size(jpeg) == (16, 32)
  assert guard.codestream_size(jpeg.replace(b"\xc0", b"\xf7")) == (16, 32)
  for nothing in (b"", b"\xff\xd8", jpeg[:16], b"RLE or anything else"):
    assert guard.codestream_size(nothing) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 132, b"\x89PNG\r\n\x1a\n" + bytes(99), b"words"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
  path = tmp_path / "a.dcm"
  path.write_bytes(content)
  with pytest.raises(Unreadable, match=r"empty|not a DICOM"):
    list(read(path))
  with pytest.raises(Unreadable, match="cannot be opened"):
    list(read(tmp_path / "nothing.dcm"))


@given(data=st.binary(max_size=400), head=st.sampled_from([b"", bytes(128) + b"DICM"]))
def test_any_bytes_are_refused(
  data: bytes, head: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
  path = tmp_path_factory.mktemp("dicom") / "a.dcm"
  path.write_bytes(head + data)
  with pytest.raises(Unreadable):
    list(read(path))


@given(data=st.binary(min_size=1, max_size=8), share=st.floats(0, 1))
def test_a_damaged_file_is_read_or_refused(
  data: bytes, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
  path = tmp_path_factory.mktemp("dicom") / "a.dcm"
  ds = dataset(
    SIGNED, WindowCenter="40", WindowWidth="400", PixelSpacing=["1", "1"], RescaleSlope="1",
    SharedFunctionalGroupsSequence=Sequence([
      item(PixelMeasuresSequence=Sequence([item(PixelSpacing=["2", "2"])]))
    ]),
    VOILUTSequence=lut(0, [0, 1, 2]), ModalityLUTSequence=lut(0, [0, 1, 2]),
  )  # fmt: skip
  whole = save(path, ds).read_bytes()
  at = 128 + int(share * (len(whole) - 128))
  path.write_bytes(whole[:at] + data + whole[at + len(data) :])
  with contextlib.suppress(Unreadable):
    for sample in read(path):
      assert isinstance(sample, Sample)


def test_a_pixel_attribute_of_no_known_type_is_a_refusal(tmp_path: Path) -> None:
  path = save(tmp_path / "a.dcm", dataset(SIGNED))
  whole = path.read_bytes()
  tag = struct.pack("<HH", 0x28, 0x02)  # SamplesPerPixel
  path.write_bytes(whole.replace(tag + b"US", tag + b"U\0"))
  with pytest.raises(Unreadable):
    list(read(path))


def test_written_files_are_what_pydicom_says(tmp_path: Path) -> None:
  path = save(tmp_path / "a.dcm", dataset(SIGNED))
  np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, SIGNED)
