"""Sizes as published, and resampling against MATLAB's rule written out pixel by pixel."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hiresmed_jax.ops import pyramid as pyramids
from tests.reference.singan import resize_matrix

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize(
  ("side", "max_size", "sizes"),
  [
    (64, 250, (25, 31, 37, 44, 54, 64)),
    (128, 250, (25, 32, 40, 51, 64, 81, 102, 128)),
    (250, 250, (25, 32, 40, 50, 63, 80, 100, 126, 158, 199, 250)),
  ],
)
def test_sizes_as_published(side, max_size, sizes):
  made = pyramids.pyramid(side, side, max_size=max_size)
  assert made.sizes == tuple((s, s) for s in sizes)
  assert made.ratio == pytest.approx((25 / side) ** (1 / (len(sizes) - 1)))
  assert made.image_scale == 1


@pytest.mark.parametrize(
  ("side", "max_size", "levels", "ratio"),
  [
    (64, 250, 6, 0.8286),
    (250, 250, 11, 0.7943),
    (256, 250, 10, 0.7743),
    (1024, 250, 10, 0.7743),
    (1024, 1024, 15, 0.7671),
  ],
)
def test_levels_and_ratios_as_published(side, max_size, levels, ratio):
  made = pyramids.pyramid(side, side, max_size=max_size)
  assert len(made.sizes) == levels
  assert made.ratio == pytest.approx(ratio, abs=5e-5)
  assert made.sizes[0] == (25, 25)
  assert made.sizes[-1] == (min(side, max_size),) * 2


@pytest.mark.parametrize(
  ("side", "sizes"),
  [
    (32, "16 20 23 27 32"),
    (48, "24 29 34 41 48"),
    (64, "25 31 37 44 54 64"),
    (22, "11 14 16 19 22"),
  ],
)
def test_windows_of_lesions_are_never_resized(side, sizes):
  made = pyramids.lesion_pyramid(side)
  assert " ".join(str(h) for h, _ in made.sizes) == sizes
  assert sizes in str(made)
  assert str(made).startswith(f"{len(made.sizes)} levels")


@hypothesis.given(st.integers(22, 300), st.floats(11, 60), st.floats(0.5, 0.95))
def test_a_pyramid_climbs_to_its_window(side, min_size, factor):
  made = pyramids.lesion_pyramid(side, min_size=min_size, factor=factor)
  heights = [h for h, _ in made.sizes]
  assert heights == sorted(heights)
  assert heights[-1] == side
  assert len(heights) >= 3
  least = min(min_size, side / 2)
  assert least - 1e-6 <= heights[0] < least + 1  # as ceil(least), but for the rounding of a power
  # The enlarged level is never smaller than the next one.
  assert all(np.ceil(a / made.ratio - 1e-6) >= b for a, b in itertools.pairwise(heights))


@pytest.mark.parametrize("call", [lambda: pyramids.lesion_pyramid(21)])
def test_too_small_a_window(call):
  with pytest.raises(ValueError, match="too small"):
    call()
  with pytest.raises(ValueError, match="no pyramid"):
    pyramids.pyramid(20, 40, min_size=25)


def test_a_wide_image_keeps_its_shape():
  made = pyramids.pyramid(40, 80, min_size=20)
  assert all(abs(w / h - 2) < 0.1 for h, w in made.sizes)
  assert made.sizes[-1] == (40, 80)


@pytest.mark.parametrize(
  ("shape", "size", "scale"),
  [
    ((20, 31), (24, 37), 1.2),
    ((44, 44), (54, 54), 54 / 44 + 0.01),
    ((64, 40), (25, 16), 25 / 64),
    ((33, 17), (17, 9), 0.5),
  ],
)
def test_resampling_is_matlabs(shape, size, scale):
  images = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
  rows = resize_matrix(shape[0], size[0], scale)
  columns = resize_matrix(shape[1], size[1], scale)
  expected = np.einsum("rh,nhwc,sw->nrsc", rows, images.astype(np.float64), columns)
  resize = quick(functools.partial(pyramids.resize, size=size, scale=scale))
  np.testing.assert_allclose(resize(images), expected, atol=2e-6)


def test_inside_resampling_is_an_interpolation_by_the_same_kernel():
  # ndimage convolves: an enlargement by two reads the two phases of Keys' kernel, mirrored.
  image = np.random.default_rng(1).normal(size=(12, 12)).astype(np.float32)
  made = np.asarray(pyramids.resize(jnp.asarray(image[..., None]), (24, 24), scale=2.0))[..., 0]
  x = np.array([1.75, 0.75, 0.25, 1.25])
  taps = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
  for phase, weights in enumerate((np.r_[taps, 0], np.r_[0, taps[::-1]])):
    rows = ndimage.correlate1d(image.astype(np.float64), weights, axis=0, mode="reflect")
    for other, across in enumerate((np.r_[taps, 0], np.r_[0, taps[::-1]])):
      both = ndimage.correlate1d(rows, across, axis=1, mode="reflect")
      np.testing.assert_allclose(made[phase::2, other::2], both, atol=2e-6)


def test_a_constant_stays_and_the_finest_level_is_the_image():
  levels = pyramids.lesion_pyramid(40)
  flat = pyramids.levels(jnp.full((1, 40, 40, 2), 0.3), levels)
  assert [level.shape for level in flat] == [(1, h, w, 2) for h, w in levels.sizes]
  for level in flat:
    np.testing.assert_allclose(level, 0.3, atol=1e-6)
  image = np.random.default_rng(2).normal(size=(1, 40, 40, 2)).astype(np.float32)
  np.testing.assert_array_equal(pyramids.levels(jnp.asarray(image), levels)[-1], image)
  below = jnp.zeros((1, *levels.sizes[1], 2))
  assert pyramids.to_level(below, 2, levels).shape == (1, *levels.sizes[2], 2)


def test_a_large_image_is_scaled_down_to_the_finest_level():
  levels = pyramids.pyramid(60, 60, min_size=15, max_size=30)
  assert levels.image_scale == 0.5
  image = np.random.default_rng(3).normal(size=(60, 60, 1)).astype(np.float32)
  made = pyramids.levels(jnp.asarray(image), levels)
  np.testing.assert_allclose(
    made[-1], pyramids.resize(jnp.asarray(image), (30, 30), scale=0.5), atol=1e-6
  )
