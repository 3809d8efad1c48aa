"""Batches: shuffled and changed at random for training, in order and padded for evaluation."""

import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from hiresmed_jax.data.augment import augment
from hiresmed_jax.data.records import Records
from hiresmed_jax.data.transforms import View, load
from hiresmed_jax.errors import UserError

_BUFFER_BYTES = 1 << 30  # of batches that are ready, per process
_THREADS = 16

_HOST_ONLY = ("boxes", "group", "image_id", "spacing_mm")


class Source(Protocol):
  """Random access to records; see `records.Records`."""

  def __len__(self) -> int:
    """Number of records."""
    ...

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """One record."""
    ...


def train_dataset(
  source: Source,
  *,
  view: View,
  augmentation: Mapping[str, Any] | None,
  batch_size: int,
  seed: int,
  workers: int = 0,
  crop: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Endless training batches of this process, reshuffled every epoch.

  Args:
    source: the records.
    view: what to make of a record.
    augmentation: arguments of `augment.augment`; None for no change.
    batch_size: over all processes.
    seed: of the order and of the random changes.
    workers: processes that read ahead; 0 reads ahead with threads. The batches are the same.
    crop: side of a random window of the view; 0 keeps the view.
    process_index: which of the processes this is.
    process_count: each takes its share of every epoch; together they cover it.

  Returns:
    grain dataset of {"images_m11": f32[batch_size / process_count, rows, columns, C]}; its
    iterator has get_state and set_state. A state fits any number of workers and of processes.

  Raises:
    UserError: no images, or a batch that the processes cannot share evenly.
  """
  if crop > min(view.shape):
    raise UserError(f"crops of {crop} px do not fit in a view of {view.shape[0]} x {view.shape[1]}")
  if isinstance(source, Records):
    source = source.without_masks()
  make = functools.partial(
    _training_image, view=view, augmentation=dict(augmentation or {}), crop=crop
  )
  side = (crop, crop) if crop else view.shape
  return endless(
    source,
    [(make, 0)],
    batch_size=batch_size,
    item_bytes=side[0] * side[1] * 4 * view.channels,
    seed=seed,
    workers=workers,
    process_index=process_index,
    process_count=process_count,
  )


def endless(
  source: Source,
  makes: Sequence[tuple[Callable[[Any, np.random.Generator], Any], int]],
  *,
  batch_size: int,
  item_bytes: int,
  seed: int,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Endless training batches of this process of what is made of records, reshuffled every epoch.

  Args:
    source: the records.
    makes: (how a record and random numbers become an example, for how many batches), one after
      the other; the last one goes on for ever.
    batch_size: over all processes.
    item_bytes: of an example, for how many are read ahead.
    seed: see `train_dataset`, as for the rest.
    workers: likewise.
    process_index: likewise.
    process_count: likewise.

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
    flags.FLAGS.mark_as_parsed()  # grain asks flags of its own, which only an absl program has read
  processes = grain.MultiprocessingOptions(num_workers=workers)
  return ahead.mp_prefetch(processes, worker_init_fn=_leave_signals_to_the_main_process)


def _leave_signals_to_the_main_process(index: int, count: int) -> None:
  """Ctrl-C reaches every process of a terminal; batches are needed until the run has saved."""
  del index, count
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)


class _Batches(grain.IterDataset):
  """Batches whose iterator's state is how many it has given, whatever reads ahead.

  The state of grain's own iterators depends on the number of workers: a run could not go on with
  another one.
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
    return batch

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
  source: Source, *, view: View, batch_size: int, limit: int | None = None
) -> Iterator[dict[str, Any]]:
  """Every image once, in the order of the records, in batches of one shape.

  Args:
    source: the records.
    view: what to make of a record.
    batch_size: images per batch; the last one is filled up with zeros.
    limit: how many images, evenly spread over the records; None for all.

  Yields:
    images_m11 f32[B, rows, columns, C]; weight f32[B], 0 on what fills up; valid bool[B, rows,
    columns]; lesion_mask uint16 and forbidden_mask uint8 [B, rows, columns], 0 where unknown; and,
    as lists of as many entries as there are images: boxes, group, image_id, spacing_mm.
  """
  count = len(source) if limit is None else min(limit, len(source))
  picked = np.linspace(0, len(source), count, endpoint=False).astype(int)
  for start in range(0, count, batch_size):
    yield _padded(
      [load(source[int(i)], view) for i in picked[start : start + batch_size]], batch_size
    )


def _training_image(
  record: Mapping[str, Any],
  rng: np.random.Generator,
  *,
  view: View,
  augmentation: Mapping[str, Any],
  crop: int,
) -> dict[str, np.ndarray]:
  example = load(record, view)
  if augmentation:
    example = augment(example, rng, **augmentation)
  images_m11 = example["images_m11"]
  if crop:
    top, left = (int(rng.integers(side - crop + 1)) for side in images_m11.shape[:2])
    images_m11 = np.ascontiguousarray(images_m11[top : top + crop, left : left + crop])
  return {"images_m11": images_m11}


def _padded(examples: Sequence[dict[str, Any]], batch_size: int) -> dict[str, Any]:
  batch: dict[str, Any] = {name: [e[name] for e in examples] for name in _HOST_ONLY}
  shape = examples[0]["images_m11"].shape
  weight = np.zeros(batch_size, np.float32)
  weight[: len(examples)] = 1.0
  batch["weight"] = weight
  kinds = {
    "images_m11": np.float32,
    "valid": bool,
    "lesion_mask": np.uint16,
    "forbidden_mask": np.uint8,
  }
  for name, dtype in kinds.items():
    batch[name] = np.zeros((batch_size, *(shape if name == "images_m11" else shape[:2])), dtype)
    for row, example in zip(batch[name], examples):
      if example[name].size:
        row[...] = example[name]
  return batch
