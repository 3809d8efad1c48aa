"""PNG, JPEG and TIFF files of 8 or 16 bits, grey or RGB, recognised by their content."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps
from tifffile import PHOTOMETRIC, TiffPage

from hiresmed_jax.data.readers.guard import check_growth, check_size, or_unreadable
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.data.stored import (
  CT_RANGE,
  full_range,
  source_of,
  to_stored,
  with_channels,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY = {"1": "L", "L": "L", "LA": "L", "I;16": "I;16", "I;16B": "I;16B", "I": "I"}
_COLOUR = ("RGB", "RGBA", "P", "PA")
_TIFF_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_TIFF_KINDS = (*_TIFF_GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)
_DAMAGED = "is damaged or cut short"


def read(
  path: Path,
  *,
  root: Path | None = None,
  group: str | None = None,
  physics: str = "none",
  spacing_mm: tuple[float, float] = (math.nan, math.nan),
) -> Iterator[Sample]:
  """The images of one file: one, or one a page of a TIFF.

  Args:
    path: a PNG, JPEG or TIFF file.
    root: folder that `source` is relative to; None gives the file's name alone.
    group: patient or series name; None takes the file's stem.
    physics: "projection", "ct" or "none".
    spacing_mm: (row, column) distance of pixel centres, NaN when unknown.

  Yields:
    Sample with 8-bit data as 0..255, 16-bit data as they are, signed data shifted, float data
    quantised to 16 bits; EXIF orientation applied, alpha dropped, three equal channels made one.

  Raises:
    Unreadable: not such a file, damaged, too large, or values that are not finite.
  """
  with or_unreadable("cannot be opened"):
    data = path.read_bytes()
  source = source_of(path, root)
  count, pages = _pages(data) if data.startswith(_TIFF) else (1, iter([_decoded(data)]))
  for index, (raw, photometric) in enumerate(pages):
    stored, scale, offset = to_stored(raw)
    image = with_channels(stored)
    is_hounsfield = physics == "ct" and raw.dtype.kind in "if"
    yield Sample(
      image=image,
      group=path.stem if group is None else group,
      source=f"{source}#{index}" if count > 1 else source,
      rescale_slope=scale,
      rescale_intercept=offset,
      value_range=CT_RANGE if is_hounsfield else full_range(raw),
      photometric="RGB" if image.shape[-1] == 3 else photometric,
      physics=physics,
      spacing_mm=spacing_mm,
    )


def _what_it_is(data: bytes) -> str:
  if not data:
    return "is empty"
  head = data[:512]
  is_text = b"\0" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) == 0
  return "is not a PNG, JPEG or TIFF image" + (" but text" if is_text else "")


def _decoded(data: bytes) -> tuple[np.ndarray, str]:
  """(pixels [H, W] or [H, W, 3], "MONOCHROME2") of a PNG or JPEG."""
  if not data.startswith((_PNG, _JPEG)):
    raise Unreadable(_what_it_is(data))
  with or_unreadable(_DAMAGED):
    try:
      image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
      raise Unreadable("declares more pixels than this program opens") from None
    check_size(image.height, image.width, 8)
    check_growth(image.height * image.width * len(image.getbands()), len(data))
    is_png = data.startswith(_PNG)
    if is_png:
      image.verify()  # decoders ignore a wrong checksum; a verified image must be opened again
      image = Image.open(io.BytesIO(data), formats=("PNG",))
    if is_png and data[24] == 16 and data[25] != 0:  # 16-bit, not plain grey
      pixels = _by_opencv(data)
    else:
      image.load()
      pixels = _by_pillow(ImageOps.exif_transpose(image))
  return pixels, "MONOCHROME2"


def _by_opencv(data: bytes) -> np.ndarray:
  flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
  pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if pixels is None:
    raise Unreadable(_DAMAGED)
  return np.asarray(pixels if pixels.ndim == 2 else pixels[..., 2::-1])


def _by_pillow(image: Image.Image) -> np.ndarray:
  if image.mode in _GREY:
    grey = np.asarray(image.convert(_GREY[image.mode]))
    return grey.astype(np.uint16) if image.mode.startswith("I") else grey
  if image.mode in _COLOUR:
    return np.asarray(image.convert("RGB"))
  raise Unreadable(f"has colours of kind {image.mode}, neither grey nor RGB")


def _pages(data: bytes) -> tuple[int, Iterator[tuple[np.ndarray, str]]]:
  """(number of pages without previews, iterator over their pixels and photometric) of a TIFF.

  Pixels are [H, W] or [H, W, C] of the file's own type.

  Raises:
    Unreadable: here or from the iterator: damaged, too large, or neither grey nor RGB.
  """
  with or_unreadable(_DAMAGED):
    pages: list[TiffPage] = []
    offsets: set[int] = set()
    for page in tifffile.TiffFile(io.BytesIO(data)).pages:
      if page.offset in offsets:  # a directory that points back to an earlier one never ends
        raise Unreadable(_DAMAGED)
      offsets.add(page.offset)
      if isinstance(page, TiffPage) and not page.is_reduced:
        pages.append(page)
    check_growth(sum(_check(page) for page in pages), len(data))
  if not pages:
    raise Unreadable("holds no image")
  return len(pages), (_page(data, page) for page in pages)


def _check(page: TiffPage) -> int:
  """Bytes of the decoded page. Raises Unreadable unless it is a plain image of allowed size."""
  if page.dtype is None or page.axes not in ("YX", "YXS", "SYX"):
    raise Unreadable("holds a volume or unknown samples, not a plain image")
  if page.photometric not in _TIFF_KINDS:
    raise Unreadable("has colours that are neither grey nor RGB")
  bytes_per_pixel = page.samplesperpixel * page.dtype.itemsize
  check_size(page.imagelength, page.imagewidth, bytes_per_pixel)
  return page.imagelength * page.imagewidth * bytes_per_pixel


def _page(data: bytes, page: TiffPage) -> tuple[np.ndarray, str]:
  inverted = page.photometric == PHOTOMETRIC.MINISWHITE
  photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
  with or_unreadable(_DAMAGED):
    pixels = _by_tifffile(page)
    if pixels is None:
      pixels = _page_by_opencv(data, page.index)
      if pixels.dtype == np.uint8:  # OpenCV has inverted it; it does not invert deeper images
        photometric = "MONOCHROME2"
  return pixels, photometric


def _by_tifffile(page: TiffPage) -> np.ndarray | None:
  """Pixels, or None where the compression or colour needs another decoder."""
  if page.photometric == PHOTOMETRIC.YCBCR:
    return None
  try:
    pixels = page.asarray()
  except ValueError as error:
    if "imagecodecs" in str(error):
      return None
    raise
  if page.photometric == PHOTOMETRIC.PALETTE:
    if page.colormap is None or pixels.ndim != 2:
      raise Unreadable("has a palette image without its palette")
    return (page.colormap >> 8).astype(np.uint8).T[pixels]
  if pixels.dtype == bool:
    return pixels.astype(np.uint8) * np.uint8(255)
  if page.axes == "SYX":
    pixels = np.moveaxis(pixels, 0, -1)
  return pixels


def _page_by_opencv(data: bytes, index: int) -> np.ndarray:
  decoded, images = cv2.imdecodemulti(
    np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(index, index + 1)
  )
  if not decoded or len(images) != 1:
    raise Unreadable("is compressed in a way that no decoder here knows, or damaged")
  pixels = np.asarray(images[0])
  return pixels if pixels.ndim == 2 else pixels[..., 2::-1]
