import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from hiresmed_jax.data.readers.images import read
from hiresmed_jax.data.sample import Sample, Unreadable

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (20, 30), np.uint8)
GREY16 = RNG.integers(0, 65536, (20, 30), np.uint16)
RGB8 = RNG.integers(0, 256, (20, 30, 3), np.uint8)
RGB16 = RNG.integers(0, 65536, (20, 30, 3), np.uint16)


def only(path: Path, **kwargs: object) -> Sample:
  (sample,) = read(path, **kwargs)  # type: ignore[arg-type]
  return sample


def png(array: np.ndarray) -> bytes:
  """By OpenCV, which takes BGR; the reader under test uses Pillow for all but 16-bit colour."""
  if array.ndim == 3:
    array = np.concatenate([array[..., 2::-1], array[..., 3:]], -1)
  return cv2.imencode(".png", array)[1].tobytes()


@pytest.mark.parametrize("array", [GREY8, GREY16, RGB8, RGB16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pixels_come_through_unchanged(tmp_path: Path, array: np.ndarray, suffix: str) -> None:
  path = tmp_path / f"case.{suffix}"
  if suffix == "png":
    path.write_bytes(png(array))
  else:
    tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
  sample = only(path)
  np.testing.assert_array_equal(sample.image, array if array.ndim == 3 else array[..., None])
  assert sample.image.dtype == array.dtype
  assert sample.value_range == (0.0, 255.0 if array.dtype == np.uint8 else 65535.0)
  assert sample.photometric == ("RGB" if array.ndim == 3 else "MONOCHROME2")
  assert (sample.rescale_slope, sample.rescale_intercept) == (1.0, 0.0)


def test_names_physics_and_spacing(tmp_path: Path) -> None:
  path = tmp_path / "ward 3" / "c.png"
  path.parent.mkdir()
  path.write_bytes(png(GREY8))
  sample = only(path, root=tmp_path, physics="projection", spacing_mm=(0.1, 0.2))
  assert (sample.source, sample.group) == ("ward 3/c.png", "c")
  assert (sample.physics, sample.spacing_mm) == ("projection", (0.1, 0.2))
  assert only(path, group="P1").group == "P1"


def test_equal_channels_collapse_and_alpha_is_dropped(tmp_path: Path) -> None:
  path = tmp_path / "a.png"
  for grey in (GREY8, GREY16):
    alpha = np.full_like(grey, 7)
    path.write_bytes(png(np.stack([grey] * 3, -1)))
    np.testing.assert_array_equal(only(path).image, grey[..., None])
    path.write_bytes(png(np.stack([grey, grey, grey, alpha], -1)))
    np.testing.assert_array_equal(only(path).image, grey[..., None])
  path.write_bytes(png(np.concatenate([RGB16, RGB16[..., :1]], -1)))
  np.testing.assert_array_equal(only(path).image, RGB16)
  Image.fromarray(np.stack([GREY8, GREY8 // 2], -1), "LA").save(path)
  np.testing.assert_array_equal(only(path).image, GREY8[..., None])


def test_palette_and_one_bit(tmp_path: Path) -> None:
  path = tmp_path / "a.png"
  Image.fromarray(GREY8 > 99).save(path)
  np.testing.assert_array_equal(only(path).image[..., 0], (GREY8 > 99) * 255)
  indexed = Image.fromarray(GREY8 % 4, "P")
  indexed.putpalette([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0])
  indexed.save(path)
  palette = np.array([[9, 8, 7], [6, 5, 4], [3, 2, 1], [0, 0, 0]])
  np.testing.assert_array_equal(only(path).image, palette[GREY8 % 4])


def test_jpeg_grey_colour_and_turned(tmp_path: Path) -> None:
  path = tmp_path / "a.jpg"
  smooth = cv2.GaussianBlur(GREY8, (0, 0), 3)
  Image.fromarray(smooth).save(path, quality=98)
  assert np.abs(only(path).image[..., 0].astype(int) - smooth).max() <= 3
  Image.fromarray(smooth).convert("RGB").save(path, quality=98)
  assert only(path).image.shape == (20, 30, 1)
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held upright
  Image.fromarray(smooth).save(path, quality=98, exif=exif)
  assert np.abs(only(path).image[..., 0].astype(int) - np.rot90(smooth, -1)).max() <= 3
  Image.new("CMYK", (4, 4)).save(path)
  with pytest.raises(Unreadable, match="CMYK"):
    only(path)


def test_tiff_white_is_zero_is_flagged_not_inverted(tmp_path: Path) -> None:
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, GREY16, photometric="miniswhite")
  sample = only(path)
  np.testing.assert_array_equal(sample.image[..., 0], GREY16)
  assert sample.photometric == "MONOCHROME1"


def test_tiff_signed_and_floating(tmp_path: Path) -> None:
  path = tmp_path / "a.tif"
  units = np.array([[-1024, 40], [3071, 0]], np.int16)
  tifffile.imwrite(path, units)
  sample = only(path, physics="ct")
  np.testing.assert_array_equal(sample.image[..., 0].astype(int) - 32768, units)
  assert sample.rescale_intercept == -32768.0
  assert sample.value_range == (-1024.0, 3071.0)
  ratios = RNG.normal(size=(9, 8)).astype(np.float32)
  tifffile.imwrite(path, ratios)
  sample = only(path)
  values = sample.rescale_slope * sample.image[..., 0] + sample.rescale_intercept
  np.testing.assert_allclose(values, ratios, rtol=0, atol=float(np.ptp(ratios)) / 65535)
  assert sample.value_range == pytest.approx((ratios.min(), ratios.max()))
  ratios[3, 3] = np.nan
  tifffile.imwrite(path, ratios)
  with pytest.raises(Unreadable, match="NaN"):
    only(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_tiff_compressions(tmp_path: Path, compression: str) -> None:
  path = tmp_path / "a.tif"
  Image.fromarray(GREY8).save(path, compression=compression)
  expected = np.asarray(Image.open(path))
  np.testing.assert_array_equal(only(path).image[..., 0], expected)
  Image.fromarray(RGB8).save(path, compression=compression)
  if compression == "jpeg":  # two decoders may round the colours differently
    assert np.abs(only(path).image.astype(int) - np.asarray(Image.open(path))).max() <= 3
  else:
    np.testing.assert_array_equal(only(path).image, RGB8)


def test_damaged_lzw_is_refused(tmp_path: Path) -> None:
  path = tmp_path / "a.tif"
  for array in (GREY8, GREY16, RGB8):
    Image.fromarray(array).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(only(path).image.squeeze(), array)
    whole = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
      start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    whole[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(bytes(whole))
    with pytest.raises(Unreadable):
      only(path)


def test_tiff_white_is_zero_under_opencv(tmp_path: Path) -> None:
  path = tmp_path / "a.tif"
  for array, expected in ((GREY8, 255 - GREY8), (GREY16, GREY16)):
    Image.fromarray(array).save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
      file.pages[0].tags["PhotometricInterpretation"].overwrite(0)  # type: ignore[union-attr]
    sample = only(path)
    np.testing.assert_array_equal(sample.image[..., 0], expected)
    assert sample.photometric == ("MONOCHROME2" if array.dtype == np.uint8 else "MONOCHROME1")


def test_tiff_pages_planes_palette_and_previews(tmp_path: Path) -> None:
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, np.stack([GREY8, GREY8 // 2]), photometric="minisblack")
  samples = list(read(path))
  assert [sample.source for sample in samples] == ["a.tif#0", "a.tif#1"]
  np.testing.assert_array_equal(samples[1].image[..., 0], GREY8 // 2)
  tifffile.imwrite(path, np.moveaxis(RGB8, -1, 0), photometric="rgb", planarconfig="separate")
  np.testing.assert_array_equal(only(path).image, RGB8)
  colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
  tifffile.imwrite(path, GREY8, photometric="palette", colormap=colours * 257)
  np.testing.assert_array_equal(only(path).image, colours.T[GREY8])
  with tifffile.TiffWriter(path) as file:
    file.write(GREY8, photometric="minisblack")
    file.write(GREY8[::2, ::2], photometric="minisblack", subfiletype=1)
  assert only(path).image.shape == (20, 30, 1)
  tifffile.imwrite(
    path,
    np.zeros((4, 32, 32), np.uint8),
    photometric="minisblack",
    volumetric=True,
    tile=(16, 16, 16),
  )
  with pytest.raises(Unreadable, match="volume"):
    only(path)


def test_tiff_directory_that_points_at_itself(tmp_path: Path) -> None:
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, GREY8)
  data = bytearray(path.read_bytes())
  with tifffile.TiffFile(path) as file:
    start = file.pages[0].offset
  (entries,) = struct.unpack_from("<H", data, start)
  struct.pack_into("<I", data, start + 2 + 12 * entries, start)
  path.write_bytes(data)
  with pytest.raises(Unreadable, match="damaged"):
    list(read(path))


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"", "is empty"),
    (b"dear diary, this is no image\n", "but text"),
    ("Gr\u00fc\u00dfe".encode(), "but text"),
    (b"GIF89a\0\0\0\0", "not a PNG, JPEG or TIFF image$"),
    (b"\x89PNG\r\n\x1a\n", "damaged"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "damaged"),
    (b"II*\0\x08\0\0\0", "damaged|no image"),
  ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
  path = tmp_path / "named.png"
  path.write_bytes(content)
  with pytest.raises(Unreadable, match=reason) as caught:
    list(read(path))
  assert "named" not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
  with pytest.raises(Unreadable, match="cannot be opened"):
    list(read(tmp_path / "nothing.png"))


def encoded(kind: str) -> bytes:
  buffer = io.BytesIO()
  if kind == "tif":
    tifffile.imwrite(buffer, GREY16, compression="zlib")
  elif kind == "lzw":
    Image.fromarray(GREY8).save(buffer, "TIFF", compression="tiff_lzw")
  elif kind == "jpg":
    Image.fromarray(GREY8).save(buffer, "JPEG")
  else:
    return png({"png8": GREY8, "png16": GREY16, "rgb16": RGB16}[kind])
  return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png8", "png16", "rgb16", "jpg", "tif"])
def test_truncated_files_are_refused_in_silence(
  tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
  data, path = encoded(kind), tmp_path / "a"
  for share in (0.2, 0.5, 0.9):
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(Unreadable):
      list(read(path))
  assert capfd.readouterr() == ("", "")


def chunk(kind: bytes, content: bytes) -> bytes:
  body = kind + content
  return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
  path = tmp_path / "a.png"
  for side, reason in ((60_000, "than this program opens"), (9_990, "MB of pixels")):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    with pytest.raises(Unreadable, match=reason):
      only(path)
  tifffile.imwrite(path, GREY8)
  with tifffile.TiffFile(path, mode="r+") as file:
    for tag in ("ImageWidth", "ImageLength"):
      file.pages[0].tags[tag].overwrite(1 << 17)  # type: ignore[union-attr]
  with pytest.raises(Unreadable, match="declares"):
    only(path)


@given(
  data=st.binary(max_size=200), head=st.sampled_from(["", "png8", "rgb16", "jpg", "tif", "lzw"])
)
def test_any_bytes_are_an_image_or_unreadable(
  data: bytes, head: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
  path = tmp_path_factory.mktemp("images") / "a.png"
  whole = encoded(head) if head else b""
  at = len(data) * 3 % (len(whole) + 1)
  path.write_bytes(whole[:at] + data + whole[at + len(data) :])
  try:
    samples = list(read(path))
  except Unreadable:
    return
  assert all(isinstance(sample, Sample) for sample in samples)


def jpeg12(levels: list[int]) -> bytes:
  """A 12-bit JPEG of one row of flat 8 x 8 blocks: DC coefficients alone (ITU-T T.81, annex B)."""

  def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

  dc = b"\x00" + bytes([0, 0, 0, 13]) + bytes(12) + bytes(range(13))  # 13 codes of 4 bits
  ac = b"\x10" + bytes([1]) + bytes(15) + b"\0"  # one code, of 1 bit: end of block
  bits, before = "", 0
  for level in levels:
    step = (level - 2048) * 8 - before  # the mean of a block is its DC coefficient over 8
    before += step
    size = abs(step).bit_length()
    bits += f"{size:04b}"
    bits += f"{step if step > 0 else step + (1 << size) - 1:0{size}b}" if size else ""
    bits += "0"
  bits += "1" * (-len(bits) % 8)
  data = bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
  frame = struct.pack(">BHHBBBB", 12, 8, 8 * len(levels), 1, 1, 0x11, 0)
  return (
    b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC1, frame) + segment(0xC4, dc)
    + segment(0xC4, ac) + segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + data + b"\xff\xd9"
  )  # fmt: skip


def test_jpeg_of_12_bits(tmp_path: Path) -> None:
  path, levels = tmp_path / "a.jpg", [2048, 2300, 2020, 2200, 2047]
  path.write_bytes(jpeg12(levels))
  sample = only(path)
  np.testing.assert_array_equal(sample.image[..., 0], np.tile(np.repeat(levels, 8), (8, 1)))
  assert (sample.value_range, sample.bits_stored) == ((0.0, 4095.0), 12)
  whole = path.read_bytes()
  at = whole.index(b"\xff\xda") + 7  # spectral bounds of the scan: 0 to 63 in every such JPEG
  assert whole[at : at + 3] == b"\0\x3f\0"
  path.write_bytes(whole[:at] + bytes(3) + whole[at + 3 :])
  np.testing.assert_array_equal(only(path).image, sample.image)
  path.write_bytes(whole[:-6])
  with pytest.raises(Unreadable):
    only(path)


def test_texts_of_any_length_do_not_matter(tmp_path: Path) -> None:
  path = tmp_path / "a.png"
  texts = PngImagePlugin.PngInfo()
  texts.add_text("report", "x" * 3_000_000, zip=True)
  texts.add_itxt("report", "y" * 3_000_000)
  Image.fromarray(GREY8).save(path, pnginfo=texts, icc_profile=bytes(3_000_000))
  np.testing.assert_array_equal(only(path).image[..., 0], GREY8)
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(Unreadable):
    only(path)


def test_real_images(shared: Path) -> None:
  data = shared / "data"
  nodule = sorted((data / "nodules_ct" / "images").glob("*.png"))[0]
  assert only(nodule).image.shape[-1] == 1
  chest = sorted((data / "cxr" / "images").iterdir())[0]
  assert only(chest).image.shape == (2000, 2000, 1)
  drr = only(data / "abdomen_drr" / "drr_kub_8x_16bit.png")
  assert drr.image.shape == (896, 976, 1)
  assert drr.image.dtype == np.uint16
  assert drr.image.max() > 255
