"""LIDC-IDRI as PNG slices with masks, and which of the two layouts a folder has."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hiresmed_jax.data.readers import images, lidc, lidc_readings
from hiresmed_jax.data.readers.guard import check_size, foreign
from hiresmed_jax.data.readers.lidc import tight_boxes
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
    masks: one that was agreed upon, or one per reader who drew something.
    by_reader: which of the two.
    patient: raw name of the patient, as the folders have it.
  """

  image: Path
  masks: tuple[Path, ...]
  by_reader: bool
  patient: str


def pairs(files: Iterable[Path], root: Path, refuse: Callable[[Path, str], None]) -> list[Pair]:
  """Finds the images among files of both layouts, and their masks, sorted by patient and path.

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
  # Without any folder the name begins with the patient's number.
  return folders[-1] if folders else Path(below[-1]).stem.split("_")[0]


def read_patient(
  group: list[Pair], *, root: Path, agree: int, refuse: Callable[[Path, str], None]
) -> Iterator[Sample]:
  """The slices of one patient, each once: a slice that shows two nodules often lies there twice.

  Args:
    group: all pairs of the patient.
    root: folder that `source` is relative to.
    agree: readers who must agree on a pixel where there is a mask per reader.
    refuse: called with each image that cannot be read, or whose mask cannot.

  Yields:
    Sample, physics "ct", its nodules the connected parts of the masks. PNG keeps its 8 or 16 bits,
    .npy what it holds. A mask without a pixel says that there is no nodule.
  """
  slices: dict[str, tuple[Sample, np.ndarray]] = {}
  for pair in group:
    try:
      sample = _image(pair, root)
      mask = _agreed(pair, sample.image.shape[:2], agree)
    except Unreadable as reason:
      refuse(pair.image, str(reason))
      continue
    # The same pixels under another nodule: their masks belong together.
    digest = hashlib.sha256(repr(sample.image.shape).encode() + sample.image.tobytes()).hexdigest()
    first, known = slices.get(digest, (sample, np.zeros_like(mask)))
    slices[digest] = first, known | mask
  for sample, mask in slices.values():
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    ids = labels.astype(np.uint16)
    yield dataclasses.replace(sample, lesion_mask=ids, boxes=tight_boxes(ids))


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
  """A slice [H, W] of a .npy file, which may hold no pickled object."""
  with foreign("is not a .npy file of numbers, or is damaged or cut short"):
    # Mapped, so that a header that claims more than the file holds is found out first.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2:
      raise Unreadable(f"holds an array of {array.ndim} dimensions, not a slice")
    check_size(array.shape[0], array.shape[1], 8)
    return np.array(array)


Refuse = Callable[[Path, str], None]
Advance = Callable[[], None]


def read(
  files: Sequence[Path], *, root: Path, agree: int, free: int, refuse: Refuse, advance: Advance
) -> Iterator[Sample]:
  """Every slice with a nodule, and some without.

  Args:
    files: DICOM slices and readers' XML, or PNG and .npy slices with masks (see `lidc_slices`), or
      both. All but the XML lie below `root`.
    root: folder that `source` is relative to.
    agree: readers who must agree on a pixel.
    free: slices without any nodule to add per DICOM series; of the other layouts all come.
    refuse: called with each file that gives nothing, or not all it holds, and the reason.
    advance: called for each file once it is looked at.

  Yields:
    Sample with lesion mask and tight boxes, see `lidc` and `lidc_slices`; `source` is the path of
    its file below `root`.
  """
  xml = [path for path in files if path.suffix.lower() == ".xml"]
  cut = [path for path in files if path.suffix.lower() in SUFFIXES]
  known = {*xml, *cut}
  dicom = [path for path in files if path not in known]
  yield from _series(xml, dicom, root, agree, free, refuse, advance)
  yield from _slices(cut, root, agree, refuse, advance)


def _series(
  xml: list[Path],
  dicom: list[Path],
  root: Path,
  agree: int,
  free: int,
  refuse: Refuse,
  advance: Advance,
) -> Iterator[Sample]:
  readings: dict[str, tuple[Path, lidc_readings.Reading]] = {}
  for path in _told(xml, advance):
    try:
      reading = lidc_readings.read(path)
    except Unreadable as reason:
      refuse(path, str(reason))
      continue
    if reading.series_uid in readings:
      refuse(path, "is a second reading of one series")
    else:
      readings[reading.series_uid] = path, reading
  series = lidc.series_of(_told(dicom, advance), refuse)
  for uid, slices in series.items():
    if uid not in readings:
      refuse(slices[0].path, "is of a series without a reading")
      continue
    path, reading = readings[uid]
    try:
      labelled, lost = lidc.label(slices, reading, agree=agree, free=free)
    except Unreadable as reason:
      refuse(path, str(reason))
      continue
    if lost:
      refuse(path, "has contours on slices that are not there")
    if not labelled:
      refuse(path, "has no nodule that enough readers agree on")
    for one in labelled:
      try:
        yield lidc.read(one, root=root)
      except Unreadable as reason:
        refuse(one.path, str(reason))
  for uid, (path, _) in readings.items():
    if uid not in series:
      refuse(path, "is the reading of a series that is not there")


def _slices(
  files: list[Path], root: Path, agree: int, refuse: Refuse, advance: Advance
) -> Iterator[Sample]:
  found = pairs(files, root, refuse)
  for _ in range(len(files) - len(found)):  # masks, and what was refused
    advance()
  for _, patient in itertools.groupby(found, key=lambda pair: pair.patient):
    group = list(patient)
    yield from read_patient(group, root=root, agree=agree, refuse=refuse)
    for _ in group:
      advance()


def _told(files: Iterable[Path], advance: Advance) -> Iterator[Path]:
  for path in files:
    yield path
    advance()
