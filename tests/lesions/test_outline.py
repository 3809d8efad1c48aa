import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.lesions import outline
from hiresmed_jax.lesions.patch import centroid, diameter, long_side
from tests.lesions.drawn import disc

FLOOR = 10.0


def image(diameter_px, center, *, contrast=120.0, noise=3.0, seed=0, side=64):
  rng = np.random.default_rng(seed)
  lesion = contrast * disc(side, diameter_px, center, 0.8)
  return (60 + rng.normal(0, noise, (side, side)) + lesion).astype(np.float32)


def box(diameter_px, center, *, loose=1.5, off=(0.0, 0.0)):
  half = loose * diameter_px / 2
  x, y = center[0] + off[0], center[1] + off[1]
  return np.array([x - half, y - half, x + half, y + half], np.float32)


@given(
  diameter_px=st.floats(4, 24),
  x=st.floats(26, 38),
  y=st.floats(26, 38),
  loose=st.floats(1.1, 2.0),
  off=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
  seed=st.integers(0, 99),
)
def test_a_disc_in_a_loose_box_is_found(diameter_px, x, y, loose, off, seed):
  # The half maximum of a blurred disc lies on its outline, but for the smallest ones.
  grey = image(diameter_px, (x, y), seed=seed)
  found = outline.find(grey, box(diameter_px, (x, y), loose=loose, off=off), FLOOR)
  assert isinstance(found, outline.Outline)
  assert abs(diameter(found.mask) - diameter_px) <= max(0.8, 0.05 * diameter_px)
  assert np.hypot(*(np.array(centroid(found.mask)) - (x, y))) < 0.7
  assert abs(found.background - 60) < 5


def test_brightest_values_cut_off_do_not_matter():
  grey = np.minimum(image(10.0, (32, 32), contrast=400.0), 255)
  found = outline.find(grey, box(10.0, (32, 32)), FLOOR)
  assert abs(diameter(found.mask) - 10) < 1.2  # half of what is seen lies farther out
  assert found.peak == 255


@pytest.mark.parametrize("gap", [-1.0, 0.0, 1.0])
def test_a_lesion_at_a_wall_is_cut_off_there(gap):
  grey = image(10.0, (32, 32), noise=1.0)
  wall = np.clip(np.arange(64)[None] + 0.5 - (32 + 5 + gap), 0, 1) * np.ones((64, 1))
  grey = np.maximum(grey, 60 + 120 * ndimage.gaussian_filter(wall, 0.8)).astype(np.float32)
  found = outline.find(grey, box(10.0, (32, 32), loose=1.4), FLOOR)
  assert isinstance(found, outline.Outline)
  assert long_side(found.mask) <= 13
  assert abs(diameter(found.mask) - 10) < 1.5


def test_a_vessel_is_cut_off():
  grey = image(10.0, (32, 32), noise=1.0)
  vessel = np.zeros((64, 64))
  vessel[31:33, :32] = 1
  grey = np.maximum(grey, 60 + 120 * ndimage.gaussian_filter(vessel, 0.6)).astype(np.float32)
  found = outline.find(grey, box(10.0, (32, 32), loose=1.4), FLOOR)
  assert abs(diameter(found.mask) - 10) < 1
  assert not found.mask[:, :25].any()


def test_what_is_not_a_lesion_says_why():
  noise = image(10.0, (32, 32), contrast=0.0)
  assert outline.find(noise, box(10.0, (32, 32)), 2 * FLOOR) == "faint"
  assert outline.find(noise, np.array([80, 80, 90, 90], np.float32), FLOOR) == "outside"
  assert outline.find(noise, np.array([-9, -9, -8, -8], np.float32), FLOOR) == "outside"
  dot = image(1.0, (32.5, 32.5), contrast=900.0, noise=1.0)
  assert outline.find(dot, box(6.0, (32.5, 32.5)), FLOOR) in ("too small", "faint")
  wall = image(10.0, (32, 32), noise=1.0)
  wall[:, 24:] = 180
  assert outline.find(wall, box(10.0, (32, 32)), FLOOR) == "not separate"


@given(
  corners=st.lists(st.floats(-200, 200, width=32), min_size=4, max_size=4),
  seed=st.integers(0, 99),
)
def test_wild_boxes_give_a_mask_or_a_word(corners, seed):
  grey = image(6.0, (32, 32), seed=seed)
  x1, y1, x2, y2 = corners
  found = outline.find(grey, np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]), FLOOR)
  if isinstance(found, str):
    assert found in {"outside", "faint", "too small", "not separate"}
  else:
    assert found.mask.shape == grey.shape
    assert ndimage.label(found.mask, np.ones((3, 3)))[1] == 1


def test_a_known_mask_is_taken_whole():
  mask = np.hypot(*np.mgrid[-32:32, -32:32]) < 8
  holed = mask.copy()
  holed[32, 32] = False
  holed[2, 2] = True  # a crumb
  found = outline.known(image(16.0, (32.5, 32.5)), holed)
  np.testing.assert_array_equal(found.mask, mask)
  assert abs(found.background - 60) < 3
  assert abs(found.peak - 180) < 8


@given(diameter_px=st.floats(4, 24), seed=st.integers(0, 99))
def test_occupancy_is_what_a_blurred_disc_fills(diameter_px, seed):
  truth = disc(64, diameter_px, (32.3, 31.8), 0.8)
  grey = image(diameter_px, (32.3, 31.8), noise=1.0, seed=seed)
  mask = truth >= 0.5
  alpha = outline.occupancy(grey, np.full_like(grey, 60), mask, 120.0)
  np.testing.assert_array_equal(alpha >= 0.5, mask)
  assert alpha.min() >= 0
  assert alpha.max() <= 1
  assert np.abs(alpha - truth).max() < 0.15
  beyond = ndimage.distance_transform_edt(~mask) > outline.REACH
  assert not alpha[beyond].any()
