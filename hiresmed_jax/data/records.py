"""A prepared dataset: a folder with `card.json` and ArrayRecord files, read at random.

It is written and read by tensorflow-datasets without TensorFlow, by `SequentialWriter`, since
`GeneratorBasedBuilder` keeps a whole split in memory to shuffle it and needs TensorFlow's file
layer from 1 GB on. `tfds.builder_from_directory` reads either. Records hold keyed hashes, no names.
"""

import collections
import contextlib
import copy
import dataclasses
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from hiresmed_jax import files
from hiresmed_jax.data import stored
from hiresmed_jax.data.identity import PHANTOM, SPLITS, Identity, Split
from hiresmed_jax.data.listing import prepare_command
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.record_format import (
  AS_BYTES,
  CARD,
  CARD_AS_IT_WAS,
  CARD_KINDS,
  FIELDS_AS_THEY_WERE,
  SCHEMA_VERSION,
  Encoded,
  SourceReport,
  dataset_info,
  decode,
  encode,
  features,
  make_card,
  ranges_in_use,
)
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.errors import UserError

_RECORDS = "records"
_SHARD_IMAGES = 2048
_WRITE_TOGETHER = 16
_CURE = "prepare the dataset again"
_TABLE_HEADER = ("image_id", "path", "group_id", "group", "split")


def write_dataset(
  samples: Iterable[Sample],
  out: Path,
  *,
  kind: str,
  name: str = "",
  identity: Identity | None = None,
  overwrite: bool = False,
  workers: int = 1,
  report: SourceReport | None = None,
) -> dict[str, Any]:
  """Writes a prepared dataset, whole or not at all, and returns its card.

  At most a few images per worker are in memory. The records are in the order of `samples`.

  Args:
    samples: of the readers; their `source` names differ.
    out: folder to make.
    kind: `images`, `dicom`, `volumes`, `lidc` or `phantom`, for the card.
    name: of the dataset; by default that of its folder.
    identity: the key that hides names; only phantoms need none.
    overwrite: replace a prepared dataset that is there.
    workers: threads that encode.
    report: of the readers; it is used when `samples` is exhausted.

  Raises:
    UserError: `out` is there already, `samples` is empty, or no space is left.
  """
  if identity is None:
    if kind != "phantom":
      raise ValueError("images of patients need a private key")
    identity = PHANTOM
  out = Path(out).absolute()
  refuse_to_replace(out, overwrite=overwrite)
  with files.whole_folder(out) as folder:
    refuse_to_replace(out, overwrite=overwrite)  # another process may have made it meanwhile
    encoded = _write_records(samples, folder / _RECORDS, identity, workers)
    if not encoded:
      raise UserError(f"nothing to write to {out}: {_why_none(report)}")
    card = make_card(encoded, name=name or out.name, kind=kind, report=report or SourceReport())
    files.write_json(folder / CARD, card, indent=1, allow_nan=False)
    written = (path for path in folder.rglob("*") if path.is_file())
    files.write_digests(folder, (path.relative_to(folder).as_posix() for path in written))
    identity.write_table(out.name, _TABLE_HEADER, [e.names for e in encoded])
  return card


def describe(
  samples: Iterable[Sample],
  *,
  kind: str,
  name: str,
  workers: int = 1,
  report: SourceReport | None = None,
) -> dict[str, Any]:
  """The card that `write_dataset` would make; nothing is written.

  Raises:
    UserError: `samples` is empty.
  """
  key = Identity(secrets.token_bytes(32), None)
  encoded = [
    dataclasses.replace(one, record={})
    for one in ordered_map(lambda s: encode(s, key), samples, workers=workers)
  ]
  if not encoded:
    raise UserError(_why_none(report))
  return make_card(encoded, name=name, kind=kind, report=report or SourceReport())


def _why_none(report: SourceReport | None) -> str:
  """Why a dataset has no image: the most frequent reason."""
  reasons = collections.Counter(reason for _, reason in report.skipped) if report else None
  if not reasons:
    return "no image could be read"
  ((reason, count),) = reasons.most_common(1)
  return f"no image could be read: {count} of {reasons.total()} files: {reason}"


def refuse_to_replace(out: Path, *, overwrite: bool) -> None:
  """Raises UserError when `out` holds a dataset and `overwrite` is false, or something else."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not (out / CARD).is_file():
    raise UserError(f"{out} is there and is no prepared dataset: name another folder with --out")
  if not overwrite:
    raise UserError(f"{out} is prepared already: add --overwrite to replace it")


def _write_records(
  samples: Iterable[Sample], folder: Path, identity: Identity, workers: int
) -> list[Encoded]:
  """Writes the records; returns their facts, without the pixels."""
  folder.mkdir()
  writer = tfds.core.SequentialWriter(
    dataset_info(folder), _SHARD_IMAGES, file_format="array_record"
  )
  writer.initialize_splits(list(SPLITS))
  written: list[Encoded] = []
  waiting: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
  seen: set[str] = set()
  for one in ordered_map(lambda s: encode(s, identity), samples, workers=workers):
    if one.record["image_id"] in seen:
      raise ValueError("two samples have one source name")
    seen.add(one.record["image_id"])
    waiting[one.split].append(one.record)
    written.append(dataclasses.replace(one, record={}))
    if len(written) % _WRITE_TOGETHER == 0:  # each call rewrites the metadata: 10 ms
      writer.add_examples(waiting)
      waiting = {split: [] for split in SPLITS}
  writer.add_examples(waiting)
  writer.close_all()
  if written:
    # The features fit all images, which are known only now.
    bits, channels = max(e.bits for e in written), max(e.channels for e in written)
    features(bits, channels).save_config(folder)
  return written


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared dataset.

  Attributes:
    root: its folder.
    card: content of `card.json`, see `record_format.make_card`.
  """

  root: Path
  card: Mapping[str, Any]


def open_dataset(root: Path | str) -> Dataset:
  """Opens a prepared dataset.

  Its small files are compared with their digests, of records the sizes: these have checksums of
  their own, which are compared as they are read.

  Raises:
    UserError: the folder is missing, empty, damaged, of a newer version, or not prepared; then the
      message holds the command that prepares it.
  """
  root = Path(root).absolute()
  if not root.is_dir():
    raise UserError(f"{root} is {'not a folder' if root.exists() else 'not there'}")
  if not any(root.iterdir()):
    raise UserError(f"{root} is empty")
  path = root / CARD
  if not path.is_file():
    raise UserError(f"{root} is not prepared; run: {prepare_command(root)}")
  card = files.read_json(path, {"schema_version": int}, cure=_CURE)
  version = card["schema_version"]
  if version > SCHEMA_VERSION:
    raise UserError(
      f"{root} has records of version {version}, this program reads up to {SCHEMA_VERSION}: "
      "prepare again, or use the newer program"
    )
  files.check_digests(root, _CURE, whole=lambda name: ".array_record" not in name)
  return Dataset(root=root, card=CARD_AS_IT_WAS | files.read_json(path, CARD_KINDS, cure=_CURE))


def source(dataset: Dataset, split: Split) -> "Records":
  """Random access to the images of one split; empty when it has none. It can be pickled."""
  if split not in SPLITS:
    raise ValueError(f"split {split!r}")
  length, ranges = int(dataset.card["splits"][split]), ranges_in_use(dataset.card)
  found = Records(dataset.root / _RECORDS, split, length, ranges)
  found._all_labelled = not length or not dataset.card["unknown"]
  return found


class Source(Protocol):
  """Random access to records; see `Records`."""

  def __len__(self) -> int:
    """Number of records."""
    ...

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """One record."""
    ...


class Records:
  """Random access to records, opened in each process on its first read.

  Item: image uint8|uint16 [H, W, C], stored values; boxes f32[N, 4] xyxy pixels; lesion_mask
  uint16 [H, W] or (0, 0); forbidden_mask, host_mask uint8 [H, W] or (0, 0); labelled: bool, False
  where nobody has looked for lesions; image_id, group: keyed hashes;
  rescale_slope, rescale_intercept: floats; value_range f32[2], rescaled units; photometric;
  physics; spacing_mm f32[2] (row, column), NaN when unknown.
  """

  def __init__(self, folder: Path, split: Split, length: int, ranges: dict | None = None):
    self._folder, self._split, self._length, self._ranges = folder, split, length, ranges
    self._masks = True
    self._all_labelled = False  # known without a look
    self._numbers: Sequence[int] = range(length)  # of the records that count
    self._opened: Any = None

  @property
  def split(self) -> Split:
    """The split of these records."""
    return self._split

  def without_masks(self) -> "Records":
    """The same records with masks of (0, 0), which are faster to read."""
    found = copy.copy(self)
    found._masks = False
    return found

  def labelled(self) -> "Records":
    """Those that somebody has labelled; where that is all, the same object.

    The others may show lesions without a box, so that nothing may take them for lesion-free.
    """
    if self._all_labelled:
      return self
    examples, _ = self._open()
    with self._or_damaged():
      known = [n for n in self._numbers if (FIELDS_AS_THEY_WERE | examples[n])["labelled"]]
    if len(known) == self._length:
      return self
    return self.chosen(known)

  def chosen(self, numbers: Sequence[int]) -> "Records":
    """The records of these numbers, in this order; numbers of the whole split."""
    found = copy.copy(self)
    found._numbers, found._length = list(numbers), len(numbers)
    return found

  def __len__(self) -> int:
    return self._length

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return (self[i] for i in range(len(self)))

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._length:
      raise IndexError(index)
    examples, image = self._open()
    with self._or_damaged():
      return decode(examples[self._numbers[index]], image, masks=self._masks, ranges=self._ranges)

  def display_ranges(self) -> set[tuple[float, float]]:
    """The (low, high) that occur as `value_range` of the items; no image is decoded."""
    examples, _ = self._open()
    declared = {tuple(examples[number]["value_range"]) for number in self._numbers}
    shown = [(self._ranges or {}).get(ends, ends) for ends in declared]
    return {(float(low), float(high)) for low, high in shown}

  def facts(self) -> list[tuple[tuple[int, int], np.ndarray, int]]:
    """((rows, columns), spacing_mm, number of boxes) of every item; no image is decoded."""
    examples, _ = self._open()
    with self._or_damaged():
      read = (examples[number] for number in self._numbers)
      return [(stored.png_shape(e["image"]), e["spacing_mm"], len(e["boxes"])) for e in read]

  def _open(self) -> tuple[Any, Any]:
    """(the examples, the feature of their images)."""
    if self._opened is None:
      with self._or_damaged():
        builder = tfds.builder_from_directory(self._folder)
        opened = builder.as_data_source(self._split, decoders=AS_BYTES)
        self._opened = opened, builder.info.features["image"]
    return self._opened

  @contextlib.contextmanager
  def _or_damaged(self) -> Iterator[None]:
    """What the libraries raise for damaged records becomes one line."""
    try:
      yield
    except Exception as error:  # what readers of records and of JSON raise is no closed list
      raise UserError(f"{self._folder} is damaged ({self._split}): {_CURE}") from error

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_opened": None}

  def __repr__(self) -> str:
    # grain keeps it in the state of an iterator, so that it must hold no path and no address.
    return f"Records({self._split}, {self._length} images)"


class WithForbidden:
  """Records with a mask of forbidden tissue, their own or that of a folder.

  Item: of `Records`, forbidden_mask never (0, 0).

  Args:
    source: the records.
    folder: of the masks of records without one, see `png_path`; None leaves these records out.
  """

  def __init__(self, source: Source, folder: Path | None):
    self._source, self._folder = source, folder
    numbers = range(len(source))
    if folder is None:
      self._numbers = [n for n in numbers if source[n]["forbidden_mask"].size]
    else:
      self._numbers = list(numbers)

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> dict[str, Any]:
    item = dict(self._source[self._numbers[index]])
    if self._folder is not None and not item["forbidden_mask"].size:
      content = png_path(self._folder, item["image_id"]).read_bytes()
      item["forbidden_mask"] = stored.decode_mask(content, np.uint8)
    return item

  def __repr__(self) -> str:
    return f"WithForbidden({self._source!r}, {len(self)})"


class WithLesionFree:
  """Records with the image in which lesions are removed beside their own.

  Item: of `Records`, and `lesion_free`: that image, of the same type, or None where there is none.

  Args:
    source: the records.
    folder: of the images, see `png_path`.
  """

  def __init__(self, source: Source, folder: Path):
    self._source, self._folder = source, folder

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    item = dict(self._source[index])
    path, image = png_path(self._folder, item["image_id"]), item["image"]
    item["lesion_free"] = None
    if path.is_file():
      item["lesion_free"] = stored.decode_image(
        path.read_bytes(), dtype=image.dtype.type, channels=image.shape[-1]
      )
    return item

  def __repr__(self) -> str:
    return f"WithLesionFree({self._source!r})"


def png_path(folder: Path, image_id: str) -> Path:
  """The file of a record in a folder of PNG. The id is a keyed hash: hexadecimal digits."""
  if not image_id.isalnum():
    raise ValueError("an image id of other than letters and digits")
  return folder / f"{image_id}.png"
