"""Masks in PNG, JPEG and TIFF files: what their values mean, and the lesions that they hold.

A mask is binary (0 and one other value), soft (grey edges, of a resize or of JPEG), or holds one
value, palette index or colour a lesion. Which it is follows from its content; what looks like none
of them is refused, and what is improbable is asked for.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from hiresmed_jax.data.readers import images, tiff
from hiresmed_jax.data.readers.guard import or_unreadable, read_file
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError

SUFFIXES = images.SUFFIXES
MEANINGS = ("auto", "soft", "ids", "parts", "inverted")

_VOID = 255  # index of the borders of objects in masks of PASCAL VOC
_SOFT_VALUES = 0.8  # share of the values between that lie on slopes: then they are edges
_DARK, _BRIGHT = 0.1, 0.9  # of the brightest value: what JPEG noise reaches from 0 and from there
_FAINT, _BLOCK = 0.25, 8  # of the brightest value, and pixels: where JPEG noise does not reach
_JPEG_LEAST = 32  # brightest value of a JPEG whose noise is small beside it
_PICTURE = 0.25  # share of an image that edges do not reach
_SPECK, _SPECKS = 4, 24  # pixels of a speck, and how many are no lesions
_LABELS = 64  # that are looked at for their parts
_PICTURE_REASON = "has a mask that looks like a picture (--mask-values soft, ids or parts)"
_NEIGHBOURS = np.ones((3, 3), np.uint8)


def read(path: Path, shape: tuple[int, int], *, meaning: str = "auto") -> np.ndarray:
  """Labels int32[H, W] of a mask: 0 elsewhere, 1 for all lesions, or several for one each.

  Args:
    path: a PNG, JPEG or TIFF file.
    shape: (rows, columns) of the image.
    meaning: "soft": lesion from half of the brightest value on; "ids": each value is a lesion;
      "parts": each connected part is one, whatever its values; "inverted": the dark part is
      lesion; "auto" tells soft from ids by the content.

  Raises:
    Unreadable: damaged, of another size, or a picture.
  """
  values, is_jpeg = _values(path, shape)
  present = _labels(values)
  if is_jpeg and 0 < values.max() < _JPEG_LEAST:
    raise Unreadable("has a JPEG mask of values so small that its compression changed them: PNG?")
  if meaning == "inverted":
    return (values <= values.max() / 2).astype(np.int32)
  if meaning == "parts":
    return (values > 0).astype(np.int32)
  if len(present) == 0 or meaning == "ids":
    return values
  part = _around(values)
  pure = len(present) == 1 or _is_pure(part)
  if meaning == "soft" or (not pure and _is_soft(part, is_jpeg, values.size)):
    return _half_full(values)
  if not (pure or _is_flat(part, len(present))):
    raise Unreadable(_PICTURE_REASON)
  return values


def _half_full(values: np.ndarray) -> np.ndarray:
  """int32[H, W], 1 from half of the brightest value on; in a part that is dimmer, of its own.

  A small lesion is dim after its mask was blurred or made smaller. What is dim in the same block of
  JPEG as a bright part is noise.
  """
  top = int(values.max())
  full = values >= top / 2
  near = cv2.dilate(full.astype(np.uint8), np.ones((2 * _BLOCK + 1,) * 2, np.uint8)) > 0
  count, parts = cv2.connectedComponents((values >= _FAINT * top).astype(np.uint8), connectivity=8)
  missed = np.setdiff1d(np.arange(1, count), parts[full])
  for part in missed:
    own = parts == part
    if not (own & near).any():
      full |= own & (values >= values[own].max() / 2)
  return full.astype(np.int32)


def check_jpegs(paths: Sequence[Path]) -> None:
  """Asks the user about JPEG masks of which none is bright.

  Numbers such as 1 do not survive JPEG: a black mask was as likely wiped out as empty.

  Args:
    paths: of the masks; the largest JPEG is looked at first, and mostly alone.

  Raises:
    UserError: there are JPEG files, and none is bright.
  """
  jpegs = [path for path in paths if path.name.lower().endswith((".jpg", ".jpeg"))]
  jpegs.sort(key=lambda path: -path.stat().st_size)
  for path in jpegs:
    try:
      pixels, _ = _decoded(read_file(path))
    except Unreadable:
      return  # told of where it is used
    if pixels.max() >= _JPEG_LEAST:
      return
  if jpegs:
    raise UserError(
      f"all {len(jpegs)} JPEG masks are black, or nearly: JPEG wipes out small numbers such as 1. "
      "Make the masks again as PNG; if no image shows a lesion, give empty label files instead"
    )


def _labels(values: np.ndarray) -> np.ndarray:
  """The numbers above 0, ascending."""
  if int(values.max()) >= 1 << 16:
    return np.unique(values[values > 0])
  return np.flatnonzero(np.bincount(values.ravel())[1:]) + 1


def _around(values: np.ndarray) -> np.ndarray:
  """The part of a mask that is not 0, with a margin."""
  labelled = (values > 0).view(np.uint8)
  left, top, width, height = cv2.boundingRect(labelled)
  return values[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1]


def instances(labels: np.ndarray) -> np.ndarray:
  """Labels with one number a lesion: one label alone is split into its connected parts."""
  if len(_labels(labels)) != 1:
    return labels
  _, parts = cv2.connectedComponents((labels > 0).astype(np.uint8), connectivity=8)
  return parts


def check_ids(labels: np.ndarray, name: str) -> None:
  """Asks the user about several labels that lie in several parts: they could be classes.

  Args:
    labels: of `read`.
    name: of the file.

  Raises:
    UserError: there are more than 1.5 parts a label.
  """
  present = _labels(labels)
  if len(present) < 2:
    return
  boxes, parts = ndimage.find_objects(labels, max_label=int(present[:_LABELS][-1])), 0
  for value in present[:_LABELS]:
    own = (labels[boxes[value - 1]] == value).astype(np.uint8)
    parts += int((cv2.connectedComponentsWithStats(own)[2][1:, 4] > _SPECK).sum())
  if parts > 1.5 * min(len(present), _LABELS):
    raise UserError(
      f"the mask {name} has {len(present)} values in {parts} parts: --mask-values ids if each "
      "value is one lesion, parts if each connected part is one; if values are classes, give masks "
      "of the lesion's class alone"
    )


def check_plausible(labels: np.ndarray, name: str) -> None:
  """Asks the user about a mask of lesions that hardly is one.

  Args:
    labels: of `instances`.
    name: of the file.

  Raises:
    UserError: more than half of the image is lesion, or dozens of lesions are specks.
  """
  areas = np.bincount(labels.ravel())[1:]
  share, specks = float(areas.sum() / labels.size), int(((areas > 0) & (areas <= _SPECK)).sum())
  if share > 0.5:
    raise UserError(
      f"the mask {name} calls {share:.0%} of its image lesion: --mask-values inverted if the dark "
      "part is the lesion, --odd-masks if this is right"
    )
  if specks >= _SPECKS:
    raise UserError(
      f"the mask {name} holds {specks} specks of up to {_SPECK} pixels: clean it, or --odd-masks "
      "if these are lesions"
    )


def _values(path: Path, shape: tuple[int, int]) -> tuple[np.ndarray, bool]:
  """(a number a pixel, int32[H, W]: grey value, palette index or number of the colour; if JPEG)."""
  data = read_file(path)
  if data.startswith(tiff.START):
    count, pages = tiff.pages(data)
    if count != 1:
      raise Unreadable("has a mask of several pages")
    pixels, photometric, _ = next(pages)
    if photometric == "MONOCHROME1" and pixels.dtype.kind == "u":
      pixels = pixels.max() - pixels
    mode = "L"
  else:
    pixels, mode = _decoded(data)
  if pixels.shape[:2] != shape:
    raise Unreadable(
      f"has a mask of another size ({pixels.shape[1]} x {pixels.shape[0]} pixels, its image "
      f"{shape[1]} x {shape[0]})"
    )
  if pixels.ndim == 3:
    pixels = _of_colours(pixels, "A" in mode)
  with or_unreadable("has a mask with values that are no labels"):
    if pixels.dtype.kind == "f":
      pixels = np.rint(pixels * 255.0 if float(pixels.max()) <= 1.0 else pixels)  # or chances
    if not (pixels.min() >= 0 and pixels.max() < 1 << 24):  # NaN is neither
      raise ValueError
  return pixels.astype(np.int32), images.is_jpeg(data)


def _decoded(data: bytes) -> tuple[np.ndarray, str]:
  """(pixels, Pillow's mode) of a PNG or JPEG: palette images give their index where it counts."""
  if not data.startswith(images.STARTS):
    raise Unreadable("has a mask that is no PNG, JPEG or TIFF image")
  with or_unreadable("has a mask that is damaged or cut short"):
    image = images.opened(images.without_texts(data))
    image.load()
    if image.mode == "P":
      return _of_palette(image), "P"
    return np.asarray(image.convert("L") if image.mode == "1" else image), image.mode


def _of_palette(image: Image.Image) -> np.ndarray:
  """Grey values where the palette is grey, else the index, the border of PASCAL VOC as 0."""
  index = np.asarray(image)
  colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
  used = np.unique(index)
  if (colours[used[used < len(colours)]].std(axis=1) == 0).all():
    return np.asarray(image.convert("L"))
  return np.where(index == _VOID, 0, index)


def _of_colours(pixels: np.ndarray, alpha: bool) -> np.ndarray:
  """Grey values, or a number a colour with 0 for the first of: transparent, black, commonest."""
  colours = pixels[..., :-1] if alpha else pixels
  if alpha:
    seen = pixels[..., -1]
    if int(seen.min()) < int(seen.max()):
      visible = colours[seen > int(seen.max()) // 2]
      if not len(visible) or (visible == visible[0]).all():
        return seen  # one colour, so that transparency alone tells
      colours = np.where(seen[..., None] > int(seen.max()) // 2, colours, 0)
  if (colours == colours[..., :1]).all():
    return colours[..., 0]
  codes = np.zeros(colours.shape[:2], np.int64)
  for channel in np.moveaxis(colours, -1, 0):
    codes = codes * 65536 + channel
  kinds, numbers, counts = np.unique(codes, return_inverse=True, return_counts=True)
  if len(kinds) > 256:
    raise Unreadable("has a mask of so many colours that it looks like a picture or an overlay")
  background = 0 if kinds[0] == 0 else int(counts.argmax())
  order = np.zeros(len(kinds), np.int32)
  order[[k for k in range(len(kinds)) if k != background]] = np.arange(1, len(kinds))
  return order[numbers.reshape(codes.shape)]


def _is_soft(values: np.ndarray, is_jpeg: bool, pixels: int) -> bool:
  """Whether the values between 0 and the greatest are edges or noise of a binary mask.

  Edges slope from dark to bright. The noise of JPEG, which may have been saved as PNG, has few
  pixels beside an equal one, and covers less than twice the mask.

  Args:
    values: the part of the mask that is not 0.
    is_jpeg: the file is a JPEG.
    pixels: of the whole mask.

  Raises:
    Unreadable: they are, and cover more than edges do.
  """
  top = int(values.max())
  grey = np.where(values >= _BRIGHT * top, top, np.where(values <= _DARK * top, 0, values))
  between = (grey > 0) & (grey < top)
  if not between.any():
    return is_jpeg or top > 32
  plane = grey.astype(np.float32)
  brighter = cv2.dilate(plane, _NEIGHBOURS) > plane
  darker = cv2.erode(plane, _NEIGHBOURS) < plane
  soft = is_jpeg or float((brighter & darker)[between].mean()) >= _SOFT_VALUES
  if not soft and between.sum() < 2 * (grey == top).sum():
    soft = float((_alike(values)[between] >= 2).mean()) < 0.3
  if soft and between.sum() > _PICTURE * pixels:
    raise Unreadable(_PICTURE_REASON)
  return soft


def _alike(values: np.ndarray) -> np.ndarray:
  """How many of the four neighbours of each pixel have its value."""
  shifts = itertools.product((0, 1), (1, -1))
  return np.sum([np.roll(values, step, axis) == values for axis, step in shifts], axis=0)


def _is_flat(values: np.ndarray, count: int) -> bool:
  """Whether `count` labels lie in patches: most pixels have two neighbours of their value."""
  labelled = values > 0
  few = count <= labelled.sum() / 3
  return bool(few) and float((_alike(values)[labelled] >= 2).mean()) > 0.5


def _is_pure(values: np.ndarray) -> bool:
  """Whether every connected part has one value."""
  count, parts = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)
  numbers = np.arange(1, count)
  least = ndimage.minimum(values, parts, numbers)
  return bool(np.array_equal(least, ndimage.maximum(values, parts, numbers)))
