"""TIFF files written here byte by byte or by Pillow and tifffile, as known arrays."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from hiresmed_jax.data.readers.images import read
from hiresmed_jax.data.sample import Sample, Unreadable

ROWS, COLUMNS = 31, 45
GREY = (np.arange(ROWS)[:, None] * 5 + np.arange(COLUMNS)[None] * 2).astype(np.uint8)


def only(path: Path) -> Sample:
  (sample,) = read(path)
  return sample


def packed(samples: np.ndarray, bits: int, photometric: int = 1, palette: int = 0) -> bytes:
  """A TIFF of one strip of `bits` a pixel, rows padded to bytes (TIFF 6.0, sections 4 and 5)."""
  single = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(ROWS, COLUMNS, 2), axis=-1)
  data = np.packbits(single[..., 16 - bits :].reshape(ROWS, -1), axis=1).tobytes()
  tags = {256: COLUMNS, 257: ROWS, 258: bits, 259: 1, 262: photometric, 277: 1, 278: ROWS}
  colours = b""
  if palette:
    levels = np.linspace(0, palette, 1 << bits).astype("<u2")
    colours = np.concatenate([levels, levels[::-1], levels]).tobytes()
  start = 8 + 2 + 12 * (len(tags) + 2 + bool(palette)) + 4
  tags |= {273: start + len(colours), 279: len(data)} | ({320: start} if palette else {})
  directory = b"".join(
    struct.pack("<HHII", tag, 3 if tag == 320 else 4, 3 << bits if tag == 320 else 1, value)
    for tag, value in sorted(tags.items())
  )
  count = struct.pack("<H", len(tags))
  return b"II*\0\x08\0\0\0" + count + directory + b"\0\0\0\0" + colours + data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_whatever_its_compression(tmp_path: Path, orientation: int) -> None:
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, orientation, True)])
  expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))))
  assert expected.shape == ((COLUMNS, ROWS) if orientation > 4 else (ROWS, COLUMNS))
  np.testing.assert_array_equal(only(path).image[..., 0], expected)
  for array in (GREY, GREY.astype(np.uint16) * 9, np.stack([GREY, GREY // 2, GREY // 3], -1)):
    seen = []
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
      Image.fromarray(array).save(path, compression=compression, tiffinfo={274: orientation})
      seen.append(only(path).image)
      np.testing.assert_array_equal(seen[-1], seen[0])
    assert seen[0].shape[:2] == expected.shape


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_pixels_without_gaps(tmp_path: Path, bits: int) -> None:
  path = tmp_path / "a.tif"
  samples = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * 7 % (1 << bits)).astype(np.uint16)
  levels = samples * (255 // ((1 << bits) - 1)) if bits < 8 else samples
  for photometric, name in ((1, "MONOCHROME2"), (0, "MONOCHROME1")):
    path.write_bytes(packed(samples, bits, photometric))
    sample = only(path)
    np.testing.assert_array_equal(sample.image[..., 0], levels)
    assert sample.value_range == (0.0, 255.0 if bits < 8 else 2.0**bits - 1)
    assert sample.photometric == name
  path.write_bytes(packed(samples, bits)[:-40])
  with pytest.raises(Unreadable):
    only(path)


def test_12_bits_are_what_pillow_reads(tmp_path: Path) -> None:
  samples = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % 4096).astype(np.uint16)
  path = tmp_path / "a.tif"
  path.write_bytes(packed(samples, 12))
  image = Image.open(path)
  assert image.mode == "I;16"
  np.testing.assert_array_equal(np.asarray(image), only(path).image[..., 0])


@pytest.mark.parametrize(("bits", "top"), [(1, 65535), (4, 65535), (1, 255), (4, 255)])
def test_palettes_of_few_colours(tmp_path: Path, bits: int, top: int) -> None:
  path = tmp_path / "a.tif"
  samples = GREY.astype(np.uint16) % (1 << bits)
  path.write_bytes(packed(samples, bits, 3, palette=top))
  level = np.round(np.linspace(0, 255, 1 << bits)).astype(int)
  image = only(path).image
  np.testing.assert_allclose(image[..., 0], level[samples], atol=1)
  np.testing.assert_allclose(image[..., 1], level[::-1][samples], atol=1)
