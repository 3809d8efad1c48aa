import numpy as np
import pytest

from hiresmed_jax.data.audit import polarity


def _pictures(count: int, seed: int = 0) -> list[np.ndarray]:
  """Bodies of several sizes and places, with structure of their own, in black."""
  rng = np.random.default_rng(seed)
  rows, columns = np.mgrid[:64, :64]
  found = []
  for _ in range(count):
    y, x = rng.normal(32, 4, 2)
    body = np.hypot((rows - y) / rng.uniform(20, 30), (columns - x) / rng.uniform(15, 25)) < 1
    found.append((body * rng.uniform(60, 250, (64, 64))).astype(np.uint8))
  return found


@pytest.mark.parametrize("odd", [[], [3], [0, 5, 6, 11]])
def test_negatives_among_pictures_of_one_kind(odd: list[int]) -> None:
  pictures = [255 - p if n in odd else p for n, p in enumerate(_pictures(12))]
  assert polarity.negatives([polarity.thumbnail(p) for p in pictures]) == odd


@pytest.mark.parametrize("kind", ["few", "noise", "flat", "two kinds"])
def test_pictures_that_are_unlike_have_no_negatives(kind: str) -> None:
  rng = np.random.default_rng(1)
  pictures = {
    "few": [*_pictures(6), 255 - _pictures(1, 1)[0]],
    "noise": list(rng.integers(0, 256, (40, 64, 64), dtype=np.uint8)),
    "flat": [np.full((64, 64), 7, np.uint8)] * 12,
    "two kinds": [*_pictures(10), *([np.uint8(rng.uniform(0, 99, (64, 64)))] * 10)],
  }[kind]
  assert polarity.negatives([polarity.thumbnail(p) for p in pictures]) == []
