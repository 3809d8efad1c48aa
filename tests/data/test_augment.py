from typing import Any

import cv2
import numpy as np
import pytest

from hiresmed_jax.data.augment import augment


def example(rows: int = 48, columns: int = 64) -> dict[str, Any]:
  """A loaded example: a bright ellipse in a box on a smooth ground, padding on the left."""
  y, x = np.indices((rows, columns)) + 0.5
  ellipse = ((x - 40) / 8) ** 2 + ((y - 20) / 5) ** 2 < 1
  image = np.where(ellipse, 0.8, -0.4 + 0.005 * x).astype(np.float32)
  valid = x > 6
  image[~valid] = -1
  return {
    "images_m11": image[..., None],
    "boxes": np.array([[32, 15, 48, 25]], np.float32),
    "lesion_mask": ellipse.astype(np.uint16),
    "forbidden_mask": (x > 55).astype(np.uint8),
    "valid": valid,
    "spacing_mm": np.array([0.5, 0.5], np.float32),
    "group": "g",
    "image_id": "i",
  }


def test_nothing_switched_on_changes_nothing() -> None:
  before = example()
  after = augment(before, np.random.default_rng(0))
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("seed", range(6))
def test_box_and_mask_follow_the_pixels(seed: int) -> None:
  options: dict[str, Any] = {"degrees": 20.0, "scale": 0.2, "shift": 0.08, "flip": True}
  out = augment(example(), np.random.default_rng(seed), **options)
  bright = (out["images_m11"][..., 0] > 0.2).astype(np.uint8)
  x, y, width, height = cv2.boundingRect(bright)
  np.testing.assert_allclose(out["boxes"][0], [x, y, x + width, y + height], atol=1.2)
  overlap = (bright > 0) & (out["lesion_mask"] == 1)
  assert overlap.sum() > 0.93 * max(bright.sum(), (out["lesion_mask"] == 1).sum())


def test_a_half_turn_of_the_frame_is_exact() -> None:
  """Pixel i covers [i, i + 1): a mirroring maps pixel i to W - 1 - i and a box x to W - x."""
  before = example()
  rng = next(g for g in map(np.random.default_rng, range(99)) if _coin(g) < 0)
  after = augment(before, rng, flip=True)
  np.testing.assert_allclose(after["images_m11"], before["images_m11"][:, ::-1], atol=1e-6)
  np.testing.assert_array_equal(after["lesion_mask"], before["lesion_mask"][:, ::-1])
  np.testing.assert_array_equal(after["valid"], before["valid"][:, ::-1])
  np.testing.assert_allclose(after["boxes"], [[64 - 48, 15, 64 - 32, 25]], atol=1e-4)


def test_size_changes_spacing() -> None:
  after = augment(example(), np.random.default_rng(1), scale=0.3)
  zoom = 0.5 / after["spacing_mm"]
  width = after["boxes"][0, 2] - after["boxes"][0, 0]
  np.testing.assert_allclose(zoom, width / 16, rtol=1e-4)
  assert 1 / 1.3 <= zoom[0] <= 1.3


def test_padding_stays_black_and_no_wedges_appear() -> None:
  before = example()
  before["images_m11"] = np.where(before["valid"][..., None], np.float32(0.3), np.float32(-1))
  for seed in range(8):
    options: dict[str, Any] = {
      "degrees": 10.0,
      "shift": 0.05,
      "gain": 0.2,
      "offset": 0.1,
      "gamma": 0.2,
    }
    out = augment(before, np.random.default_rng(seed), **options)
    image = out["images_m11"][..., 0]
    inner = np.zeros_like(out["valid"])
    inner[:, 20:] = True
    assert (image[inner] > -0.5).all()  # what lies outside of the frame is mirrored, not black
    assert not out["valid"].all()
    assert np.isin(image < -0.999, (True, False)).all()
    assert (image[:, :2] <= 0.7).all()


def test_intensities() -> None:
  before = example()
  unit = (before["images_m11"] + 1) / 2
  rng = np.random.default_rng(3)
  *_, contrast, brightness, exponent, _ = np.random.default_rng(3).uniform(-1, 1, 8)
  out = augment(before, rng, gain=0.2, offset=0.1, gamma=0.3)
  expected = (1 + 0.2 * contrast) * unit ** (1.3**exponent) + 0.1 * brightness
  expected = np.clip(2 * expected - 1, -1, 1)
  expected[~before["valid"]] = -1
  np.testing.assert_allclose(out["images_m11"], expected, atol=1e-5)
  np.testing.assert_array_equal(out["boxes"], before["boxes"])


def test_the_input_is_not_touched() -> None:
  before, kept = example(), example()
  augment(before, np.random.default_rng(0), degrees=9.0, gain=0.2, shift=0.1)
  for name in before:
    np.testing.assert_array_equal(before[name], kept[name])


def test_one_switch_does_not_change_the_others() -> None:
  options: dict[str, Any] = {"degrees": 9.0, "shift": 0.05}
  one = augment(example(), np.random.default_rng(0), **options)
  two = augment(example(), np.random.default_rng(0), **options, gain=0.3)
  np.testing.assert_array_equal(one["boxes"], two["boxes"])


def test_colour_and_missing_masks() -> None:
  before = example()
  before["images_m11"] = np.repeat(before["images_m11"], 3, -1)
  before["lesion_mask"] = np.zeros((0, 0), np.uint16)
  out = augment(before, np.random.default_rng(0), degrees=9.0)
  assert out["images_m11"].shape == (48, 64, 3)
  assert out["lesion_mask"].shape == (0, 0)


def _coin(rng: np.random.Generator) -> float:
  import copy

  return float(copy.deepcopy(rng).uniform(-1, 1, 8)[-1])
