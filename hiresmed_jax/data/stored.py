"""The stored image, uint8 or uint16: made of the numbers that a file holds, and kept as PNG.

raw = scale * stored + offset. Integers of up to 16 bits, and wider or floating data that hold
integers within 16 bits, are kept exactly (scale 1); other data are quantised to 65,536 levels.
"""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hiresmed_jax.data.sample import SIGNED_SHIFT, Sample, Unreadable

_FILL_SHARE = 1e-3  # of the values that a fill value has at least
LEVELS = 65535  # steps of a quantised image
_NARROWEST, _WIDEST = 1e-9, 1e9  # ranges of values that float32 computes with
CT_RANGE = (-1024.0, 3071.0)  # HU, the 12 bits of a scanner: the default range to show


def to_stored(raw: np.ndarray) -> tuple[np.ndarray, float, float]:
  """The stored form of an array of any shape.

  Args:
    raw: bool, integer or floating array, any byte order, not empty.

  Returns:
    (stored, scale, offset): stored uint8 (from bool and uint8) or uint16 of the same shape, native
    byte order; raw = scale * stored + offset, exactly where scale is 1.0.

  Raises:
    Unreadable: values that are not finite, not real, or too far apart or too near to each
      other.
  """
  kind, size = raw.dtype.kind, raw.dtype.itemsize
  if kind not in "buif":
    raise Unreadable("holds values that are not real numbers")
  if kind == "b" or (kind == "u" and size == 1):
    return raw.astype(np.uint8), 1.0, 0.0
  if kind == "u" and size == 2:
    return raw.astype(np.uint16), 1.0, 0.0
  if kind == "i" and size <= 2:
    return _shifted(raw, -SIGNED_SHIFT), 1.0, float(-SIGNED_SHIFT)
  if kind == "f" and not np.isfinite(raw).all():
    raise Unreadable("holds NaN or infinite values")
  low, high = raw.min().item(), raw.max().item()
  if kind in "iu" or bool((raw == np.rint(raw)).all()):
    if low >= 0 and high <= LEVELS:
      return raw.astype(np.uint16), 1.0, 0.0
    if low >= -SIGNED_SHIFT and high < SIGNED_SHIFT:
      return _shifted(raw, -SIGNED_SHIFT), 1.0, float(-SIGNED_SHIFT)
  return _quantised(raw, float(low), float(high))


def without_fill(raw: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
  """An array without the numbers that stand for "no data" in it.

  Such are what is not finite, what lies beyond `limits`, and a lowest or highest value other than
  0 that many have and that is further from the others than ten times their span: each becomes the
  lowest real value.

  Args:
    raw: integers or floats.
    limits: (low, high) that real data keep.

  Returns:
    (the array, or `raw` itself where it holds none; bool of the same shape, or of size 0).

  Raises:
    Unreadable: less than a hundredth of the values is real.
  """
  filled = np.zeros(0, bool)
  least, greatest = float(raw.min()), float(raw.max())
  if not limits[0] <= least <= greatest <= limits[1]:  # NaN is in no range
    filled = ~((raw >= limits[0]) & (raw <= limits[1]))
    if filled.mean() > 0.99:
      raise Unreadable("holds no values but NaN, infinite or absurd ones")
    least, greatest = float(raw[~filled].min()), float(raw[~filled].max())
  few = raw.ravel()[:: max(1, raw.size >> 16)]
  few = few[(few >= least) & (few <= greatest)].astype(np.float64)
  others = few[(few > least) & (few < greatest)]
  span = float(np.ptp(others)) if others.size else 0.0
  for end in (least, greatest):
    # A background of 0 is a value like others.
    if end == 0 or not span or float((few == end).mean()) < _FILL_SHARE:
      continue
    if float(np.abs(others - end).min()) > 10.0 * span:
      filled = (raw == end) | filled if filled.size else raw == end
  if not filled.size or not filled.any():
    return raw, np.zeros(0, bool)
  return np.where(filled, raw[~filled].min(), raw), filled


def _shifted(raw: np.ndarray, offset: int) -> np.ndarray:
  return (raw.astype(np.int32) - offset).astype(np.uint16)


def _quantised(raw: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float, float]:
  with np.errstate(over="ignore"):
    scale = float((np.float64(high) - np.float64(low)) / LEVELS)
  if not np.isfinite(scale) or (raw.dtype.kind == "f" and scale * LEVELS > _WIDEST):
    raise Unreadable("holds values too far apart to be an image")
  if 0 < scale * LEVELS < _NARROWEST:
    raise Unreadable("holds values too near to each other to be an image: multiply them")
  if scale == 0.0:  # a constant image, or one whose steps vanish in float64
    return np.zeros(raw.shape, np.uint16), 1.0, low
  levels = np.rint((raw.astype(np.float64) - low) / scale)
  return np.clip(levels, 0, LEVELS).astype(np.uint16), scale, low


def rescale_with(
  slope: float, intercept: float, scale: float, offset: float
) -> tuple[float, float]:
  """(slope, intercept) of stored values: the file's own rescale after that of `to_stored`.

  Raises:
    Unreadable: numbers under which a stored image has no finite values, or only one.
  """
  slope, intercept = slope * scale, slope * offset + intercept
  ends = (intercept, slope * LEVELS + intercept)
  if not np.isfinite((slope, *ends)).all() or ends[0] == ends[1]:
    raise Unreadable("has a rescale slope or intercept that is not a usable number")
  return slope, intercept


def with_channels(stored: np.ndarray) -> np.ndarray:
  """[H, W] or [H, W, C] to [H, W, 1 or 3]: alpha is dropped, three equal channels become one.

  Raises:
    Unreadable: any other shape.
  """
  if stored.ndim == 2:
    return stored[..., None]
  if stored.ndim != 3 or stored.shape[-1] not in (1, 2, 3, 4):
    raise Unreadable(f"holds an array of {stored.ndim} dimensions, not a grey or RGB image")
  if stored.shape[-1] < 3:
    return np.ascontiguousarray(stored[..., :1])
  red, green, blue = stored[..., 0], stored[..., 1], stored[..., 2]
  if np.array_equal(red, green) and np.array_equal(red, blue):
    return np.ascontiguousarray(red[..., None])
  return np.ascontiguousarray(stored[..., :3])


def full_range(raw: np.ndarray, bits: int = 16) -> tuple[float, float]:
  """(low, high) that 8- and 16-bit unsigned data can hold; (least, greatest) of other data.

  Args:
    raw: the pixels.
    bits: of 16-bit data that are in use.
  """
  if raw.dtype.kind in "bu" and raw.dtype.itemsize <= 2:
    return 0.0, 255.0 if raw.dtype.itemsize == 1 else float((1 << bits) - 1)
  return increasing(float(raw.min()), float(raw.max()))


class Extent(NamedTuple):
  """The file's own numbers of an image that is shown by the whole range of its bits.

  Attributes:
    declared: (low, high) of that range, rescaled units.
    bits: that the range has.
    least: the smallest number.
    greatest: the largest, but for the end of the range, with which texts are burnt in.
    slope: rescaled = slope * number + intercept.
    intercept: see `slope`.
  """

  declared: tuple[float, float]
  bits: int
  least: int
  greatest: int
  slope: float
  intercept: float

  @property
  def bits_used(self) -> int:
    """Bits that hold all numbers, with their sign."""
    signed = self.least < 0
    return max(self.greatest, -self.least - 1 if signed else 0).bit_length() + signed


def extent_of(sample: Sample, counts: np.ndarray) -> Extent | None:
  """The extent of an image of more than 8 bits; None where a window tells what is shown.

  Args:
    sample: the image.
    counts: pixels by stored value.
  """
  bits = sample.bits_stored
  if not 8 < bits <= 16:
    return None
  slope, intercept = sample.rescale_slope, sample.rescale_intercept
  found = []
  for first, shift in ((0, 0), (-(1 << (bits - 1)), SIGNED_SHIFT)):
    last = first + (1 << bits) - 1
    own = intercept + slope * shift  # of the file's own numbers
    ends = sorted((slope * first + own, slope * last + own))
    # Windows that are meant to show all bits can be off by a level or two.
    if np.allclose(ends, sample.value_range, rtol=0.0, atol=0.01 * (ends[1] - ends[0])):
      held = np.flatnonzero(counts) - shift
      inner = held[held < last]
      highest = int(inner[-1]) if inner.size and inner[-1] > 0 else int(held[-1])
      found.append(Extent(sample.value_range, bits, int(held[0]), highest, slope, own))
  # 16 bits with and without a sign have the same range; the right one is never the wider.
  return min(found, key=lambda extent: extent.bits_used, default=None)


def in_use(extents: Iterable[Extent]) -> dict[tuple[float, float], tuple[float, float]]:
  """The range in use by declared range, for those of which a set leaves two bits or more unused.

  It is that of the fewest bits that hold all numbers: 0 to 4,095 of 12 bits in 16.

  Args:
    extents: of all images of the set that have one.
  """
  groups: dict[tuple[float, float], list[Extent]] = {}
  for extent in extents:
    groups.setdefault(extent.declared, []).append(extent)
  found = {}
  for declared, members in groups.items():
    least, greatest = min(e.least for e in members), max(e.greatest for e in members)
    low = -(1 << (-least - 1).bit_length()) if least < 0 else 0
    high = (1 << max(greatest, 1).bit_length()) - 1
    if 4 * (high - low) <= (1 << members[0].bits) - 1:
      ends = [(e.slope * low + e.intercept, e.slope * high + e.intercept) for e in members]
      found[declared] = min(map(min, ends)), max(map(max, ends))
  return found


def increasing(low: float, high: float) -> tuple[float, float]:
  """The two in ascending order; a range of no width (a constant image) is widened upwards."""
  low, high = min(low, high), max(low, high)
  return (low, high) if low < high else (low, float(np.nextafter(low, np.inf)) + 1.0)


def source_of(path: Path, root: Path | None) -> str:
  """Path below `root` with forward slashes; without a root the file's name alone."""
  return (path.relative_to(root) if root is not None else Path(path.name)).as_posix()


def encode_png(image: np.ndarray) -> bytes:
  """PNG of an image uint8|uint16 [H, W], [H, W, 1] or [H, W, 3] (RGB); b"" for one of size 0."""
  if image.size == 0:
    return b""
  if image.ndim == 3 and image.shape[-1] == 3:
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  done, data = cv2.imencode(".png", np.ascontiguousarray(image))
  if not done:
    raise ValueError(f"no PNG of {image.dtype} {image.shape}")
  return data.tobytes()


def png_shape(data: bytes) -> tuple[int, int]:
  """(rows, columns) of a PNG, from its header."""
  columns, rows = struct.unpack(">II", data[16:24])
  return rows, columns


def decode_image(data: bytes, *, dtype: type[np.generic], channels: int) -> np.ndarray:
  """Image of `dtype` [H, W, channels] of a PNG: fewer bits or channels are widened.

  Args:
    data: an 8 or 16 bit PNG, grey or RGB.
    dtype: uint8, or uint16, in which 8 bits keep their values.
    channels: 1, or 3, for which grey is repeated.
  """
  image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
  if image.ndim == 3:
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  elif channels == 3:
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
  return image.reshape(*image.shape[:2], channels).astype(dtype, copy=False)


def decode_mask(data: bytes, dtype: type[np.generic]) -> np.ndarray:
  """Mask [H, W] of a PNG, (0, 0) for b""."""
  if not data:
    return np.zeros((0, 0), dtype)
  mask = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
  return mask.astype(dtype, copy=False)
