"""A figure shows a few rows of many, and keeps nothing of the others."""

import weakref

import numpy as np
import pytest

from hiresmed_jax.routes.report import Examples


def batches(rows, size=4):
  """Host batches of numbered rows; the last one is filled up."""
  for start in range(0, len(rows), size):
    own = rows[start : start + size]
    count = len(own)
    numbers = np.zeros((size, 8), np.float32)
    numbers[:count] = np.arange(start, start + count)[:, None]
    yield {
      "images_m11": numbers,
      "weight": np.float32([1.0] * count + [0.0] * (size - count)),
      "boxes": [np.zeros((boxes, 4), np.float32) for boxes in own],
    }


def shown(rows, count=4):
  examples = Examples(count)
  for batch in batches(rows):
    examples.add(batch, 2 * batch["images_m11"])
  return [(int(row["images_m11"][0]), int(row["made"][0])) for row in examples.rows()]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8, 9, 50, 1000])
def test_rows_come_from_all_over_the_set(count):
  found = shown([0] * count)
  numbers = [number for number, _ in found]
  assert len(numbers) == min(count, 4)
  assert numbers == sorted(set(numbers))
  assert all(made == 2 * number for number, made in found)
  if count >= 8:
    gaps = np.diff([*numbers, count])
    assert gaps.max() <= 2 * max(gaps.min(), count / 8)


def test_rows_with_boxes_are_taken_where_there_are_any():
  rows = [0] * 10 + [2] + [0] * 5 + [1] + [0] * 7
  assert [number for number, _ in shown(rows)] == [10, 16]


def test_no_batch_is_kept():
  examples = Examples(2)
  watched = []
  for batch in batches([1] * 40):
    examples.add(batch, batch["images_m11"])
    watched.append(weakref.ref(batch["images_m11"]))
  del batch
  assert not [ref for ref in watched if ref() is not None]
  assert len(examples.rows()) == 2
