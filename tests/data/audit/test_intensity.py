import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hiresmed_jax.data.audit import pixels, summary
from hiresmed_jax.data.sample import Sample


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
  # Against the plain definition.
  steps = np.abs(np.diff(coded.astype(float), axis=1))[:, :192]
  by_phase = np.array([steps[:, phase::8].mean() for phase in range(8)])
  np.testing.assert_allclose(found, by_phase / by_phase.mean(), rtol=1e-5)
  shifted = pixels.column_gradients(coded[:, 3:, None])
  assert shifted.argmax() == 4


def _grid_excess(images: list[np.ndarray]) -> float:
  samples = [Sample(image=image[..., None], group="g", source="s") for image in images]
  facts = [summary.image_facts(sample, group="g", split="train") for sample in samples]
  return float(summary.summarise(facts)["jpeg"]["grid_excess"])


def test_coloured_marks_on_grey_pictures_are_told() -> None:
  picture = np.repeat(_smooth()[..., None], 3, axis=-1)
  marked, colour = picture.copy(), picture.copy()
  marked[20:22, 30:90] = (255, 0, 0)
  colour[..., 0] = 255
  for image, told in ((picture, False), (marked, True), (colour, False)):
    fact = summary.image_facts(Sample(image, group="g", source="s"), group="g", split="train")
    said = " ".join(summary.summarise([fact])["warnings"])
    assert ("coloured marks" in said) == told


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "JPEG", quality=quality)
  return np.asarray(Image.open(buffer))


def test_no_blocks_are_found_where_there_was_no_jpeg() -> None:
  plain = [_smooth(seed) for seed in range(3)]
  assert _grid_excess([_jpeg(image, 60) for image in plain]) > 0.1
  assert _grid_excess(plain) < 0.05
  for left, right in ((32, 168), (0, 47), (8, 200)):  # collimators, on the grid of JPEG and off it
    shuttered = [image.copy() for image in plain]
    for image in shuttered:
      image[:, :left] = image[:, right:] = 0
    assert _grid_excess(shuttered) < 0.05
    assert _grid_excess([_jpeg(image, 60) for image in shuttered]) > 0.1
  noise = np.random.default_rng(0)
  for _ in range(5):
    assert _grid_excess([noise.integers(0, 256, (30, 40), dtype=np.uint8)]) < 0.05


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
