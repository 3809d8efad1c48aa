"""Outlines, coverage, depth and textures against their closed forms."""

import numpy as np
import pytest
from scipy import ndimage

from hiresmed_jax.data.anatomy import shapes

GRID = shapes.Grid(120, 160, 0.5, (3.0, -2.0), 0.1)


def test_pixels_and_millimetres_agree():
  window = (slice(0, 120), slice(0, 160))
  x, y = GRID.local(window)
  points = np.stack([x, y], axis=-1).reshape(-1, 2)
  pixels = GRID.px(points).reshape(120, 160, 2)
  np.testing.assert_allclose(
    pixels[..., 0], np.arange(160)[None] + 0.5 + np.zeros((120, 1)), atol=1e-4
  )
  np.testing.assert_allclose(
    pixels[..., 1], np.arange(120)[:, None] + 0.5 + np.zeros((1, 160)), atol=1e-4
  )
  np.testing.assert_allclose(GRID.px(np.array([3.0, -2.0])), (80, 60))


def test_refining_and_coarsening_keep_the_field():
  corner = np.array([[20.0, 10.0]])
  np.testing.assert_allclose(GRID.refined(3).px(corner), 3 * GRID.px(corner))
  coarse = GRID.coarsened(1.0)
  assert coarse.shape == (60, 80)
  np.testing.assert_allclose(coarse.px(corner), GRID.px(corner) / 2)
  assert GRID.coarsened(0.1).shape == GRID.shape


@pytest.mark.parametrize("closed", [True, False])
def test_a_spline_passes_through_its_points(closed):
  points = np.random.default_rng(0).normal(size=(7, 2))
  curve = shapes.spline(points, 5, closed)
  np.testing.assert_allclose(curve[::5][:7], points, atol=1e-12)
  assert len(curve) == (35 if closed else 31)


def test_coverage_adds_up_to_the_area():
  # The soft edge lies around the outline: half a pixel, here 0.25 mm, larger.
  window, share = shapes.cover(GRID, shapes.oval((0, 0), (13, 8)))
  assert share.sum() * 0.25 == pytest.approx(np.pi * 13.25 * 8.25, rel=0.02)
  hole = shapes.oval((0, 0), (5, 5))
  _, ring = shapes.cover(GRID, shapes.oval((0, 0), (13, 8)), hole)
  assert ring.sum() * 0.25 == pytest.approx(np.pi * (13.25 * 8.25 - 4.75**2), rel=0.02)
  window, share = shapes.cover(GRID, shapes.oval((500, 0), (5, 5)))  # beside the image
  assert share.size == np.zeros(GRID.shape)[window].size == 0
  assert GRID.local(window)[0].shape == share.shape


def test_a_band_has_round_ends():
  path = np.stack([np.linspace(-12, 12, 30), np.zeros(30)], axis=1)
  _, share = shapes.cover(GRID, shapes.ribbon(path, np.full(30, 3.0)))
  assert share.sum() * 0.25 == pytest.approx(24 * 6.5 + np.pi * 3.25**2, rel=0.03)


def test_depth_is_the_distance_to_the_edge():
  for window, distance in (
    shapes.depth(GRID, shapes.oval((0, 0), (14, 14))),
    shapes.tunnel(GRID, np.zeros((2, 2)), np.full(2, 14.0)),
  ):
    x, y = GRID.local(window)
    expected = np.maximum(14 - np.hypot(x, y), 0)
    assert np.abs(distance - expected).max() < 0.7


def test_a_round_chord_is_that_of_a_cylinder():
  inward = np.linspace(0, 9, 50, dtype=np.float32)
  chord = shapes.round_chord(inward, 6.0)
  off = np.maximum(6 - inward, 0)
  np.testing.assert_allclose(chord, 2 * np.sqrt(36 - off**2), atol=1e-5)


def test_strokes_lie_one_over_another():
  around = shapes.oval((0, 0), (20, 20))
  window, share = shapes.strokes(
    GRID, around, [(shapes.oval((0, 0), (9, 9)), 0.4), (shapes.oval((0, 0), (4, 4)), 1.0)]
  )
  x, y = GRID.local(window)
  radius = np.hypot(x, y)
  np.testing.assert_allclose(share[(radius > 5) & (radius < 8)], 0.4, atol=0.01)
  np.testing.assert_allclose(share[radius < 3], 1.0, atol=0.01)
  assert not share[radius > 10].any()


def test_texture_follows_millimetres_and_has_unit_variance():
  fine = shapes.Grid(400, 400, 0.5)
  one = shapes.fractal(np.random.default_rng(1), fine, 12.0, 3)
  two = shapes.fractal(np.random.default_rng(1), shapes.Grid(200, 200, 1.0), 12.0, 3)
  assert abs(one.mean()) < 0.2
  assert 0.75 < one.std() < 1.3
  assert np.corrcoef(one[::2, ::2].ravel(), two.ravel())[0, 1] > 0.95


def test_a_wide_blur_equals_the_direct_one():
  image = shapes.fractal(np.random.default_rng(0), shapes.Grid(300, 260, 1.0), 60.0, 4)
  image[100:180, 80:160] += 3
  expected = ndimage.gaussian_filter(image.astype(float), 25, mode="mirror")
  found = shapes.blur(image, 25.0)
  assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
