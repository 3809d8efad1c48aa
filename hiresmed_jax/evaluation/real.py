"""The real images: a prepared dataset, whose held-out ones are the reference, or a folder."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.errors import InvalidDicomError

from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS, Split
from hiresmed_jax.data.listing import image_folder, list_files
from hiresmed_jax.data.matching import stem_of
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation.pictures import (
  Entry,
  Picture,
  Scale,
  read,
  scale_of,
  show_sample,
  shown,
)
from hiresmed_jax.runtime.progress import Progress


class Place(NamedTuple):
  """Where a record lies."""

  split: Split
  number: int
  group: str


class Real(NamedTuple):
  """The real images that all methods are compared with."""

  what: str  # kind and number of the images, for the report
  # The images that distributions are compared with: the held-out split, or the folder's.
  entries: tuple[Entry, ...]
  dataset: records.Dataset | None  # None for a folder
  sources: Mapping[Split, records.Records]  # records of each split; {} for a folder
  places: Mapping[str, Place]  # of the record of each image id; {} for a folder
  files: Mapping[str, Path]  # by stem; {} for a dataset
  window: Any  # how records are shown, as in `transforms.View`
  bits: int  # 8 or 16, of the stored images
  longest: int  # side of the largest image that distributions are compared with, pixels

  def group_of(self, key: str) -> str:
    """The group of a key; the key itself where the group is unknown."""
    return self.places[key].group if key in self.places else key

  def item(self, key: str) -> Mapping[str, Any] | None:
    """The record of a key."""
    place = self.places.get(key)
    return None if place is None else self.sources[place.split][place.number]

  def picture(self, key: str) -> np.ndarray | None:
    """The real image of a key in [0, 1]. Raises Unreadable."""
    if key in self.files:
      return show_sample(read(self.files[key]))
    item = self.item(key)
    return None if item is None else shown(item["image"], scale_of(item, self.window))

  def common_scale(self) -> Scale | None:
    """The scale of the first real image, for 16-bit images without one of their own."""
    for split in SPLITS:
      if self.sources and len(self.sources[split]):
        return scale_of(self.sources[split][0], self.window)
    return None


def open_real(path: Path, *, window: Any = "stored", workers: int = 1) -> Real:
  """Opens a prepared dataset or a folder of images; its records are shown through `window`.

  Raises:
    UserError: it is neither, or has no image to compare with.
  """
  if (path / "card.json").is_file() or not path.is_dir():
    return of_dataset(records.open_dataset(path), window=window, workers=workers)
  files = folder_files(path, "--real")
  stems = [stem_of(file.name) for file in files]
  if len(set(stems)) < len(stems):
    raise UserError(f"--real {path}: two images have one name, so that nothing can be paired")
  entries = tuple(
    Entry(stem, stem, 0, (), functools.partial(_load_file, file))
    for stem, file in zip(stems, files)
  )
  what = f"a folder of {len(files)} images, each its own group"
  bits, longest = depth(files[0], "--real"), longest_side(files)
  return Real(what, entries, None, {}, {}, dict(zip(stems, files)), window, bits, longest)


def of_dataset(dataset: records.Dataset, *, window: Any, workers: int) -> Real:
  """A dataset: its held-out images are the reference, all its records can be in pairs.

  Raises:
    UserError: nothing is held out.
  """
  sources = {split: records.source(dataset, split) for split in SPLITS}
  if not len(sources["test"]):
    raise UserError(
      f"{dataset.root} has no held-out images to compare with: prepare more images, or name their "
      "patients by --groups"
    )
  places: dict[str, Place] = {}
  bits, longest = 8, 0
  with Progress(sum(map(len, sources.values())), "real images", unit="image") as progress:
    for split in SPLITS:
      source = sources[split].without_masks()
      items = ordered_map(source.__getitem__, range(len(source)), workers=workers)
      for index, item in enumerate(items):
        places[item["image_id"]] = Place(split, index, item["group"])
        bits = 8 * item["image"].dtype.itemsize
        longest = max(longest, *item["image"].shape[:2]) if split == "test" else longest
        progress.advance()
  entries = tuple(
    Entry(key, place.group, 0, (), functools.partial(_load_record, sources["test"], place, window))
    for key, place in places.items()
    if place.split == "test"
  )
  groups = len({entry.group for entry in entries})
  what = f"{len(entries)} held-out images of {groups} groups of a prepared dataset"
  return Real(what, entries, dataset, sources, places, {}, window, bits, longest)


def without(real: Real, images: frozenset[str]) -> Real:
  """The real images without those of these ids, which a model has seen in its training.

  Raises:
    UserError: none is left.
  """
  entries = tuple(entry for entry in real.entries if entry.key not in images)
  if not entries:
    raise UserError(
      f"all {len(real.entries)} held-out images are of patients that a run was trained on: "
      "--data names images of others"
    )
  left_out = len(real.entries) - len(entries)
  what = f"{real.what}; {left_out} of them, of patients that a run was trained on, are left out"
  places = {key: place for key, place in real.places.items() if key not in images}
  return real._replace(entries=entries, places=places, what=what if left_out else real.what)


def folder_files(path: Path, option: str) -> list[Path]:
  """The images of a folder, sorted by name.

  Raises:
    UserError: it is not there, or holds none.
  """
  if not path.is_dir():
    raise UserError(f"{option} {path} is {'not a folder' if path.exists() else 'not there'}")
  root = image_folder(path)
  files = list_files(root, "images")
  files += [file for file in list_files(root, "dicom") if file.suffix.lower() == ".dcm"]
  if not files:
    raise UserError(f"{option} {path} holds no PNG, JPEG, TIFF or DICOM image")
  return sorted(files)


def depth(path: Path, option: str) -> int:
  """Bits of a file.

  Raises:
    UserError: it cannot be read.
  """
  try:
    return 8 * read(path).image.dtype.itemsize
  except Unreadable as error:
    raise UserError(f"{option}: {path} {error}") from error


def longest_side(files: list[Path]) -> int:
  """Pixels of the longest side of any of them, by their headers; unreadable files count 0."""
  longest = 0
  for file in files:
    try:
      if file.suffix.lower() == ".dcm":
        header = pydicom.dcmread(file, stop_before_pixels=True)
        sides = (int(header.Rows), int(header.Columns))
      else:
        with Image.open(file) as image:
          sides = image.size
    except (OSError, ValueError, AttributeError, InvalidDicomError):
      continue  # the reason is given when the image is read
    longest = max(longest, *sides)
  return longest


def _load_file(path: Path) -> Picture:
  return Picture(show_sample(read(path)))


def _load_record(source: records.Records, place: Place, window: Any) -> Picture:
  item = source[place.number]
  image = shown(item["image"], scale_of(item, window))
  return Picture(image, boxes=item["boxes"], lesion_mask=item["lesion_mask"])
