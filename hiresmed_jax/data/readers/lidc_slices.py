"""LIDC-IDRI as PNG or .npy slices with masks: of all readers together, or one per reader.

Images lie in a folder `images`, masks in a folder `masks` beside it or in several, as `mask-0`.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hiresmed_jax.data.readers import images
from hiresmed_jax.data.readers.boxes import tight_boxes
from hiresmed_jax.data.readers.guard import check_regular, check_size, or_unreadable
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.data.stored import full_range, source_of, to_stored, with_channels

SUFFIXES = (".png", ".npy")

_IMAGES, _MASKS = re.compile(r"images?", re.I), re.compile(r"masks?([-_ ]?\d+)?", re.I)
_NODULE = re.compile(r"nodule", re.I)
_RENAMED = (("_NI", "_MA"), ("_CN", "_CM"))  # nodule image and mask, clean image and mask


class Pair(NamedTuple):
  """An image file and its masks.

  Attributes:
    image: path of the image.
    masks: one of all readers, or one per reader who drew something.
    by_reader: whether there is one per reader.
    patient: raw name of the patient, taken from the folders.
  """

  image: Path
  masks: tuple[Path, ...]
  by_reader: bool
  patient: str


def pairs(files: Iterable[Path], root: Path, refuse: Callable[[Path, str], None]) -> list[Pair]:
  """Finds the images and their masks among files, sorted by patient and path.

  Args:
    files: PNG and .npy files below `root`.
    root: folder of the patients, or of the folders of images and masks.
    refuse: called with each file that is neither an image with masks nor a mask.
  """
  found = []
  for path in files:
    parts = path.relative_to(root).parts[:-1]
    at = [n for n, part in enumerate(parts) if _IMAGES.fullmatch(part)]
    if at:
      beside, below = root.joinpath(*parts[: at[-1]]), path.relative_to(root).parts[at[-1] + 1 :]
      folders = [p for p in beside.iterdir() if p.is_dir() and _MASKS.fullmatch(p.name)]
      masks = _masks(folders, below)
      if masks:
        patient = _patient(parts[: at[-1]], below)
        found.append(Pair(path, masks, len(folders) > 1, patient))
      else:
        refuse(path, "has no mask in a folder beside its own")
    elif not any(_MASKS.fullmatch(part) for part in parts):
      refuse(path, "lies in no folder named images or masks")
  return sorted(found, key=lambda pair: (pair.patient, pair.image))


def _masks(folders: list[Path], below: tuple[str, ...]) -> tuple[Path, ...]:
  stem = Path(below[-1]).stem
  stems = [stem, *(stem.replace(a, b) for a, b in _RENAMED if a in stem)]
  masks = []
  for folder in sorted(folders):
    names = (f"{name}{suffix}" for name in stems for suffix in SUFFIXES)
    paths = (folder.joinpath(*below[:-1], name) for name in names)
    masks += [path for path in [next((p for p in paths if p.is_file()), None)] if path]
  return tuple(masks)


def _patient(above: tuple[str, ...], below: tuple[str, ...]) -> str:
  if len(below) > 1:
    return "/".join(below[:-1])
  folders = [part for part in above if not _NODULE.match(part)]
  # Without a folder: the name of the file begins with the patient's number.
  return folders[-1] if folders else Path(below[-1]).stem.split("_")[0]


def read_patient(
  group: list[Pair], *, root: Path, agree: int, refuse: Callable[[Path, str], None]
) -> Iterator[Sample]:
  """The slices of one patient. A slice that is there once per nodule is read once, with all masks.

  Args:
    group: all pairs of the patient.
    root: folder that `source` is relative to.
    agree: readers who must agree on a pixel where there is a mask per reader.
    refuse: called with each image that cannot be read, or whose mask cannot.

  Yields:
    Sample, physics "ct"; its nodules are the connected parts of the masks, none for empty masks.
    Values are those of the file.
  """
  slices: dict[str, tuple[Sample, np.ndarray]] = {}
  refused: set[str] = set()  # slices of which one nodule's mask is not known
  for pair in group:
    digest = ""
    try:
      sample = _image(pair, root)
      shape = repr(sample.image.shape).encode()
      digest = hashlib.sha256(shape + sample.image.tobytes()).hexdigest()
      mask = _agreed(pair, sample.image.shape[:2], agree)
    except Unreadable as reason:
      refuse(pair.image, str(reason))
      refused.add(digest)
      continue
    first, known = slices.get(digest, (sample, np.zeros_like(mask)))
    slices[digest] = first, known | mask
  for sample, mask in (one for digest, one in slices.items() if digest not in refused):
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    ids = labels.astype(np.uint16)
    yield dataclasses.replace(sample, lesion_mask=ids, boxes=tight_boxes(ids), labelled=True)


def _image(pair: Pair, root: Path) -> Sample:
  if pair.image.suffix.lower() == ".png":
    return next(images.read(pair.image, root=root, group=pair.patient, physics="ct"))
  raw = _array(pair.image)
  stored, scale, offset = to_stored(raw)
  return Sample(
    image=with_channels(stored),
    group=pair.patient,
    source=source_of(pair.image, root),
    rescale_slope=scale,
    rescale_intercept=offset,
    value_range=full_range(raw),
    physics="ct",
  )


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
  if path.suffix.lower() == ".npy":
    mask = _array(path)
  else:
    mask = next(images.read(path)).image[..., 0]
  if mask.shape[:2] != shape or mask.ndim > 2:
    raise Unreadable("has a mask of another size")
  return np.asarray(mask != 0)


def _agreed(pair: Pair, shape: tuple[int, ...], agree: int) -> np.ndarray:
  votes = np.sum([_mask(path, shape) for path in pair.masks], axis=0, dtype=np.int32)
  mask = votes >= (agree if pair.by_reader else 1)
  if votes.any() and not mask.any():
    raise Unreadable("shows a nodule that too few readers agree on")
  return np.asarray(mask)


def _array(path: Path) -> np.ndarray:
  """The slice [H, W] of a .npy file without pickled objects."""
  with or_unreadable("is not a .npy file of numbers, or is damaged or cut short"):
    # Mapped: a header that declares more than the file holds fails before memory is taken.
    check_regular(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2:
      raise Unreadable(f"holds an array of {array.ndim} dimensions, not a slice")
    check_size(array.shape[0], array.shape[1], 8)
    return np.array(array)
