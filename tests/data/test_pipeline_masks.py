"""Masks travel with their pixels through changes, crops and padding."""

import numpy as np
import pytest

from hiresmed_jax.data import pipeline
from hiresmed_jax.data.transforms import View
from hiresmed_jax.errors import UserError

VIEW = View(size=(48, 64), fit="pad")
STRONG = {"degrees": 20.0, "scale": 0.2, "shift": 0.1}


class Source:
  """What is bright is forbidden, what is very bright is a lesion; smaller than the view."""

  def __len__(self):
    return 5

  def __getitem__(self, index):
    image = np.full((40, 50, 1), 40, np.uint8)
    image[8:30, 10 + index : 26] = 180
    image[33:38, 35:42] = 250
    return {
      "image": image,
      "rescale_slope": 1.0,
      "rescale_intercept": 0.0,
      "value_range": np.array([0, 255], np.float32),
      "photometric": "MONOCHROME2",
      "boxes": np.array([[35, 33, 42, 38]], np.float32),
      "lesion_mask": np.zeros((0, 0), np.uint16),
      "forbidden_mask": ((image[..., 0] > 100) & (image[..., 0] < 200)).astype(np.uint8) * 255,
      "spacing_mm": np.ones(2, np.float32),
      "group": "",
      "image_id": str(index),
    }


def batch(**changes):
  known = {"view": VIEW, "augmentation": STRONG, "crop": 0, "batch_size": 4, "seed": 0}
  known["masks"] = True
  return next(iter(pipeline.train_dataset(Source(), **{**known, **changes})))


@pytest.mark.parametrize("crop", [0, 32])
def test_labels_lie_on_what_they_are_of(crop):
  found = batch(crop=crop)
  shape = (4, crop, crop) if crop else (4, 48, 64)
  assert {name: value.shape[:3] for name, value in found.items()} == dict.fromkeys(
    ("images_m11", "labels", "valid", "lesions"), shape
  )
  grey = (found["images_m11"][..., 0] + 1) * 127.5
  forbidden = (grey > 110) & (grey < 200)
  assert found["labels"].max() == 1
  inside = found["valid"]
  assert (forbidden == found["labels"])[inside].mean() > 0.96  # edges are soft
  lesion = (grey > 230) & inside
  assert found["lesions"][lesion].mean() > 0.9
  if not crop:
    assert lesion.any()
    assert not inside.all()


def test_evaluation_has_all_images_and_their_labels():
  batches = list(pipeline.eval_batches(Source(), view=VIEW, batch_size=4, masks=True))
  assert [int(one["weight"].sum()) for one in batches] == [4, 1]
  assert batches[0]["labels"].dtype == np.uint8
  assert set(np.unique(batches[0]["labels"])) == {0, 1}
  assert batches[0]["labels"][0].sum() == 22 * 16
  assert not batches[0]["valid"][0, :4].any()  # 40 rows in the middle of 48


def test_a_crop_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match="crops of 50 px do not fit"):
    batch(crop=50)
