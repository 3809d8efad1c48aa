"""Checks of a file before it is decoded: bounds on its size, and what a DICOM header declares."""

import contextlib
import logging
import math
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hiresmed_jax.data.sample import Unreadable

MAX_PIXELS = 100_000_000  # a stitched long-leg radiograph has 30 million
MAX_IMAGE_BYTES = 1 << 30
MAX_VOXELS = 600_000_000  # a whole-body CT has 400 million
MAX_VOLUME_BYTES = 1 << 31
FREE_BYTES = 1 << 26  # what a file may unpack to, however small it is
MAX_RATIO = 1100  # deflate cannot do better than 1,032
MAX_FILE_BYTES = 1 << 32
MAX_INFLATED_BYTES = 1 << 28
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# Start-of-frame markers of JPEG and JPEG-LS, which the size of the image follows.
_SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "rle", "tifffile", "PIL", "nibabel")


@contextlib.contextmanager
def or_unreadable(reason: str) -> Iterator[None]:
  """Silences a library that decodes a file; any error it raises becomes `Unreadable(reason)`.

  The block must not hold a `yield` of a generator: warning filters are process-wide.
  """
  levels = [(logger, logger.level) for logger in map(logging.getLogger, _LOGGERS)]
  try:
    for logger, _ in levels:
      logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  except (Unreadable, KeyboardInterrupt, SystemExit, GeneratorExit):
    raise
  except BaseException:  # the text may quote the patient; a panic in Rust is not an Exception
    raise Unreadable(reason) from None
  finally:
    for logger, level in levels:
      logger.setLevel(level)


def check_regular(path: Path, limit: int = MAX_FILE_BYTES) -> int:
  """Bytes of a file, which is not opened: opening a pipe waits for ever.

  Raises:
    Unreadable: no regular file (a pipe, a device), none at all, empty, or of more than `limit`.
  """
  with or_unreadable("cannot be opened"):
    found = path.stat()
  if not stat.S_ISREG(found.st_mode):
    raise Unreadable("is no regular file")
  if found.st_size == 0:
    raise Unreadable("is empty")
  if found.st_size > limit:
    raise Unreadable(f"is larger than {limit >> 30} GB")
  return found.st_size


def read_file(path: Path, limit: int = MAX_IMAGE_BYTES) -> bytes:
  """The content of a regular file of at most `limit` bytes. Raises Unreadable."""
  check_regular(path, limit)
  with or_unreadable("cannot be opened"), path.open("rb") as file:
    return file.read(limit)


def check_size(rows: int, columns: int, bytes_per_pixel: float) -> None:
  """Raises Unreadable for an image of no pixels, or of more than a medical image can have."""
  if rows < 1 or columns < 1:
    raise Unreadable(f"declares an empty image ({columns} x {rows})")
  if rows * columns > MAX_PIXELS or rows * columns * bytes_per_pixel > MAX_IMAGE_BYTES:
    raise Unreadable(f"declares {columns} x {rows} pixels, more than this program opens")


def check_volume(shape: tuple[int, ...], voxel_bytes: int = 1) -> None:
  """Raises Unreadable for what is not one volume or slice, or is larger than volumes are."""
  text = " x ".join(map(str, shape))
  if len(shape) < 2 or min(shape) < 1 or any(size > 1 for size in shape[3:]):
    raise Unreadable(f"holds an array of {text}, not one volume")
  if math.prod(shape) > MAX_VOXELS or math.prod(shape) * voxel_bytes > MAX_VOLUME_BYTES:
    raise Unreadable(f"declares {text} voxels, more than this program opens")


def check_growth(unpacked_bytes: float, packed_bytes: int) -> None:
  """Raises Unreadable where a file declares more content than its bytes can unpack to."""
  if unpacked_bytes > max(FREE_BYTES, MAX_RATIO * packed_bytes):
    megabytes = unpacked_bytes / 1e6
    raise Unreadable(f"declares {megabytes:.0f} MB of pixels in {packed_bytes} bytes")


def check_file(path: Path) -> None:
  """Raises Unreadable for an empty or giant file, and for a deflated one that unpacks to one."""
  check_regular(path)
  with or_unreadable("is not a DICOM file"), path.open("rb") as file:
    read_preamble(file, force=True)
    # The header group is explicit little endian in every file; reading stops after it.
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
      return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    if len(inflate.decompress(file.read(), MAX_INFLATED_BYTES)) == MAX_INFLATED_BYTES:
      raise Unreadable(f"unpacks to more than {MAX_INFLATED_BYTES >> 20} MB")


def check_pixels(dataset: Dataset) -> None:
  """Raises Unreadable where rows x columns x frames cannot be what the pixel element holds."""
  element = next(keyword for keyword in PIXEL_KEYWORDS if keyword in dataset)
  with or_unreadable("declares the size of its image in a way that is not understood"):
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    frames = int(dataset.get("NumberOfFrames") or 1)
    bits = int(dataset.BitsAllocated)
    data = dataset[element].value or b""
    photometric = dataset.PhotometricInterpretation
    encapsulated = dataset.file_meta.TransferSyntaxUID.is_encapsulated
  if not data:
    raise Unreadable("holds no pixels, or ends before them")
  if bits != 1 and bits % 8:
    raise Unreadable(f"has {bits} bits allocated per sample, which is no longer DICOM")
  if frames < 1:
    raise Unreadable("declares no frames")
  check_size(rows, columns, samples * bits / 8)
  declared = rows * columns * frames * samples * bits / 8
  if encapsulated:
    check_growth(declared, len(data))
    _check_frames(data, rows, columns, frames)
  elif declared > len(data) and photometric != "YBR_FULL_422":  # the subsampled one
    raise Unreadable(f"declares {declared:.0f} bytes of pixels and holds {len(data)}")


def _check_frames(data: bytes, rows: int, columns: int, frames: int) -> None:
  with or_unreadable("has damaged compressed pixels"):
    for frame in generate_frames(data, number_of_frames=frames):
      size = codestream_size(frame)
      if size is not None and size != (rows, columns):
        raise Unreadable("has compressed pixels of another size than its header says")
      if frame.startswith(b"\xff\xd8") and not ends(frame):
        raise Unreadable("has compressed pixels that are cut short")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
  """(rows, columns) in the header of a JPEG, JPEG-LS or JPEG 2000 stream, None if not found.

  Sources: ITU-T T.81 B.2.2 (SOF), T.87 C.2.2, T.800 A.5.1 (SIZ).
  """
  start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
  if start >= 0 and len(frame) >= start + 24:
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    return bottom - top, right - left
  found = jpeg_frame(frame)
  return (found.rows, found.columns) if found and found.rows else None


class JpegFrame(NamedTuple):
  """What the start-of-frame marker of a JPEG or JPEG-LS stream says."""

  marker: int
  bits: int
  rows: int
  columns: int


def jpeg_frame(frame: bytes) -> JpegFrame | None:
  """The first start of a frame, None if not found."""
  at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
  while at + 9 <= len(frame) and frame[at] == 0xFF:
    marker = frame[at + 1]
    if marker == 0xFF:  # a fill byte
      at += 1
      continue
    if marker in _SOF:
      return JpegFrame(marker, *struct.unpack_from(">B2H", frame, at + 4))
    at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
  return None


def ends(frame: bytes) -> bool:
  """Whether a JPEG or JPEG-LS stream has its end; decoders fill up what is missing without it."""
  return b"\xff\xd9" in frame[-64:] or frame.rfind(b"\xff\xd9") > frame.rfind(b"\xff\xda")


def mended_jpeg(frame: bytes) -> bytes:
  """A sequential JPEG with the spectral bounds in its scan header that it must have, 0 to 63.

  Some writers leave them 0, and strict decoders refuse that (ITU-T T.81, table B.3). Other streams
  are given back as they are.
  """
  found = jpeg_frame(frame)
  if found is None or found.marker not in (0xC0, 0xC1):
    return frame
  at = 2
  while at + 4 <= len(frame) and frame[at] == 0xFF:
    end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    if frame[at + 1] == 0xDA:
      return frame[: end - 3] + b"\0\x3f\0" + frame[end:]
    at = end if frame[at + 1] != 0xFF else at + 1
  return frame
