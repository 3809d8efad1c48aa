"""A grid shows the very pixels it was given; curves show what metrics.jsonl holds."""

import cv2
import numpy as np
import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.figures import image_grid, loss_curves
from hiresmed_jax.runtime.run_folder import Writer

GAP = 4
OUTLINE = (255, 200, 0)


def read(path):
  return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR))[..., ::-1]


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 200, shape, dtype=np.uint8)


def test_pixels_stay_pixels(tmp_path):
  path = tmp_path / "figures" / "grid.png"
  grey, colour, real = noise(40, 30), noise(40, 30, 3, seed=1), noise(40, 30, 1, seed=2) / 255.0
  image_grid(path, [[grey, colour], [real, real]], cell=40)
  page = read(path)
  assert page.shape == (GAP + 2 * (40 + GAP), GAP + 2 * (30 + GAP), 3)
  np.testing.assert_array_equal(page[4:44, 4:34], np.repeat(grey[..., None], 3, -1))
  np.testing.assert_array_equal(page[4:44, 38:68], colour)
  np.testing.assert_array_equal(page[48:88, 4:34, 0], np.rint(real[..., 0] * 255))


def test_small_images_grow_and_large_ones_shrink_by_whole_factors(tmp_path):
  small, large = noise(10, 10), noise(70, 80, seed=1)
  image_grid(tmp_path / "small.png", [[small]], cell=35)
  enlarged = read(tmp_path / "small.png")[GAP:-GAP, GAP:-GAP, 0]
  np.testing.assert_array_equal(enlarged, small.repeat(3, 0).repeat(3, 1))
  image_grid(tmp_path / "large.png", [[large]], cell=40)
  reduced = read(tmp_path / "large.png")[GAP:-GAP, GAP:-GAP, 0]
  means = large.reshape(35, 2, 40, 2).mean(axis=(1, 3))
  np.testing.assert_allclose(reduced, means, atol=0.51)


def test_lesions_are_outlined_at_a_distance_and_magnified_in_brackets(tmp_path):
  image = np.full((128, 96), 60, np.uint8)
  image[70:74, 40:46] = 190
  boxes = np.array([[40.0, 70.0, 46.0, 74.0], [5.0, 5.0, 9.0, 9.0]])
  image_grid(tmp_path / "grid.png", [[image, image], [image, image]], boxes=[boxes, boxes[:0]])
  page = read(tmp_path / "grid.png")
  scale = 512 // 128
  whole = page[GAP : GAP + 512, GAP : GAP + 96 * scale]
  yellow = np.all(whole == OUTLINE, axis=-1)
  inside = yellow[70 * scale : 74 * scale, 40 * scale : 46 * scale]
  assert yellow.any()
  assert not inside.any()
  inset = page[GAP : GAP + 512, GAP + 2 * (96 * scale + GAP) :][:, :512]
  # 24 px of context in 512: a factor of 21, and the stone's own pixels uncovered.
  assert (inset[..., 0] == 190).sum() == (4 * 21) * (6 * 21)
  rows, cols = np.nonzero(inset[..., 0] == 190)
  assert abs(rows.mean() - 256) < 21
  assert abs(cols.mean() - 256) < 21
  second = page[2 * GAP + 512 : -GAP, GAP + 2 * (96 * scale + GAP) :]
  assert np.all(second == 255)


def test_a_lesion_at_the_border_is_magnified_too(tmp_path):
  image = noise(64, 64)
  for box in ([0, 0, 3, 3], [61, 61, 64, 64], [-2, 30, 2, 34], [0, 0, 64, 64]):
    image_grid(tmp_path / "grid.png", [[image]], boxes=[np.array([box], np.float32)], cell=64)
    assert read(tmp_path / "grid.png").shape == (72, 4 + 2 * 68, 3)


def test_words_have_room_and_leave_images_alone(tmp_path):
  image = noise(64, 64)
  image_grid(
    tmp_path / "grid.png",
    [[image], [image]],
    columns=["$original$"],
    labels=["first\nPSNR 20 dB", "second"],
    footer="validation images",
  )
  page = read(tmp_path / "grid.png")
  expected = np.repeat(image[..., None], 3, -1).repeat(8, 0).repeat(8, 1)
  np.testing.assert_array_equal(page[24 : 24 + 512, -512 - GAP : -GAP], expected)
  left = page[24 : 24 + 512, : -512 - GAP]
  dark = np.nonzero(left.min(axis=(0, 2)) < 128)[0]
  assert dark.min() >= 2
  assert dark.max() < left.shape[1] - 2
  assert page[-20:].min() < 128


def test_what_is_not_a_number_is_seen(tmp_path):
  image = np.zeros((8, 8), np.float32)
  image[2, 3] = np.nan
  image_grid(tmp_path / "grid.png", [[image]], cell=8)
  assert tuple(read(tmp_path / "grid.png")[GAP + 2, GAP + 3]) == (255, 0, 255)


@pytest.mark.parametrize(
  "image", [np.zeros((4, 4), np.uint16), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)]
)
def test_other_arrays_are_refused(tmp_path, image):
  with pytest.raises(ValueError, match="an image is"):
    image_grid(tmp_path / "grid.png", [[image]])


def write_run(folder, steps, broken=()):
  log = Writer(folder)
  for step in range(1, steps + 1):
    loss = float("nan") if step in broken else 10.0 / step**2
    log.write_scalars(step, {"reconstruction": loss, "skipped": step // 50, "time_share": -1.0})
  log.write_scalars(steps, {"val_reconstruction": 0.5, "val_psnr": 20.0})
  log.close()
  return folder / "metrics.jsonl"


@pytest.mark.parametrize("steps", [1, 30, 200])
def test_curves_of_short_and_long_runs(tmp_path, steps):
  metrics = write_run(tmp_path, steps, broken=(7, 8))
  loss_curves(metrics, tmp_path / "figures" / "curves.png")
  page = read(tmp_path / "figures" / "curves.png")
  assert page.shape[:2] == (540, 1320)  # four panels: 3 + 1
  assert (page.min(axis=-1) < 128).mean() > 0.002


def test_a_run_of_nothing_but_nan_still_draws(tmp_path):
  metrics = write_run(tmp_path, 5, broken=range(1, 6))
  loss_curves(metrics, tmp_path / "curves.png")
  red = np.all(np.abs(read(tmp_path / "curves.png").astype(int) - (0xC0, 0, 0)) < 20, axis=-1)
  assert red.any()


def test_no_measurements_are_one_clear_line(tmp_path):
  with pytest.raises(UserError, match="no measurements"):
    loss_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
