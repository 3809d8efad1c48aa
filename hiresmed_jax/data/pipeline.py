"""Batches: shuffled and changed at random for training, in order and padded for evaluation.

B images, C channels. `detection` adds boxes.
"""

import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from hiresmed_jax.data.augment import augment
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.records import Records, Source
from hiresmed_jax.data.transforms import Example, View, load
from hiresmed_jax.errors import UserError

_BUFFER_BYTES = 1 << 30  # of batches that are ready, per process
KEPT_BYTES = 2 << 30  # of images that need not be decoded again, per process
_THREADS = 16
_LISTS = ("boxes", "group", "image_id", "spacing_mm")  # of an evaluation batch

# An item of the source to what a batch holds of it.
Make = Callable[[Any, np.random.Generator], dict[str, np.ndarray]]


def train_dataset(
  source: Source,
  *,
  view: View,
  augmentation: Mapping[str, Any] | None,
  crop: int = 0,
  masks: bool = False,
  kept_bytes: int = KEPT_BYTES,
  **reading: Any,
) -> grain.IterDataset:
  """Endless training batches of images, with or without masks.

  Args:
    source: the records.
    view: how a record is shown.
    augmentation: arguments of `augment.augment`; None for no change.
    crop: side of a random window of the view; 0 keeps the view.
    masks: whether there are masks beside the images.
    kept_bytes: of images that were decoded, and need not be decoded again in later epochs. The
      batches are the same.
    **reading: batch_size, seed, workers and processes, see `endless`.

  Returns:
    grain dataset of {"images_m11": f32[B, rows, columns, C]}; with masks also "labels", 1 on
    forbidden tissue, "lesions", 1 in the boxes of lesions, both uint8[B, rows, columns], and
    "valid" bool[B, rows, columns], False on padding and beyond the image.

  Raises:
    UserError: see `endless`; crops that are larger than the view.
  """
  if crop > min(view.shape):
    raise UserError(f"crops of {crop} px do not fit in a view of {view.shape[0]} x {view.shape[1]}")
  if isinstance(source, Records) and not masks:
    source = source.without_masks()
  make = functools.partial(_example, augmentation=dict(augmentation or {}), crop=crop, masks=masks)
  pixels = crop * crop if crop else view.shape[0] * view.shape[1]
  item_bytes = pixels * (4 * view.channels + (3 if masks else 0))
  shown = functools.partial(load, view=view)
  loaded = Kept(source, shown, kept_bytes, workers=reading.get("workers", 0))
  return endless(loaded, [(make, 0)], item_bytes=item_bytes, **reading)


def endless(
  source: Source,
  makes: Sequence[tuple[Make, int]],
  *,
  batch_size: int,
  item_bytes: int,
  seed: int,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Endless training batches of this process, reshuffled every epoch.

  Args:
    source: the records, or what is made of them.
    makes: (how an item of it and random numbers become an example, for how many batches), one after
      the other; the last one has no end.
    batch_size: over all processes.
    item_bytes: of an example; it limits how many are read ahead.
    seed: of the order and of the random changes.
    workers: processes that read ahead; 0 reads ahead with threads. The batches are the same.
    process_index: of this process.
    process_count: each process takes its share of every epoch; together they cover it.

  Returns:
    grain dataset of stacked examples, [batch_size / process_count, ..]; its iterator has get_state
    and set_state. A state fits any number of workers and of processes.

  Raises:
    UserError: no images, or a batch that the processes cannot share evenly.
  """
  if not len(source):
    raise UserError("there are no images to train on: prepare more, from more patients")
  if batch_size < 1 or batch_size % process_count:
    raise UserError(f"a batch of {batch_size} cannot be shared by {process_count} processes")
  local = batch_size // process_count
  shuffled = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
  parts, start = [], 0
  for make, batches in makes[:-1]:
    stop = start + batches * batch_size
    parts.append(shuffled.random_map(make)[start:stop])
    start = stop
  last = shuffled.random_map(makes[-1][0])
  dataset = grain.MapDataset.concatenate([*parts, last[start:]]) if parts else last
  # Shared out after the random map: before it, every process would draw the same random numbers.
  # Each takes its rows of the batch that one process would make, in its place.
  dataset = dataset.batch(local, drop_remainder=True)[process_index::process_count]
  ready = max(2, _BUFFER_BYTES // (local * item_bytes))
  threads = min(_THREADS, os.cpu_count() or 1, ready) if workers == 0 else 2
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=min(ready, 2 * threads))
  return _Batches(dataset, functools.partial(_read_ahead, options=options, workers=workers))


def _read_ahead(
  batches: grain.MapDataset, *, options: grain.ReadOptions, workers: int
) -> grain.IterDataset:
  ahead = batches.to_iter_dataset(options)
  if workers == 0:
    return ahead
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads flags of its own, which only absl programs parse
  # Python's own process clears shared memory away when a run was killed, and need not say so.
  os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
  processes = grain.MultiprocessingOptions(num_workers=workers)
  return ahead.mp_prefetch(processes, worker_init_fn=_leave_signals_to_the_main_process)


def _leave_signals_to_the_main_process(index: int, count: int) -> None:
  """Ctrl-C reaches every process of a terminal; batches are needed until the run has saved."""
  del index, count
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)


class Kept:
  """What is made of each record; the first that are asked for are kept, while there is room.

  Later epochs neither read nor decode what is kept, and cannot write to it. Threads may share it:
  two that ask at the same time may both make an item. Each worker process has its own part of the
  room, and decodes again what is not in it.

  Args:
    source: the records.
    make: a record to nested arrays.
    most_bytes: of all that is kept.
    workers: processes between which the room is divided.
  """

  def __init__(
    self, source: Source, make: Callable[[Any], Any], most_bytes: int, *, workers: int = 0
  ) -> None:
    self._source, self._make, self._room = source, make, most_bytes // max(1, workers)
    self._kept: dict[int, Any] = {}

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Any:
    found = self._kept.get(int(index))
    if found is None:
      found = self._make(self._source[int(index)])
      arrays = list(_arrays(found))
      size = sum(array.nbytes for array in arrays)
      if size <= self._room:
        for array in arrays:
          array.flags.writeable = False
        self._room -= size
        self._kept[int(index)] = found
    return found

  def __repr__(self) -> str:
    return f"Kept({self._source!r})"

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_kept": {}}


def _arrays(value: Any) -> Iterator[np.ndarray]:
  """Those in nested dicts and tuples."""
  if isinstance(value, np.ndarray):
    yield value
  elif isinstance(value, dict | tuple):
    for one in value.values() if isinstance(value, dict) else value:
      yield from _arrays(one)


class _Batches(grain.IterDataset):
  """Batches whose iterator's state is the number of batches given.

  The state of grain's own iterators depends on the number of workers, so that a run could not
  continue with another one.
  """

  def __init__(
    self, batches: grain.MapDataset, read: Callable[[grain.MapDataset], grain.IterDataset]
  ):
    super().__init__()
    self._batches, self._read = batches, read

  def __iter__(self) -> "_BatchIterator":
    return _BatchIterator(lambda given: iter(self._read(self._batches[given:])))


class _BatchIterator(grain.DatasetIterator):
  def __init__(self, read_from: Callable[[int], grain.DatasetIterator]):
    super().__init__()
    self._read_from, self._given = read_from, 0
    self._reading: grain.DatasetIterator | None = None

  def __next__(self) -> Any:
    if self._reading is None:
      self._reading = self._read_from(self._given)
    batch = next(self._reading)
    self._given += 1
    # Out of the memory that is shared with processes: a device on the CPU would use it as it is,
    # and still hold it when the program ends.
    return {name: v if type(v) is np.ndarray else np.array(v) for name, v in batch.items()}

  def get_state(self) -> dict[str, int]:
    return {"batches": self._given}

  def set_state(self, state: Mapping[str, int]) -> None:
    self.close()
    self._given = state["batches"]

  def close(self) -> None:
    if self._reading is not None:
      self._reading.close()
      self._reading = None


def eval_batches(
  source: Source, *, view: View, batch_size: int, limit: int | None = None, masks: bool = False
) -> Iterator[dict[str, Any]]:
  """Every image once, in the order of the records, in batches of one shape.

  Threads read a few images ahead.

  Args:
    source: the records.
    view: how a record is shown.
    batch_size: images per batch; the last one is filled up with zeros.
    limit: how many images, evenly spread over the records; None for all.
    masks: whether there are masks beside the images.

  Yields:
    images_m11 f32[B, rows, columns, C]; weight f32[B], 0 on what fills up; valid bool[B, rows,
    columns]; with masks also labels uint8[B, rows, columns], 1 on forbidden tissue; and, as lists
    of as many entries as there are images: boxes, group, image_id, spacing_mm.
  """
  if isinstance(source, Records) and not masks:
    source = source.without_masks()
  count = len(source) if limit is None else min(limit, len(source))
  picked = np.linspace(0, len(source), count, endpoint=False).astype(int)
  threads = min(_THREADS, os.cpu_count() or 1)
  loaded = ordered_map(lambda i: load(source[int(i)], view), picked, workers=threads)
  while examples := list(itertools.islice(loaded, batch_size)):
    batch: dict[str, Any] = {name: [e[name] for e in examples] for name in _LISTS}
    batch["weight"] = (np.arange(batch_size) < len(examples)).astype(np.float32)
    batch["images_m11"] = _padded([e["images_m11"] for e in examples], batch_size)
    batch["valid"] = _padded([e["valid"] for e in examples], batch_size)
    if masks:
      batch["labels"] = _padded([_labels(e) for e in examples], batch_size)
    yield batch


def _example(
  example: Example,
  rng: np.random.Generator,
  *,
  augmentation: Mapping[str, Any],
  crop: int,
  masks: bool,
) -> dict[str, np.ndarray]:
  shape = example["images_m11"].shape[:2]
  if augmentation:
    example = augment(example, rng, **augmentation)
  arrays = {"images_m11": example["images_m11"]}
  if masks:
    lesions = _filled(example["boxes"], shape)
    arrays |= {"labels": _labels(example), "valid": example["valid"], "lesions": lesions}
  if crop:
    top, left = (int(rng.integers(side - crop + 1)) for side in shape)
    window = np.s_[top : top + crop, left : left + crop]
    arrays = {name: np.ascontiguousarray(value[window]) for name, value in arrays.items()}
  return arrays


def _padded(arrays: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
  out = np.zeros((batch_size, *arrays[0].shape), arrays[0].dtype)
  for row, array in zip(out, arrays):
    row[...] = array
  return out


def _labels(example: Mapping[str, Any]) -> np.ndarray:
  return (example["forbidden_mask"] > 0).astype(np.uint8)


def _filled(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  out = np.zeros(shape, np.uint8)
  for x1, y1, x2, y2 in np.rint(boxes).astype(int):
    out[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 1
  return out
