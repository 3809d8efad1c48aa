import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hiresmed_jax.data.audit import pixels


def _smooth(seed: int = 0, side: int = 200) -> np.ndarray:
  noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(side, side)), (0, 0), 1.2)
  return np.clip(128 + 60 * noise / noise.std() / 3, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 50, 75, 91, 100])
def test_jpeg_quality_is_that_of_the_encoder(tmp_path: Path, quality: int) -> None:
  Image.fromarray(_smooth()).save(tmp_path / "a.jpg", quality=quality)
  assert pixels.jpeg_quality(tmp_path / "a.jpg") == quality


def test_other_files_have_no_quality(tmp_path: Path) -> None:
  Image.fromarray(_smooth()).save(tmp_path / "a.png")
  (tmp_path / "b.jpg").write_text("not an image")
  for name in ("a.png", "b.jpg", "missing.jpg"):
    assert pixels.jpeg_quality(tmp_path / name) is None


def test_the_grid_of_8_pixels() -> None:
  plain = _smooth()
  buffer = io.BytesIO()
  Image.fromarray(plain).save(buffer, "JPEG", quality=20)
  coded = np.asarray(Image.open(buffer))
  assert abs(pixels.column_gradients(plain[..., None]) - 1).max() < 0.08
  found = pixels.column_gradients(coded[..., None])
  assert found.argmax() == 7
  assert found.max() > 1.15
  # Against the plain definition: 24 blocks, of which the middle 12 count.
  steps = np.abs(np.diff(coded.astype(float), axis=1))[:, :192].mean(0)
  by_phase = np.array([np.sort(steps[phase::8])[6:18].mean() for phase in range(8)])
  np.testing.assert_allclose(found, by_phase / by_phase.mean(), rtol=1e-5)
  shifted = pixels.column_gradients(coded[:, 3:, None])
  assert shifted.argmax() == 4


def test_a_straight_edge_is_no_grid() -> None:
  plain = _smooth()
  for left, right in ((32, 168), (0, 47), (8, 200)):  # of a collimator, on and off the grid of JPEG
    shuttered = plain.copy()
    shuttered[:, :left] = 0
    shuttered[:, right:] = 0
    assert pixels.column_gradients(shuttered[..., None]).max() < 1.1


def test_no_grid_where_nothing_changes() -> None:
  for shape in ((40, 40, 1), (40, 5, 1), (3, 1, 1)):
    found = pixels.column_gradients(np.full(shape, 9, np.uint16))
    np.testing.assert_array_equal(found, np.ones(8))


def test_censoring() -> None:
  assert pixels.censoring_level(np.zeros((4, 4, 1), np.uint8)) == 250
  rng = np.random.default_rng(0)
  free = rng.integers(0, 4000, (100, 100, 1), dtype=np.uint16)
  assert pixels.censoring_level(free) > free.max()
  clipped = np.minimum(free, 3500)
  assert pixels.censoring_level(clipped) == 3500


def test_display_shows_the_value_range() -> None:
  image = np.array([[0, 1064, 1164, 1264, 4000]], np.uint16)[..., None]
  shown = pixels.display(image, (-100.0, 100.0), 1.0, -1164.0)
  np.testing.assert_array_equal(shown, [[0, 0, 128, 255, 255]])
  colour = np.zeros((2, 2, 3), np.uint8)
  colour[..., 1] = 255
  assert pixels.display(colour, (0.0, 255.0), 1.0, 0.0).shape == (2, 2)
