from typing import Any

import numpy as np
import pytest

from hiresmed_jax.data.transforms import View, load
from hiresmed_jax.errors import UserError


def record(image: np.ndarray, **known: Any) -> dict[str, Any]:
  """A record as `records.Records` gives it."""
  return {
    "image": image,
    "boxes": np.zeros((0, 4), np.float32),
    "lesion_mask": np.zeros((0, 0), np.uint16),
    "forbidden_mask": np.zeros((0, 0), np.uint8),
    "image_id": "i",
    "group": "g",
    "rescale_slope": 1.0,
    "rescale_intercept": 0.0,
    "value_range": np.array([0, 255], np.float32),
    "photometric": "MONOCHROME2",
    "physics": "none",
    "spacing_mm": np.array([np.nan, np.nan], np.float32),
    **known,
  }


def test_eight_bits_stay_0_to_255() -> None:
  image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
  out = load(record(image), View(16))["images_m11"]
  assert out.dtype == np.float32
  np.testing.assert_allclose((out + 1) * 127.5, image, atol=1e-4)


def test_windows_are_in_rescaled_units() -> None:
  # Stored 1,064 is -100 HU with this slope and intercept, 1,224 is 60 HU.
  image = np.array([[0, 1064, 1224, 4095]], np.uint16)[..., None].repeat(2, 0)
  known = {
    "rescale_slope": 1.0,
    "rescale_intercept": -1164.0,
    "value_range": np.array([-160, 240], np.float32),
  }
  out = load(record(image, **known), View((2, 4), window=(-100.0, 60.0)))["images_m11"]
  np.testing.assert_allclose(out[0, :, 0], [-1, -1, 1, 1], atol=1e-5)
  stored = load(record(image, **known), View((2, 4)))["images_m11"]
  np.testing.assert_allclose(stored[0, :, 0], [-1, -0.7, 0.1, 1], atol=1e-5)
  halved = {**known, "rescale_slope": 0.5, "rescale_intercept": -632.0}
  out = load(record(image, **halved), View((2, 4), window=(-100.0, 60.0)))["images_m11"]
  np.testing.assert_allclose(out[0, 1:3, 0], [-1, 0], atol=1e-5)


def test_monochrome1_is_inverted_after_its_window() -> None:
  image = np.random.default_rng(0).integers(0, 4096, (8, 8, 1), dtype=np.uint16)
  for window in ("stored", "percentile", (100.0, 900.0)):
    known = {"value_range": np.array([0, 4095], np.float32)}
    plain = load(record(image, **known), View(8, window=window))["images_m11"]
    dark = load(record(image, photometric="MONOCHROME1", **known), View(8, window=window))
    np.testing.assert_allclose(dark["images_m11"], -plain, atol=1e-6)


def test_padding_is_black_also_when_inverted() -> None:
  image = np.full((4, 8, 1), 255, np.uint8)
  out = load(record(image, photometric="MONOCHROME1"), View(8, fit="pad"))
  assert out["images_m11"].shape == (8, 8, 1)
  assert (out["images_m11"][:2] == -1).all()
  assert not out["valid"][:2].any()
  assert out["valid"][2:6].all()


def test_percentiles_follow_each_image() -> None:
  rng = np.random.default_rng(0)
  image = rng.normal(3000, 100, (300, 300, 1)).astype(np.uint16)
  image[0, 0] = 65535
  out = load(record(image), View(300, window="percentile"))["images_m11"]
  low, high = np.percentile(image, (0.5, 99.5))
  expected = np.clip((image - low) / (high - low) * 2 - 1, -1, 1)
  np.testing.assert_allclose(out, expected, atol=0.02)


def test_a_constant_image_is_no_error() -> None:
  out = load(record(np.full((8, 8, 1), 9, np.uint8)), View(8, window="percentile"))
  assert np.isfinite(out["images_m11"]).all()


def test_means_are_taken_before_the_window_clips() -> None:
  # Metal beside air: their mean is what a larger detector element measures, then it is windowed.
  image = np.array([[0, 4000], [0, 0]], np.uint16)[..., None]
  known = {"value_range": np.array([0, 2000], np.float32)}
  out = load(record(image, **known), View(1))["images_m11"]
  np.testing.assert_allclose(out, 0.0, atol=1e-6)


def test_spacing_follows_every_resize() -> None:
  known = {"spacing_mm": np.array([0.5, 0.8], np.float32)}
  image = np.zeros((100, 50, 1), np.uint8)
  for view, expected in (
    (View((50, 100)), [1.0, 0.4]),
    (View(50, fit="pad"), [1.0, 1.6]),
    (View(200, fit="pad"), [0.5, 0.8]),
    (View(25, fit="crop"), [1.0, 1.6]),
  ):
    np.testing.assert_allclose(load(record(image, **known), view)["spacing_mm"], expected)
  unknown = load(record(image), View(50))["spacing_mm"]
  assert np.isnan(unknown).all()


def test_masks_and_boxes_come_along() -> None:
  labels = np.zeros((40, 40), np.uint16)
  labels[8:16, 20:32], labels[30:34, 2:6] = 1, 2
  known = {
    "boxes": np.array([[20, 8, 32, 16], [2, 30, 6, 34]], np.float32),
    "lesion_mask": labels,
    "forbidden_mask": (labels == 0).astype(np.uint8),
  }
  out = load(record(np.zeros((40, 40, 1), np.uint8), **known), View((20, 60)))
  np.testing.assert_allclose(out["boxes"], [[30, 4, 48, 8], [3, 15, 9, 17]])
  for number, (x1, y1, x2, y2) in enumerate(out["boxes"].astype(int), start=1):
    assert (out["lesion_mask"][y1:y2, x1:x2] == number).all()
  assert out["lesion_mask"].dtype == np.uint16
  np.testing.assert_array_equal(out["forbidden_mask"] == 0, out["lesion_mask"] > 0)
  padded = load(record(np.zeros((40, 40, 1), np.uint8), **known), View(50, fit="pad"))
  np.testing.assert_array_equal(padded["lesion_mask"][5:45, 5:45], labels)


def test_channels() -> None:
  rng = np.random.default_rng(0)
  colour = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  grey = rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)
  assert load(record(grey), View(8, channels=3))["images_m11"].shape == (8, 8, 1)
  out = load(record(colour, photometric="RGB"), View(8, channels=3))["images_m11"]
  np.testing.assert_allclose((out + 1) * 127.5, colour, atol=1e-4)
  one = load(record(colour, photometric="RGB"), View(8, channels=1))["images_m11"]
  luma = colour @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose((one[..., 0] + 1) * 127.5, luma, atol=0.1)


def test_the_record_is_not_touched() -> None:
  image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
  before = image.copy()
  example = record(image, forbidden_mask=np.ones((8, 8), np.uint8))
  load(example, View(8))["forbidden_mask"].sum()
  np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"size": 0}, "at least 1"),
    ({"size": 8, "fit": "squeeze"}, "'stretch', 'pad', 'crop'"),
    ({"size": 8, "window": "bone"}, "'percentile'"),
    ({"size": 8, "window": (5.0, 5.0)}, "low must be below high"),
    ({"size": 8, "channels": 2}, "use 1 or 3"),
  ],
)
def test_a_wrong_view_says_what_to_use(options: dict[str, Any], says: str) -> None:
  with pytest.raises(UserError, match=says):
    View(**options)
