"""What stands between a stranger's file and this process: silence, refusal, bounds on size.

A library that reads files warns, logs and raises as it likes, and quotes patient data in what it
says. None of that leaves a reader: `foreign` turns it into `Unreadable` with a reason of ours.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator

from hiresmed_jax.data.sample import Unreadable

MAX_PIXELS = 100_000_000  # a stitched long-leg radiograph has 30 million
MAX_IMAGE_BYTES = 1 << 30
MAX_VOXELS = 1 << 30  # a whole-body CT has 400 million
FREE_BYTES = 1 << 26  # what a file may unpack to, however small it is
MAX_RATIO = 1100  # deflate cannot do better than 1,032

_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "rle", "tifffile", "PIL", "nibabel")


@contextlib.contextmanager
def foreign(reason: str) -> Iterator[None]:
  """A library at work on a stranger's file: silent, and what it raises is `Unreadable(reason)`.

  Never put a `yield` of a generator inside: the warning filters are process-wide while it lasts.
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
  except BaseException:  # its text may quote the patient; a panic in Rust is not an Exception
    raise Unreadable(reason) from None
  finally:
    for logger, level in levels:
      logger.setLevel(level)


def check_size(rows: int, columns: int, bytes_per_pixel: float) -> None:
  """Raises Unreadable for an image of no pixels, or of more than a medical image can have."""
  if rows < 1 or columns < 1:
    raise Unreadable(f"declares an empty image ({columns} x {rows})")
  if rows * columns > MAX_PIXELS or rows * columns * bytes_per_pixel > MAX_IMAGE_BYTES:
    raise Unreadable(f"declares {columns} x {rows} pixels, more than this program opens")


def check_volume(shape: tuple[int, ...]) -> None:
  """Raises Unreadable for what is not one volume or slice, or has more than `MAX_VOXELS`."""
  text = " x ".join(map(str, shape))
  if len(shape) < 2 or min(shape) < 1 or any(size > 1 for size in shape[3:]):
    raise Unreadable(f"holds an array of {text}, not one volume")
  if math.prod(shape) > MAX_VOXELS:
    raise Unreadable(f"declares {text} voxels, more than this program opens")


def check_growth(unpacked_bytes: float, packed_bytes: int) -> None:
  """Raises Unreadable where a file claims more content than its bytes can hold when unpacked."""
  if unpacked_bytes > max(FREE_BYTES, MAX_RATIO * packed_bytes):
    megabytes = unpacked_bytes / 1e6
    raise Unreadable(f"declares {megabytes:.0f} MB of pixels in {packed_bytes} bytes")
