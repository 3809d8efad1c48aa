"""The pages of a TIFF file: tifffile decodes, and OpenCV where tifffile lacks the compression."""

import io
from collections.abc import Iterator

import cv2
import numpy as np
import tifffile
from tifffile import PHOTOMETRIC, TiffPage

from hiresmed_jax.data.readers.guard import check_growth, check_size, foreign
from hiresmed_jax.data.sample import Unreadable

_DAMAGED = "is damaged or cut short"
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_READ = (*_GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)


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
      pixels = _by_opencv(data, page.index)
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


def _by_opencv(data: bytes, index: int) -> np.ndarray:
  decoded, images = cv2.imdecodemulti(
    np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(index, index + 1)
  )
  if not decoded or len(images) != 1:
    raise Unreadable("is compressed in a way that no decoder here knows, or damaged")
  pixels = np.asarray(images[0])
  return pixels if pixels.ndim == 2 else pixels[..., 2::-1]
