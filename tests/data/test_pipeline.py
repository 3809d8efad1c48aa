import dataclasses
import functools
import pickle
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest

from hiresmed_jax.data import pipeline, records
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.data.transforms import View, load
from hiresmed_jax.errors import UserError

VIEW = View(8)
AUGMENTATION = {"degrees": 5.0, "gain": 0.2, "offset": 0.05}


@dataclasses.dataclass(frozen=True)
class Numbers:
  """A source of images that tell their own index by their brightness."""

  count: int
  first: int = 0

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {
      "image": np.full((8, 8, 1), self.first + index, np.uint8),
      "boxes": np.array([[1, 1, 3, 3]] * (index % 3), np.float32).reshape(-1, 4),
      "lesion_mask": np.full((8, 8), index, np.uint16)
      if index % 2
      else np.zeros((0, 0), np.uint16),
      "forbidden_mask": np.zeros((0, 0), np.uint8),
      "image_id": f"image {index}",
      "group": "g",
      "rescale_slope": 1.0,
      "rescale_intercept": 0.0,
      "value_range": np.array([0, 255], np.float32),
      "photometric": "MONOCHROME2",
      "physics": "none",
      "spacing_mm": np.array([1, 1], np.float32),
    }


def _dataset(count: int = 22, **options: Any) -> grain.IterDataset:
  known: dict[str, Any] = {
    "view": VIEW,
    "augmentation": None,
    "batch_size": 4,
    "seed": 0,
    "workers": 0,
  }
  return pipeline.train_dataset(Numbers(count), **{**known, **options})


def _take(dataset: grain.IterDataset, batches: int) -> np.ndarray:
  iterator = iter(dataset)
  return np.stack([next(iterator)["images_m11"] for _ in range(batches)])


def _indices(images_m11: np.ndarray) -> np.ndarray:
  return np.rint((images_m11[..., 0, 0, 0] + 1) * 127.5).astype(int)


def test_an_epoch_shows_every_image_once_and_the_next_is_shuffled_anew() -> None:
  seen = _indices(_take(_dataset(), 11)).ravel()
  assert sorted(seen[:22]) == sorted(seen[22:]) == list(range(22))
  assert list(seen[:22]) != list(seen[22:])
  assert list(seen[:22]) != list(range(22))


def test_batches_are_float32_and_nothing_else() -> None:
  batch = next(iter(_dataset()))
  assert batch.keys() == {"images_m11"}
  assert batch["images_m11"].shape == (4, 8, 8, 1)
  assert batch["images_m11"].dtype == np.float32


def test_what_fits_is_decoded_once() -> None:
  asked = []

  class Counted(Numbers):
    def __getitem__(self, index: int) -> dict[str, Any]:
      asked.append(index)
      return super().__getitem__(index)

  shown = functools.partial(load, view=VIEW)
  room = 3 * 500  # 256 bytes of image, 64 of `valid`, at most 128 + 2 x 16 of mask and boxes, 8
  loaded = pipeline.Kept(Counted(4), shown, room)
  for _ in range(3):
    assert [loaded[n]["image_id"] for n in range(4)] == [f"image {n}" for n in range(4)]
  assert sorted(asked) == [0, 1, 2, 3, 3, 3]
  assert sum(a.nbytes for one in loaded._kept.values() for a in pipeline._arrays(one)) <= room
  with pytest.raises(ValueError, match="read-only"):
    loaded[0]["images_m11"][:] = 0
  assert (
    pickle.loads(pickle.dumps(pipeline.Kept(Numbers(4), shown, room)))[2]["boxes"].shape[1] == 4
  )


def test_what_is_kept_changes_no_batch() -> None:
  anew, kept = (_dataset(6, augmentation=AUGMENTATION, kept_bytes=k) for k in (0, 1 << 20))
  np.testing.assert_array_equal(_take(kept, 9), _take(anew, 9))


def test_the_seed_decides() -> None:
  same = [_take(_dataset(seed=s, augmentation=AUGMENTATION), 3) for s in (0, 0, 1)]
  np.testing.assert_array_equal(same[0], same[1])
  assert not np.array_equal(same[0], same[2])


def test_processes_cover_an_epoch_without_overlap() -> None:
  """22 images over 4 processes: the sizes do not divide, and still none is lost."""
  parts = [
    _indices(_take(_dataset(batch_size=4, process_index=p, process_count=4), 11)).ravel()
    for p in range(4)
  ]
  assert [len(p) for p in parts] == [11] * 4
  together = np.stack(parts, axis=1).ravel()
  assert sorted(together[:22]) == sorted(together[22:]) == list(range(22))


def test_two_processes_see_what_one_sees() -> None:
  one = _take(_dataset(batch_size=4, augmentation=AUGMENTATION), 5)
  halves = [
    _take(_dataset(batch_size=4, augmentation=AUGMENTATION, process_index=p, process_count=2), 5)
    for p in range(2)
  ]
  np.testing.assert_array_equal(np.concatenate(halves, axis=1), one)


def test_processes_and_epochs_draw_different_changes() -> None:
  def offsets(**options: Any) -> np.ndarray:
    known: dict[str, Any] = {
      "view": VIEW,
      "augmentation": {"offset": 0.2},
      "batch_size": 2,
      "seed": 0,
    }
    return _take(pipeline.train_dataset(Numbers(1, first=128), **known, **options), 4)[..., 4, 4, 0]

  assert len(np.unique(offsets())) == 8
  halves = [offsets(process_index=p, process_count=2) for p in range(2)]
  assert len(np.unique(halves)) == 8


def test_the_state_restores_the_very_next_batch() -> None:
  dataset = _dataset(augmentation=AUGMENTATION)
  grain.experimental.assert_equal_output_after_checkpoint(_Few(dataset, 9))
  iterator = iter(dataset)
  for _ in range(7):
    next(iterator)
  state = pickle.loads(pickle.dumps(iterator.get_state()))
  expected = [next(iterator)["images_m11"] for _ in range(3)]
  other = iter(_dataset(augmentation=AUGMENTATION))
  other.set_state(state)
  np.testing.assert_array_equal([next(other)["images_m11"] for _ in range(3)], expected)


def test_random_crops() -> None:
  crops = _take(_dataset(crop=5, augmentation=None), 4)
  assert crops.shape == (4, 4, 5, 5, 1)
  with pytest.raises(UserError, match="do not fit"):
    _dataset(crop=9)


def test_what_cannot_be_shared_is_one_line() -> None:
  with pytest.raises(UserError, match="cannot be shared"):
    _dataset(batch_size=3, process_count=2)
  with pytest.raises(UserError, match="no images"):
    _dataset(count=0)


def test_two_workers_give_the_same_batches(tmp_path: Path) -> None:
  rng = np.random.default_rng(0)
  samples = [
    Sample(rng.integers(0, 256, (9, 9, 1), dtype=np.uint8), group=f"p{i}", source=f"f{i}")
    for i in range(30)
  ]
  records.write_dataset(samples, tmp_path / "out", kind="phantom")
  source = records.source(records.open_dataset(tmp_path / "out"), "train")
  options: dict[str, Any] = {
    "view": VIEW, "augmentation": AUGMENTATION, "batch_size": 4, "seed": 3,
  }  # fmt: skip
  plain = pipeline.train_dataset(source, **options)
  parallel = pipeline.train_dataset(source, **options, workers=2)
  expected = _take(plain, 12)
  iterator = iter(parallel)
  found = [next(iterator)["images_m11"] for _ in range(5)]
  # Not in memory that processes share: held at a program's end, it would be told as leaked.
  assert type(found[0]) is np.ndarray
  goes_on = iter(plain)  # and without them from there
  goes_on.set_state(pickle.loads(pickle.dumps(iterator.get_state())))
  iterator.close()
  found += [next(goes_on)["images_m11"] for _ in range(7)]
  np.testing.assert_array_equal(found, expected)


def test_a_state_fits_another_number_of_processes() -> None:
  iterator = iter(_dataset(augmentation=AUGMENTATION))
  for _ in range(3):
    next(iterator)
  expected = next(_after(iterator.get_state()))["images_m11"]
  halves = [
    next(_after(iterator.get_state(), process_index=p, process_count=2))["images_m11"]
    for p in range(2)
  ]
  np.testing.assert_array_equal(np.concatenate(halves), expected)


def _after(state: Any, **options: Any) -> Any:
  iterator = iter(_dataset(augmentation=AUGMENTATION, **options))
  iterator.set_state(state)
  return iterator


def test_evaluation_shows_every_image_once_and_fills_up() -> None:
  batches = list(pipeline.eval_batches(Numbers(10), view=VIEW, batch_size=4))
  assert [b["images_m11"].shape for b in batches] == [(4, 8, 8, 1)] * 3
  weight = np.concatenate([b["weight"] for b in batches])
  np.testing.assert_array_equal(weight, [1.0] * 10 + [0.0] * 2)
  images = np.concatenate([b["images_m11"] for b in batches])
  np.testing.assert_array_equal(_indices(images[:10]), np.arange(10))
  assert [name for b in batches for name in b["image_id"]] == [f"image {i}" for i in range(10)]
  assert [len(box) for b in batches for box in b["boxes"]] == [i % 3 for i in range(10)]
  valid = np.concatenate([b["valid"] for b in batches])
  np.testing.assert_array_equal(valid.all((1, 2)), weight > 0)


def test_a_limit_is_spread_over_the_records() -> None:
  batches = list(pipeline.eval_batches(Numbers(100), view=VIEW, batch_size=4, limit=5))
  ids = [name for b in batches for name in b["image_id"]]
  assert ids == [f"image {i}" for i in (0, 20, 40, 60, 80)]
  assert not list(pipeline.eval_batches(Numbers(0), view=VIEW, batch_size=4))


class _Few(grain.IterDataset):
  """The first batches of an endless dataset, which grain's own check needs."""

  def __init__(self, dataset: grain.IterDataset, count: int):
    super().__init__(dataset)
    self._count = count

  def __iter__(self) -> grain.DatasetIterator:
    return _FewIterator(iter(self._parent), self._count)


class _FewIterator(grain.DatasetIterator):
  def __init__(self, parent: grain.DatasetIterator, count: int):
    super().__init__(parent)
    self._left = count

  def __next__(self) -> Any:
    if not self._left:
      raise StopIteration
    self._left -= 1
    return next(self._parent)

  def get_state(self) -> Any:
    return {"parent": self._parent.get_state(), "left": self._left}

  def set_state(self, state: Any) -> None:
    self._parent.set_state(state["parent"])
    self._left = state["left"]
