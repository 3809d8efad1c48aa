"""What a dataset holds, image by image, so that images are recognised in another dataset.

Ids are keyed hashes, and another dataset may have another key: the pixels tell. A run keeps the
contents of its dataset in the workdir, which can so be used without the dataset.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS, Split
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas, workdir
from hiresmed_jax.runtime.progress import Progress

_VERSION = 1
_UNKNOWN = -1  # lesions of an image that nobody has labelled
_CLASSES = ("class_numbers", "lesion_classes", "labels_format")
_KINDS = {"fingerprint": str, "images": list, "units": list, "spaced": bool, "source": dict}
_PROJECTION, _HOUNSFIELD = "projection", "ct, HU"


class Image(NamedTuple):
  """An image.

  Attributes:
    split: of it.
    number: in `records.source` of its split.
    digest: hash of its stored values.
    group: keyed hash of its patient group.
    lesions: number of its boxes; -1: nobody has labelled it.
  """

  split: Split
  number: int
  digest: str
  group: str
  lesions: int

  @property
  def labelled(self) -> bool:
    """Whether somebody has looked for lesions."""
    return self.lesions != _UNKNOWN


class Contents(NamedTuple):
  """A dataset.

  Attributes:
    fingerprint: of it.
    images: all, in order.
    units: what pixels mean: "projection"; "ct, HU"; else physics and display range, "ct, 0 to 255".
    spaced: the pixel spacing of every image is known.
    source: of the card, the classes of labels.
  """

  fingerprint: str
  images: tuple[Image, ...]
  units: frozenset[str]
  spaced: bool
  source: dict[str, Any]

  @property
  def physics(self) -> set[str]:
    """How lesions add to its images, see `sample.PHYSICS`."""
    return {unit.partition(",")[0] for unit in self.units}


def digest_of(image: np.ndarray) -> str:
  """Hash of stored values uint8|uint16 [H, W, C], the same in 8 and 16 bits, grey and equal RGB."""
  if image.shape[-1] == 3 and (image == image[..., :1]).all():
    image = image[..., :1]
  digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
  digest.update(np.ascontiguousarray(image, "<u2").data)
  return digest.hexdigest()


def make(dataset: records.Dataset, *, workers: int = 1) -> Contents:
  """Looks at all images of a dataset in so many threads."""
  images, units, spaced = [], set(), True
  with Progress(dataset.card["images"], "images looked at", unit="image") as progress:
    for image, unit, spacing in _looked_at(dataset, workers):
      images.append(image)
      units.add(unit)
      spaced &= bool(np.isfinite(spacing).all())
      progress.advance()
  told = dataset.card["source"]
  source = {key: told[key] for key in _CLASSES if key in told}
  return Contents(dataset.card["fingerprint"], tuple(images), frozenset(units), spaced, source)


def of_run(run: Path, dataset: records.Dataset | None = None, *, workers: int = 1) -> Contents:
  """The contents of the dataset that a workdir was trained on; made and written where not there.

  Args:
    run: the workdir.
    dataset: that it was trained on; None: it is opened where it was, if that is necessary.
    workers: threads.

  Raises:
    UserError: they are not there and the dataset is not either; no workdir.
  """
  fingerprint = workdir.fingerprint_of(run)
  path = run / f"images-{_VERSION}-{fingerprint[:12]}.json"
  found = _read(path)
  if found is not None and found.fingerprint == fingerprint:
    return found
  try:
    dataset = dataset or workdir.dataset_of(run, None)
  except UserError as error:
    raise UserError(
      f"{run} does not tell which images it was trained on, and its dataset cannot be opened "
      f"({error}): run the same train command again, with its data"
    ) from error
  found = make(dataset, workers=workers)
  content = found._asdict() | {"units": sorted(found.units)}
  files.write(path, json.dumps(content).encode())
  return found


def require_units(run: Path, trained: Contents, other: Contents, what: str) -> None:
  """Refuses images whose pixels mean something else than those of a run.

  Radiographs have no common unit, and are compared by their display ranges; CT has HU. Of all
  others the display ranges must be equal.

  Raises:
    UserError: they differ.
  """
  if strange := other.units - trained.units:
    raise UserError(
      f"{what} holds images in other units ({'; '.join(sorted(strange))}) than those that {run} "
      f"was trained on ({'; '.join(sorted(trained.units))}): a value means something else in them; "
      "use files of the same kind and depth, prepared with the same --physics"
    )


def _looked_at(dataset: records.Dataset, workers: int) -> Iterator[tuple[Image, str, np.ndarray]]:
  """(image, its unit, its spacing) of every record."""
  for split in SPLITS:
    source = records.source(dataset, split).without_masks()

    def look(number: int, source: Any = source, split: Split = split) -> tuple[Image, str, Any]:
      item = source[number]
      lesions = len(item["boxes"]) if item["labelled"] else _UNKNOWN
      image = Image(split, number, digest_of(item["image"]), item["group"], lesions)
      return image, _unit(item), item["spacing_mm"]

    yield from ordered_map(look, range(len(source)), workers=workers)


def _unit(item: dict[str, Any]) -> str:
  if item["physics"] == "projection":
    return _PROJECTION
  if canvas.is_hounsfield(item):
    return _HOUNSFIELD
  low, high = item["value_range"]
  return f"{item['physics']}, {low:g} to {high:g}"


def _read(path: Path) -> Contents | None:
  """None where there is no whole file."""
  try:
    content = files.read_json(path, _KINDS)
    content["images"] = tuple(Image(*image) for image in content["images"])
    return Contents(**content | {"units": frozenset(content["units"])})
  except (UserError, OSError, TypeError):
    return None
