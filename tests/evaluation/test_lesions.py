"""What lesions are worth: windows, visibility, what is kept."""

import jax
import numpy as np
import pytest

from hiresmed_jax.evaluation import lesions
from hiresmed_jax.evaluation.pictures import Picture
from hiresmed_jax.metrics.image import contrast_kept, verdict
from tests import tiny_run


def scene(size=100, at=(40, 52), side=6, bright=0.8, seed=0):
  """f32[size, size, 1], a square lesion on noise, its box a pixel too wide, its mask."""
  rng = np.random.default_rng(seed)
  image = 0.3 + 0.02 * rng.standard_normal((size, size, 1))
  x, y = at
  image[y : y + side, x : x + side] = bright
  mask = np.zeros((size, size), np.uint16)
  mask[y : y + side, x : x + side] = 1
  box = np.float32([[x - 1, y - 1, x + side + 1, y + side + 1]])
  return image.astype(np.float32), box, mask


def fidelity(*arrays):
  return jax.jit(lesions.fidelity, compiler_options=tiny_run.quick())(*arrays)


def measured(picture):
  (window,) = lesions.windows(picture)
  one = {name: value[None] for name, value in window.items()}
  found = fidelity(one["image"], one["reference"], one["mask"], one["box"])
  return window, {name: float(value[0]) for name, value in found.items()}


def test_a_lesion_is_judged_as_in_the_whole_image():
  reference, box, mask = scene()
  image = 0.3 + 0.6 * (reference - 0.3)
  window, found = measured(Picture(image, reference, boxes=box, lesion_mask=mask))
  assert window["image"].shape == (64, 64, 1)
  whole = jax.jit(contrast_kept, compiler_options=tiny_run.quick())
  kept, diameter = whole(reference[None, ..., 0], image[None, ..., 0], box[None])
  assert found["kept"] == pytest.approx(float(kept[0, 0]), rel=1e-5) == pytest.approx(0.6, rel=1e-3)
  assert found["diameter_px"] == pytest.approx(float(diameter[0, 0]))
  assert found["diameter_px"] == pytest.approx(2 * np.sqrt(36 / np.pi))
  rows, columns = np.mgrid[:100, :100]
  (x1, y1, x2, y2) = box[0]
  wide = (columns >= x1 - 4) & (columns < x2 + 4) & (rows >= y1 - 4) & (rows < y2 + 4)
  ring = wide & ~((columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2))
  grey = reference[..., 0]
  expected = (grey[mask > 0].mean() - grey[ring].mean()) / grey[ring].std()
  assert found["cnr_reference"] == pytest.approx(expected, rel=1e-3)
  # A linear fade leaves contrast to noise alone; it is no proof of contrast.
  assert found["cnr"] == pytest.approx(expected, rel=1e-3)


def test_similarity_inside_is_that_of_the_mask_in_the_whole_image():
  skimage = pytest.importorskip("skimage.metrics")
  reference, box, mask = scene()
  image = reference + 0.1 * (mask[..., None] > 0)
  _, found = measured(Picture(image.astype(np.float32), reference, boxes=box, lesion_mask=mask))
  _, whole = skimage.structural_similarity(
    image[..., 0], reference[..., 0], data_range=1.0, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, full=True,
  )  # fmt: skip
  assert found["ssim"] == pytest.approx(whole[mask > 0].mean(), abs=1e-4)
  assert found["ssim"] < 0.999


def test_without_a_mask_a_lesion_is_what_stands_out_in_its_box():
  reference, box, mask = scene()
  np.testing.assert_array_equal(lesions.core(reference, box[0]), mask > 0)
  (window,) = lesions.windows(Picture(reference, boxes=box))
  assert window["mask"].sum() == 36
  np.testing.assert_array_equal(window["image"], window["reference"])
  flat = np.full((50, 50, 1), 0.4, np.float32)
  assert lesions.windows(Picture(flat, boxes=np.float32([[10, 10, 20, 20]]))) == []


@pytest.mark.parametrize("at", [(0, 0), (94, 94), (0, 60)])
def test_windows_stay_inside_the_image(at):
  image, box, mask = scene(at=at)
  (window,) = lesions.windows(Picture(image, image, boxes=box, lesion_mask=mask))
  assert window["image"].shape == (64, 64, 1)
  assert window["mask"].sum() == 36
  small, box, mask = scene(size=40, at=(20, 20))
  assert lesions.windows(Picture(small, boxes=box, lesion_mask=mask))[0]["image"].shape[:2] == (
    40,
    40,
  )


def test_a_large_lesion_gets_a_larger_window():
  image, box, mask = scene(size=300, at=(100, 90), side=80)
  (window,) = lesions.windows(Picture(image, image, boxes=box, lesion_mask=mask))
  assert window["image"].shape == (128, 128, 1)
  assert window["mask"].sum() == 80**2


def test_retention_by_diameter_and_what_it_means():
  kept = np.array([0.2, 0.4, 0.9, 0.7, 0.85, 0.95, np.nan])
  diameter = np.array([3.0, 4.0, 4.9, 6.0, 13.0, 14.0, 6.0])
  rows = lesions.retention(kept, diameter)
  assert [(r.diameter_px, r.lesions, r.median) for r in rows] == [
    ("0 to 5", 3, 0.4), ("5 to 8", 1, 0.7), ("12 and more", 2, pytest.approx(0.9)),
  ]  # fmt: skip
  assert (rows[0].low, rows[0].high) == pytest.approx(tuple(np.percentile(kept[:3], [25, 75])))
  assert "are lost" in verdict(0.499)
  assert "below the goal" in verdict(0.799)
  assert verdict(0.8).startswith("usable")
