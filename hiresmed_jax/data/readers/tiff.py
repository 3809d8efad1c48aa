"""The pages of a TIFF file of 1 to 64 bits, grey, palette or RGB, turned as its tag says.

tifffile decodes what needs no codec, OpenCV and then Pillow the rest.
"""

import io
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffPage

from hiresmed_jax.data.readers.guard import check_growth, check_size, or_unreadable
from hiresmed_jax.data.sample import Unreadable

START = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_KINDS = (*_GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)
_DAMAGED = "is damaged or cut short"
_PACKED = (2, 4, 10, 12, 14)  # bits of pixels that lie in bytes without gaps
_DEFLATE = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_ROWS = 256  # of packed pixels that are unpacked at a time


class Pixels(NamedTuple):
  """A decoded image.

  Attributes:
    raw: [H, W] or [H, W, C] of the file's own type.
    photometric: "MONOCHROME1" or "MONOCHROME2"; colours count as the latter.
    bits: of 16 that a pixel can use.
  """

  raw: np.ndarray
  photometric: str
  bits: int = 16


def pages(data: bytes) -> tuple[int, Iterator[Pixels]]:
  """(number of pages without previews, iterator over them) of a TIFF.

  Raises:
    Unreadable: here or from the iterator: damaged, too large, or neither grey nor RGB.
  """
  with or_unreadable(_DAMAGED):
    found: list[TiffPage] = []
    offsets: set[int] = set()
    for page in tifffile.TiffFile(io.BytesIO(data)).pages:
      if page.offset in offsets:  # a directory that points back to an earlier one never ends
        raise Unreadable(_DAMAGED)
      offsets.add(page.offset)
      if isinstance(page, TiffPage) and not page.is_reduced:
        found.append(page)
    check_growth(sum(_check(page) for page in found), len(data))
  if not found:
    raise Unreadable("holds no image")
  return len(found), (_page(data, page) for page in found)


def _check(page: TiffPage) -> int:
  """Bytes of the decoded page. Raises Unreadable unless it is a plain image of allowed size."""
  if page.dtype is None or page.axes not in ("YX", "YXS", "SYX"):
    raise Unreadable("holds a volume or unknown samples, not a plain image")
  if page.photometric not in _KINDS:
    raise Unreadable("has colours that are neither grey nor RGB")
  bytes_per_pixel = page.samplesperpixel * page.dtype.itemsize
  check_size(page.imagelength, page.imagewidth, bytes_per_pixel)
  return page.imagelength * page.imagewidth * bytes_per_pixel


def _page(data: bytes, page: TiffPage) -> Pixels:
  inverted = page.photometric == PHOTOMETRIC.MINISWHITE
  photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
  bits = page.bitspersample if page.bitspersample in _PACKED else 16
  with or_unreadable(_DAMAGED):
    decoded = _unpacked(page) if bits < 16 else _by_tifffile(page)
    if decoded is not None:
      return Pixels(turned(_coloured(page, decoded, bits), _orientation(page)), photometric, bits)
    decoded = _by_opencv(data, page.index) if bits == 16 and not _is_plain_lzw(page) else None
    if decoded is None:
      decoded = _by_pillow(data, page.index, inverted=inverted)
    elif decoded.dtype == np.uint8:  # OpenCV inverts images of 8 bits and no others
      photometric = "MONOCHROME2"
  return Pixels(decoded, photometric, bits)


def _orientation(page: TiffPage) -> int:
  tag = page.tags.get("Orientation")
  return int(tag.value) if tag is not None else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Pixels [H, W, ...] as seen upright, by the tag Orientation (1 to 8; others do nothing)."""
  if orientation in (5, 6, 7, 8):
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return pixels


def _by_tifffile(page: TiffPage) -> np.ndarray | None:
  """Samples, or None where the compression or colour needs another decoder."""
  if page.photometric == PHOTOMETRIC.YCBCR:
    return None
  try:
    return page.asarray()
  except ValueError as error:
    if "imagecodecs" in str(error):
      return None
    raise


def _unpacked(page: TiffPage) -> np.ndarray | None:
  """Samples uint8|uint16 [H, W] of `_PACKED` bits; None where that needs another decoder.

  Rows begin with a byte (TIFF 6.0, Compression 1).
  """
  bits, width = page.bitspersample, page.imagewidth
  plain = page.samplesperpixel == 1 and page.predictor == 1 and page.fillorder == 1
  compressed = page.compression in _DEFLATE
  if not plain or page.is_tiled or not (compressed or page.compression == COMPRESSION.NONE):
    return None
  row_bytes = (width * bits + 7) // 8
  rows: list[np.ndarray] = []
  file = page.parent.filehandle
  for offset, count in zip(page.dataoffsets, page.databytecounts):
    file.seek(offset)
    strip = file.read(count)
    if compressed:
      strip = zlib.decompressobj().decompress(strip, page.imagelength * row_bytes)
    whole = np.frombuffer(strip, np.uint8)[: len(strip) // row_bytes * row_bytes]
    packed = whole.reshape(-1, row_bytes)
    for first in range(0, len(packed), _ROWS):
      single = np.unpackbits(packed[first : first + _ROWS], axis=1)[:, : width * bits]
      weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
      numbers = single.reshape(-1, width, bits) @ weights
      rows.append(numbers.astype(np.uint8 if bits <= 8 else np.uint16))
  pixels = np.concatenate(rows)[: page.imagelength]
  if len(pixels) < page.imagelength:
    raise Unreadable(_DAMAGED)
  return pixels


def _coloured(page: TiffPage, samples: np.ndarray, bits: int) -> np.ndarray:
  """Samples as grey values or RGB: the palette applied, 1, 2 and 4 bits spread over 0 to 255."""
  if page.photometric == PHOTOMETRIC.PALETTE:
    if page.colormap is None or samples.ndim != 2:
      raise Unreadable("has a palette image without its palette")
    colours: np.ndarray = page.colormap
    if colours.max() > 255:  # some programs write 8 bits of the 16
      colours = colours >> 8
    return colours.astype(np.uint8).T[samples.astype(np.intp)]
  if samples.dtype == bool:
    return samples.astype(np.uint8) * np.uint8(255)
  if bits < 8:
    return samples * np.uint8(255 // ((1 << bits) - 1))
  return np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples


def _is_plain_lzw(page: TiffPage) -> bool:
  """Whether Pillow reads a page of LZW, of which OpenCV fills up what is damaged."""
  grey = page.photometric == PHOTOMETRIC.MINISBLACK and page.samplesperpixel == 1
  colour = page.photometric == PHOTOMETRIC.RGB and page.samplesperpixel == 3
  unsigned = page.sampleformat == 1
  shallow = page.bitspersample == 8 or (grey and page.bitspersample == 16)
  return page.compression == COMPRESSION.LZW and unsigned and shallow and (grey or colour)


def _by_opencv(data: bytes, index: int) -> np.ndarray | None:
  """The page, turned as its tag says; None where it cannot be decoded."""
  decoded, images = cv2.imdecodemulti(
    np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(index, index + 1)
  )
  if not decoded or len(images) != 1:
    return None
  pixels = np.asarray(images[0])
  return pixels if pixels.ndim == 2 else pixels[..., 2::-1]


def _by_pillow(data: bytes, index: int, *, inverted: bool) -> np.ndarray:
  """The page, turned as its tag says; what Pillow has inverted is turned back."""
  try:
    image = Image.open(io.BytesIO(data), formats=("TIFF",))
    image.seek(index)
    image.load()
  except (OSError, ValueError, SyntaxError, EOFError):
    raise Unreadable("is compressed in a way that no decoder here knows, or damaged") from None
  if image.mode in ("P", "RGB", "RGBA", "YCbCr"):
    return np.asarray(image.convert("RGB"))
  grey = np.asarray(image.convert("L") if image.mode == "1" else image)
  if image.mode.startswith("I"):
    return grey.astype(np.uint16)
  if image.mode not in ("1", "L"):
    raise Unreadable("has colours that are neither grey nor RGB")
  return 255 - grey if inverted else grey
