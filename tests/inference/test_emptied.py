"""Lesions are gone from the pixels, and as many holes are filled elsewhere."""

import jax
import numpy as np
import pytest
import scipy.ndimage

from hiresmed_jax.data import phantom, records
from hiresmed_jax.inference import canvas, emptied
from hiresmed_jax.inference.emptied import with_decoys, write_all
from hiresmed_jax.synthesis.background import Maker


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
  bare = records.WithLesionFree(source, tmp_path)
  some = 0
  for index in range(len(source)):
    item = bare[index]
    if not len(item["boxes"]):
      assert item["lesion_free"] is None
      continue
    some += 1
    np.testing.assert_array_equal(item["lesion_free"], with_decoys(item, (3, index), decoys=1.0))
  assert some
  stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
  write_all(source, tmp_path, decoys=1.0, seed=3)
  assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps


def labelled(bright: np.ndarray, box: tuple[int, ...]) -> dict:
  """A record without masks: noise, what is bright, and one box."""
  noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(128, 128)), 0.8)
  grey = 100 + 8 * noise + 140 * scipy.ndimage.gaussian_filter(bright.astype(float), 0.8)
  image = np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None]
  item = canvas.record_of(image, (0.0, 255.0)) | {"image_id": "a1"}
  return item | {"boxes": np.array([box], np.float32), "physics": "ct"}


def bar(top: int, left: int, bottom: int, right: int) -> np.ndarray:
  found = np.zeros((128, 128), bool)
  found[top:bottom, left:right] = True
  return found


def test_all_that_stands_out_of_a_box_is_taken_out():
  # Two parts in one box; the outline that is found is one of them.
  item = labelled(bar(50, 50, 58, 56) | bar(64, 60, 68, 66), (48, 48, 68, 70))
  values, boxes, none = item["image"].astype(np.float32), item["boxes"], item["lesion_mask"]
  lesions = emptied.lesion_masks(values, boxes, none, (0.0, 255.0))
  own = emptied.bounds(values, boxes, none)
  assert emptied.standing(
    emptied.inpainted(values, lesions, jax.random.key(0)), own, own.halves
  ).any()
  found = emptied.without_lesions(item, jax.random.key(0))["image"][46:72, 46:72]
  assert found.max() < 130
  # Of a known mask nothing more is taken out; where it leaves a part, the image is not used.
  partly = item | {"lesion_mask": lesions[0].astype(np.uint16)}
  assert emptied.bounds(values, boxes, partly["lesion_mask"]).halves == [np.inf]
  assert emptied.without_lesions(partly, jax.random.key(0)) is None
  whole = bar(50, 50, 58, 56) | bar(64, 60, 68, 66)
  used = emptied.without_lesions(item | {"lesion_mask": whole.astype(np.uint16)}, jax.random.key(0))
  assert used["image"][46:72, 46:72].max() < 130


def test_a_box_of_a_pixel_has_a_lesion():
  for side in (1.0, 1.3):
    box = np.array([[60 - side / 2, 60 - side / 2, 60 + side / 2, 60 + side / 2]], np.float32)
    values = np.full((128, 128, 1), 100, np.float32)
    (found,) = emptied.lesion_masks(values, box, np.zeros((0, 0), np.uint16), (0.0, 255.0))
    assert found[60, 60]


def test_a_background_that_keeps_its_lesions_has_a_label_for_each():
  keeps = Maker(None, True, 0.5)
  one = labelled(bar(50, 50, 58, 56), (48, 48, 60, 58))
  (mask,) = keeps.make(one, jax.random.key(0), jax.devices()[0]).own_lesions
  assert mask[53, 53]
  two = labelled(bar(50, 50, 58, 56) | bar(64, 60, 70, 66), (48, 48, 72, 70))
  assert keeps.make(two, jax.random.key(0), jax.devices()[0]) is None


def test_a_dim_lesion_beside_a_bright_one_in_its_box_is_seen():
  item = labelled(bar(50, 50, 58, 56) | bar(64, 60, 70, 66), (48, 48, 72, 70))
  image = item["image"].astype(np.float32)
  background = float(np.median(image))
  for share, is_used in ((0.35, False), (0.02, True)):
    dim = image.copy()
    dim[64:70, 60:66] = background + share * (image[52:56, 52:54].mean() - background)
    dimmed = item | {"image": dim.round().astype(np.uint8)}
    assert (emptied.without_lesions(dimmed, jax.random.key(0)) is not None) == is_used


def test_a_mask_beside_its_box_is_not_believed():
  item = labelled(bar(50, 50, 58, 56), (48, 48, 60, 60))
  item["lesion_mask"] = bar(100, 100, 108, 108).astype(np.uint16)
  assert emptied.without_lesions(item, jax.random.key(0))["image"][48:60, 48:60].max() < 130


def test_an_image_that_is_all_lesion_is_not_used():
  item = labelled(bar(0, 0, 128, 128), (0, 0, 128, 128))
  item["lesion_mask"] = np.ones((128, 128), np.uint16)
  assert emptied.without_lesions(item, jax.random.key(0)) is None


def test_tissue_that_goes_on_beyond_a_box_is_no_lesion():
  item = labelled(bar(54, 54, 62, 62) | bar(40, 66, 90, 120), (48, 50, 66, 70))
  values = item["image"].astype(np.float32)
  own = emptied.bounds(values, item["boxes"], item["lesion_mask"])
  lesion = emptied.standing(values, own, own.halves)
  assert lesion[56:60, 56:60].all()
  assert not lesion[:, 64:].any()


def test_an_image_in_which_something_is_left_is_not_used(tmp_path, monkeypatch):
  item = labelled(bar(52, 54, 62, 64), (48, 50, 68, 68))
  makers = [Maker(None, label_own, 0.5) for label_own in (False, True)]
  made = [maker.make(item, jax.random.key(0), None) for maker in makers]
  assert [len(ground.own_lesions) for ground in made] == [0, 1]
  monkeypatch.setattr(emptied.inpaint, "inpaint", lambda values, *_: values)  # fills nothing
  assert emptied.without_lesions(item, jax.random.key(0)) is None
  assert with_decoys(item, (0, 0), decoys=1.0) is None
  write_all([item], tmp_path, decoys=1.0, seed=0)
  assert not list(tmp_path.iterdir())
  assert not any(maker.make(item, jax.random.key(0), None) for maker in makers)
