"""PNG, JPEG and TIFF files, grey or RGB, recognised by their content."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLSLossless

from hiresmed_jax.data.readers import tiff
from hiresmed_jax.data.readers.guard import (
  check_growth,
  check_size,
  ends,
  jpeg_frame,
  mended_jpeg,
  or_unreadable,
  read_file,
)
from hiresmed_jax.data.readers.tiff import Pixels
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
STARTS = (_PNG, _JPEG)
_GREY = {"1": "L", "L": "L", "LA": "L", "I;16": "I;16", "I;16B": "I;16B", "I": "I"}
_COLOUR = ("RGB", "RGBA", "P", "PA")
_DAMAGED = "is damaged or cut short"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # of PNG, which may be larger than Pillow allows
# By the start of a frame: extended sequential, lossless, and JPEG-LS.
_SYNTAXES = {0xC1: JPEGExtended12Bit, 0xC3: JPEGLossless, 0xF7: JPEGLSLossless}


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
    Sample with data of up to 8 bits as 0..255, deeper ones as they are, signed data shifted, float
    data quantised to 16 bits; turned upright (EXIF, TIFF Orientation), alpha dropped, three equal
    channels made one.

  Raises:
    Unreadable: not such a file, damaged, too large, or values that are not finite.
  """
  data = read_file(path)
  source = source_of(path, root)
  count, pages = tiff.pages(data) if data.startswith(tiff.START) else (1, iter([_decoded(data)]))
  for index, (raw, photometric, bits) in enumerate(pages):
    stored, scale, offset = to_stored(raw)
    image = with_channels(stored)
    is_hounsfield = physics == "ct" and raw.dtype.kind in "if"
    yield Sample(
      image=image,
      group=path.stem if group is None else group,
      source=f"{source}#{index}" if count > 1 else source,
      rescale_slope=scale,
      rescale_intercept=offset,
      value_range=CT_RANGE if is_hounsfield else full_range(raw, bits),
      photometric="RGB" if image.shape[-1] == 3 else photometric,
      physics=physics,
      spacing_mm=spacing_mm,
      bits_stored=(8 if stored.dtype == np.uint8 else bits) if raw.dtype.kind in "bu" else 0,
    )


def plain(path: Path) -> np.ndarray:
  """The values [H, W, 1 or 3] of a PNG or JPEG as they are stored, as a mask's.

  Raises:
    Unreadable: see `read`.
  """
  return with_channels(_decoded(read_file(path)).raw)


def _what_it_is(data: bytes) -> str:
  head = data[:512]
  is_text = b"\0" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) == 0
  return "is not a PNG, JPEG or TIFF image" + (" but text" if is_text else "")


def _decoded(data: bytes) -> Pixels:
  """The pixels [H, W] or [H, W, 3] of a PNG or JPEG."""
  if not data.startswith(STARTS):
    raise Unreadable(_what_it_is(data))
  is_png = data.startswith(_PNG)
  with or_unreadable(_DAMAGED):
    data = without_texts(data)
    try:
      image = opened(data)
    except UnidentifiedImageError:
      return _by_dicom_decoders(data)
    if is_png:
      image.verify()  # decoders ignore a wrong checksum; a verified image must be opened again
      image = Image.open(io.BytesIO(data), formats=("PNG",))
    if is_png and data[24] == 16 and data[25] != 0:  # 16-bit, not plain grey
      pixels = _by_opencv(data)
    else:
      image.load()
      pixels = _by_pillow(ImageOps.exif_transpose(image))
  return Pixels(pixels, "MONOCHROME2")


def opened(data: bytes) -> Image.Image:
  """A PNG or JPEG by Pillow, not decoded yet. Raises Unreadable where it is too large."""
  try:
    image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
  except Image.DecompressionBombError:
    raise Unreadable("declares more pixels than this program opens") from None
  check_size(image.height, image.width, 8)
  check_growth(image.height * image.width * len(image.getbands()), len(data))
  return image


def without_texts(data: bytes) -> bytes:
  """A PNG without its texts and its colour profile; one that is damaged, and a JPEG, as it is."""
  if not data.startswith(_PNG):
    return data
  kept, start, at = [], 0, len(_PNG)  # `start` of what is kept next, `at` of the chunk
  while at + 12 <= len(data):
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    if end > len(data):
      return data
    if data[at + 4 : at + 8] in _TEXTS:
      kept.append(data[start:at])
      start = end
    at = end
  return b"".join([*kept, data[start:]]) if kept else data


def is_jpeg(data: bytes) -> bool:
  """Whether a file begins as a JPEG does."""
  return data.startswith(_JPEG)


def _by_dicom_decoders(data: bytes) -> Pixels:
  """A grey JPEG of 12 bits or without loss, which Pillow does not read, by pydicom's decoders."""
  frame = jpeg_frame(data)
  syntax = _SYNTAXES.get(frame.marker) if frame else None
  shallow = frame is not None and frame.bits == 8 and syntax == JPEGExtended12Bit
  if frame is None or syntax is None or shallow or not ends(data):
    raise Unreadable(_DAMAGED)
  check_size(frame.rows, frame.columns, 2)
  check_growth(frame.rows * frame.columns, len(data))
  facts: dict[str, Any] = {
    "rows": frame.rows,
    "columns": frame.columns,
    "number_of_frames": 1,
    "samples_per_pixel": 1,
    "photometric_interpretation": "MONOCHROME2",
    "bits_allocated": 8 if frame.bits <= 8 else 16,
    "bits_stored": frame.bits,
    "pixel_representation": 0,
    "pixel_keyword": "PixelData",
  }
  pixels, _ = get_decoder(syntax).as_array(encapsulate([mended_jpeg(data)]), **facts)
  return Pixels(pixels, "MONOCHROME2", max(frame.bits, 9))


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
