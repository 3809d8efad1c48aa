"""Lesions are gone from the pixels, and as many holes are filled elsewhere."""

import numpy as np
import pytest

from hiresmed_jax.data import phantom, records
from hiresmed_jax.inference.emptied import with_decoys, write_all


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> records.Records:
  folder = tmp_path_factory.mktemp("emptied") / "data"
  drawn = (one.sample for one in phantom.phantoms("kub", 12, 96, seed=1))
  records.write_dataset(drawn, folder, kind="phantom", name="phantoms")
  return records.source(records.open_dataset(folder), "train")


def with_lesion(source: records.Records) -> dict:
  return next(item for item in source if len(item["boxes"]))


def changed(item: dict, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(changed on a lesion, changed elsewhere): bool[H, W]."""
  there = item["lesion_mask"] > 0
  apart = (item["image"] != image).any(axis=-1)
  near = np.zeros_like(there)
  for x1, y1, x2, y2 in item["boxes"].astype(int):
    near[max(y1 - 8, 0) : y2 + 9, max(x1 - 8, 0) : x2 + 9] = True
  return apart & there, apart & ~near


def test_a_lesion_goes_and_a_decoy_comes(source):
  item = with_lesion(source)
  image = with_decoys(item, (0, 0), decoys=1.0)
  on_lesions, elsewhere = changed(item, image)
  assert image.shape == item["image"].shape
  assert image.dtype == item["image"].dtype
  assert on_lesions.sum() > 0.5 * (item["lesion_mask"] > 0).sum()
  assert elsewhere.any()
  _, elsewhere = changed(item, with_decoys(item, (0, 0), decoys=0.0))
  assert not elsewhere.any() or elsewhere.sum() == 0


def test_equal_seeds_give_equal_images(source):
  item = with_lesion(source)
  first, again, other = (with_decoys(item, (0, n), decoys=2.0) for n in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_written_images_are_found_and_left_alone(source, tmp_path):
  counted = []
  write_all(source, tmp_path, decoys=1.0, seed=3, advance=lambda: counted.append(1))
  assert len(counted) == len(source)
  emptied = records.WithLesionFree(source, tmp_path)
  some = 0
  for index in range(len(source)):
    item = emptied[index]
    if not len(item["boxes"]):
      assert item["lesion_free"] is None
      continue
    some += 1
    np.testing.assert_array_equal(item["lesion_free"], with_decoys(item, (3, index), decoys=1.0))
  assert some
  stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
  write_all(source, tmp_path, decoys=1.0, seed=3)
  assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
