"""What the reports of all routes share: a few examples to draw, the curves and results.json."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from hiresmed_jax import files
from hiresmed_jax.runtime.figures import loss_curves

HostBatch: TypeAlias = Mapping[str, Any]
# (this process's rows of a host batch, what `Task.eval_step` made of them)
Look: TypeAlias = Callable[[HostBatch, np.ndarray], None]
# (host batches, look) -> (named numbers, images), as `programs.evaluate` with the best state
Evaluate: TypeAlias = Callable[[Iterable[HostBatch], Look], tuple[dict[str, float], int]]


class Examples:
  """A few rows of the batches that an evaluation runs over, for a figure.

  They are evenly spread over all rows, so that not all are of one patient; where some have boxes,
  only such rows are taken. Fewer than 4 * `count` rows are in memory, however many come.
  """

  def __init__(self, count: int) -> None:
    self._with_boxes, self._all = _Spread(count), _Spread(count)

  def add(self, batch: HostBatch, made: np.ndarray) -> None:
    """Takes what it needs of a batch; `made` is [rows, ...]."""
    for i in range(int(np.sum(np.asarray(batch["weight"]) > 0))):
      takers = [self._all] if self._all.is_next() else []
      if "boxes" in batch and len(batch["boxes"][i]) and self._with_boxes.is_next():
        takers.append(self._with_boxes)
      if takers:
        # Copied: a row that is only looked at keeps its whole batch in memory.
        row = {name: np.array(value[i]) for name, value in batch.items()}
        row["made"] = np.array(made[i])
      for taker in takers:
        taker.keep(row)

  def rows(self) -> list[dict[str, np.ndarray]]:
    """At most `count` rows of what the batches hold, without the batch's axis, and "made"."""
    return self._with_boxes.chosen() or self._all.chosen()


class _Spread:
  """Every n-th thing of a stream; n doubles whenever 2 * `count` are kept."""

  def __init__(self, count: int) -> None:
    self._count, self._every, self._passed = count, 1, 0
    self._kept: list[Any] = []

  def is_next(self) -> bool:
    self._passed += 1
    return (self._passed - 1) % self._every == 0

  def keep(self, thing: Any) -> None:
    self._kept.append(thing)
    if len(self._kept) == 2 * self._count:
      self._kept, self._every = self._kept[::2], 2 * self._every

  def chosen(self) -> list[Any]:
    count = min(self._count, len(self._kept))
    return [self._kept[i * len(self._kept) // count] for i in range(count)]


def write(folder: pathlib.Path, results: Mapping[str, Any]) -> None:
  """Writes results.json and the curves of a route's folder."""
  loss_curves(folder / "metrics.jsonl", folder / "figures" / "curves.png")
  files.write_json(folder / "results.json", results)
