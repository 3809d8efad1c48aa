"""PNG, JPEG and TIFF files of 8 or 16 bits, grey or RGB; content decides, not the file's name."""

import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps
from tifffile import PHOTOMETRIC, TiffPage

from hiresmed_jax.data.readers.guard import check_growth, check_size, foreign
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
    root: folder that `source` is relative to; None gives the bare file name.
    group: patient or series name; None takes the file's stem, which makes every file its own
      group: say more where several images belong to one patient.
    physics: "projection", "ct" or "none"; nothing in such a file tells.
    spacing_mm: (row, column) distance of pixel centres, NaN when unknown.

  Yields:
    Sample with 8-bit data as 0..255, 16-bit data as they are, signed data shifted, float data
    quantised to 16 bits; EXIF orientation applied, alpha dropped, three equal channels made one.

  Raises:
    Unreadable: not such a file, damaged, too large, or values that are not finite.
  """
  with foreign("cannot be opened"):
    data = path.read_bytes()
  source = source_of(path, root)
  known = Sample(
    image=np.zeros((1, 1, 1), np.uint8),
    group=path.stem if group is None else group,
    source=source,
    physics=physics,
    spacing_mm=spacing_mm,
  )
  if data.startswith(_TIFF):
    count, pages = read_pages(data)
    for index, (raw, photometric) in enumerate(pages):
      name = f"{source}#{index}" if count > 1 else source
      yield _filled(dataclasses.replace(known, source=name), raw, photometric)
    return
  if not data.startswith((_PNG, _JPEG)):
    raise Unreadable(_what_it_is(data))
  yield _filled(known, _decoded(data), "MONOCHROME2")


def _filled(known: Sample, raw: np.ndarray, photometric: str) -> Sample:
  stored, scale, offset = to_stored(raw)
  image = with_channels(stored)
  signed = raw.dtype.kind in "if"
  return dataclasses.replace(
    known,
    image=image,
    rescale_slope=scale,
    rescale_intercept=offset,
    value_range=CT_RANGE if known.physics == "ct" and signed else full_range(raw),
    photometric="RGB" if image.shape[-1] == 3 else photometric,
  )


def _what_it_is(data: bytes) -> str:
  if not data:
    return "is empty"
  head = data[:512]
  is_text = b"\0" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) == 0
  return "is not a PNG, JPEG or TIFF image" + (" but text" if is_text else "")


def _decoded(data: bytes) -> np.ndarray:
  """Pixels of a PNG or JPEG: [H, W] or [H, W, 3]."""
  with foreign(_DAMAGED):
    try:
      image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
      raise Unreadable("declares more pixels than this program opens") from None
    check_size(image.height, image.width, 8)
    check_growth(image.height * image.width * len(image.getbands()), len(data))
    is_png = data.startswith(_PNG)
    if is_png:
      image.verify()  # decoders pass over a wrong checksum; a verified image must be opened anew
      image = Image.open(io.BytesIO(data), formats=("PNG",))
    if is_png and data[24] == 16 and data[25] != 0:  # 16-bit, not plain grey
      pixels = _by_opencv(data)
    else:
      image.load()
      pixels = _by_pillow(ImageOps.exif_transpose(image))
  return pixels


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


_TIFF_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_READ = (*_TIFF_GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)


def read_pages(data: bytes) -> tuple[int, Iterator[tuple[np.ndarray, str]]]:
  """Opens a TIFF file held in memory.

  Returns:
    (number of pages without previews, iterator over (pixels [H, W] or [H, W, C] of the file's own
    type, "MONOCHROME1" or "MONOCHROME2")).

  Raises:
    Unreadable: here or from the iterator: damaged, too large, or neither grey nor RGB.
  """
  with foreign(_DAMAGED):
    pages: list[TiffPage] = []
    offsets: set[int] = set()
    for page in tifffile.TiffFile(io.BytesIO(data)).pages:
      if page.offset in offsets:  # a directory that points back at an earlier one never ends
        raise Unreadable(_DAMAGED)
      offsets.add(page.offset)
      if isinstance(page, TiffPage) and not page.is_reduced:
        pages.append(page)
    check_growth(sum(_check(page) for page in pages), len(data))
  if not pages:
    raise Unreadable("holds no image")
  return len(pages), (_page(data, page) for page in pages)


def _check(page: TiffPage) -> int:
  """Bytes of the decoded page, once it is known to be a plain image of a sane size."""
  if page.dtype is None or page.axes not in ("YX", "YXS", "SYX"):
    raise Unreadable("holds a volume or unknown samples, not a plain image")
  if page.photometric not in _READ:
    raise Unreadable("has colours that are neither grey nor RGB")
  bytes_per_pixel = page.samplesperpixel * page.dtype.itemsize
  check_size(page.imagelength, page.imagewidth, bytes_per_pixel)
  return page.imagelength * page.imagewidth * bytes_per_pixel


def _page(data: bytes, page: TiffPage) -> tuple[np.ndarray, str]:
  inverted = page.photometric == PHOTOMETRIC.MINISWHITE
  photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
  with foreign(_DAMAGED):
    pixels = _by_tifffile(page)
    if pixels is None:
      pixels = _page_by_opencv(data, page.index)
      if pixels.dtype == np.uint8:  # OpenCV turned it over; it leaves deeper images as they are
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
