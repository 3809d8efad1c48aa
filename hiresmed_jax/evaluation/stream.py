"""Arrays of equal shape gathered into batches and split over the devices; few are in memory."""

import collections
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from hiresmed_jax.runtime import mesh as meshes

_PIXELS = 1 << 20  # of a device's share of a batch
_MOST = 16  # images of it

_T = TypeVar("_T")


class Item(NamedTuple):
  """One row of a batch: whose it is, and its arrays by name."""

  entry: int
  arrays: dict[str, np.ndarray]


def in_batches(
  items: Iterable[tuple[Hashable, _T]], size: Any
) -> Iterator[tuple[Hashable, list[_T]]]:
  """Gathers items by key; yields (key, `size(key)` items), and at the end what is left.

  At most one batch of each key waits; the order within a key is that of `items`.
  """
  waiting: dict[Hashable, list[_T]] = collections.defaultdict(list)
  for key, item in items:
    waiting[key].append(item)
    if len(waiting[key]) == size(key):
      yield key, waiting.pop(key)
  yield from waiting.items()


def batch_size(pixels: int, devices: int, count: int) -> int:
  """Images of a batch: what a device's memory bears, no more than `count` asks for."""
  share = max(1, min(_MOST, _PIXELS // max(pixels, 1), -(-count // devices)))
  return share * devices


def on_devices(rows: Sequence[Item], size: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """The arrays of a batch, stacked and split over all devices; filled up with its last row."""
  filled = [*rows, *[rows[-1]] * (size - len(rows))]
  stacked = {name: np.stack([row.arrays[name] for row in filled]) for name in filled[0].arrays}
  return dict(meshes.put_batch(stacked, meshes.batch_sharding(mesh)))
