"""Contrast kept, on lesions whose contrast is known by construction."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.metrics.image import contrast_kept


def _disk(size, centre, diameter, contrast, background=0.3):
  rows, columns = np.mgrid[:size, :size] + 0.5
  inside = np.hypot(columns - centre[0], rows - centre[1]) <= diameter / 2
  return (background + contrast * inside).astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 1.5])
def test_a_scaled_lesion_keeps_its_share(share):
  source = _disk(64, (30, 20), 9, 0.4)
  kept, diameter = contrast_kept(
    source[None], _disk(64, (30, 20), 9, 0.4 * share)[None], jnp.array([[[24.0, 14, 36, 26]]])
  )
  np.testing.assert_allclose(kept[0, 0], share, atol=1e-5)
  np.testing.assert_allclose(diameter[0, 0], 9, atol=0.3)


def test_a_loose_box_gives_the_same_as_a_tight_one():
  source = _disk(64, (30, 20), 9, 0.4)
  blurred = cv2.GaussianBlur(source, (0, 0), 2.0)
  tight, loose = (jnp.array([[[25.0 - d, 15 - d, 35 + d, 25 + d]]]) for d in (2, 5))
  first, second = (
    contrast_kept(source[None], blurred[None], box)[0][0, 0] for box in (tight, loose)
  )
  assert 0.3 < first < 0.95
  np.testing.assert_allclose(first, second, rtol=0.1)


def test_a_reconstruction_of_other_brightness_is_not_punished():
  source = _disk(64, (30, 20), 9, 0.4)
  kept, _ = contrast_kept(source[None], source[None] + 0.2, jnp.array([[[24.0, 14, 36, 26]]]))
  np.testing.assert_allclose(kept[0, 0], 1.0, atol=1e-5)


def test_padding_flat_regions_and_boxes_outside_are_nan():
  flat = np.full((1, 32, 32), 0.5, np.float32)
  boxes = jnp.array([[[np.nan] * 4, [8.0, 8, 16, 16], [40.0, 40, 50, 50]]])
  kept, diameter = contrast_kept(flat, flat, boxes)
  assert np.isnan(kept).all()
  assert np.isnan(diameter).all()
