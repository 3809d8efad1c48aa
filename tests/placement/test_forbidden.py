"""The rule for bone and lung: on a drawn abdomen, and on real slices with corrected masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from hiresmed_jax.data import records, stored
from hiresmed_jax.metrics import segmentation as metric
from hiresmed_jax.placement import forbidden

CORRECTED = Path(__file__).parents[1] / "data" / "danger"


def abdomen(side=256):
  """(grey f32[H, W], bone, lung, stone bool[H, W]): a body with lungs, column, ribs, a stone."""
  rows, columns = np.mgrid[:side, :side] / side
  body = np.abs(columns - 0.5) < 0.42
  grey = np.where(body, 0.45, 0.0).astype(np.float32)
  lung = (rows < 0.3) & (np.abs(np.abs(columns - 0.5) - 0.22) < 0.12)
  grey[lung] = 0.0
  vessel = (rows - 0.15) ** 2 + (columns - 0.28) ** 2 < 0.02**2
  grey[vessel] = 0.5
  column = (np.abs(columns - 0.5) < 0.06) & (rows > 0.4) & (np.mod(rows, 0.12) > 0.015)
  ribs = ((rows - 0.5) / 0.03) ** 2 + ((np.abs(columns - 0.5) - 0.38) / 0.012) ** 2 < 1
  bone = column | ribs
  grey[bone] = 1.0
  fat = (rows > 0.6) & (np.abs(np.abs(columns - 0.5) - 0.2) < 0.05)
  grey[fat & ~bone] = 0.06
  stone = (rows - 0.55) ** 2 + (columns - 0.3) ** 2 < 0.03**2
  grey[stone] = 1.0
  return cv2.GaussianBlur(grey, (0, 0), 0.6), bone, lung, stone


@pytest.mark.parametrize("side", [192, 256, 512])
def test_bone_and_lung_are_found_and_stones_are_not(side):
  grey, bone, lung, stone = abdomen(side)
  found = forbidden.abdomen(grey) > 0
  assert found[bone].mean() > 0.95
  assert found[lung].mean() > 0.95  # the vessel too
  assert not found[stone].any()
  assert (found & ~(bone | lung)).sum() < 0.15 * (bone | lung).sum()


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_an_image_that_shows_nothing_has_a_mask_all_the_same(value):
  found = forbidden.abdomen(np.full((64, 80), value, np.float32))
  assert found.shape == (64, 80)
  assert found.dtype == np.uint8


def test_real_slices_are_near_to_masks_corrected_by_hand(shared):
  scores = []
  for path in sorted(CORRECTED.glob("*.png")):
    image = cv2.imread(str(shared / "data" / "stones_ct" / "images" / f"{path.stem}.jpg"), 0)
    real = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0
    assert real.shape == image.shape
    found = forbidden.abdomen(image.astype(np.float32) / 255) > 0
    scores.append(float(metric.dice(metric.overlap(found, real, np.ones_like(real)))))
  assert len(scores) == 20
  assert np.mean(scores) > 0.97
  assert min(scores) > 0.93


def record(number, mask=None):
  image = (255 * abdomen(96)[0]).astype(np.uint8)[..., None]
  return {
    "image": image,
    "image_id": f"{number:04x}",
    "value_range": np.array([0, 255], np.float32),
    "rescale_slope": 1.0,
    "rescale_intercept": 0.0,
    "photometric": "MONOCHROME2",
    "forbidden_mask": np.zeros((0, 0), np.uint8) if mask is None else mask,
  }


def test_masks_are_written_for_images_without_and_read_beside_their_own(tmp_path):
  own = np.ones((96, 96), np.uint8)
  source = [record(0), record(1, own), record(2)]
  forbidden.write(source, tmp_path, "abdomen")
  assert sorted(path.stem for path in tmp_path.glob("*.png")) == ["0000", "0002"]
  labelled = records.WithForbidden(source, tmp_path)
  assert len(labelled) == 3
  np.testing.assert_array_equal(labelled[1]["forbidden_mask"], own)
  found = labelled[2]["forbidden_mask"]
  np.testing.assert_array_equal(found, forbidden.abdomen(forbidden.grey_of(source[2])))
  kept = records.png_path(tmp_path, "0000")
  kept.write_bytes(stored.encode_png(own))  # a second call leaves what is there
  forbidden.write(source, tmp_path, "abdomen")
  np.testing.assert_array_equal(labelled[0]["forbidden_mask"], own)
  only = records.WithForbidden(source, None)
  assert len(only) == 1
  assert only[0]["image_id"] == "0001"
  assert str(tmp_path) not in repr(labelled)


def test_dark_is_bright_where_the_record_says_so():
  item = record(0)
  inverted = {**item, "image": 255 - item["image"], "photometric": "MONOCHROME1"}
  np.testing.assert_allclose(forbidden.grey_of(inverted), forbidden.grey_of(item), atol=1e-6)
