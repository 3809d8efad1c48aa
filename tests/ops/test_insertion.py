import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hiresmed_jax.ops import insertion, insertion_parts
from tests.reference.parity import images

SIDE = 24
insert = jax.jit(insertion.insert, static_argnames="mode")


def disc(side=SIDE, radius=5.0, blur=1.0):
  """Soft occupancy f32[side, side] of a blurred disc, and the distance from its centre."""
  y, x = np.mgrid[:side, :side] + 0.5 - side / 2
  far = np.hypot(y, x).astype(np.float32)
  return np.clip((radius - far) / blur + 0.5, 0, 1), far


def lesion(noise=0.0, contrast=100.0, level=40.0, seed=0):
  """Values, surround and alpha of a disc; the surround is smooth where the lesion is."""
  alpha, _ = disc()
  grain = noise * np.random.default_rng(seed).normal(size=(SIDE, SIDE, 1))
  clean = np.full((SIDE, SIDE, 1), level)
  values = clean + contrast * alpha[..., None] + grain
  surround = np.where((alpha > 0)[..., None], clean, values)
  return values.astype(np.float32), surround.astype(np.float32), alpha


def smooth_background(channels=1):
  y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
  slopes = np.arange(1, channels + 1, dtype=np.float32)
  return 100 + slopes * (3 * y - 2 * x)[..., None]


def reach(alpha, most=2):
  return scipy.ndimage.distance_transform_edt(alpha < 0.5) <= most


def test_sobel_and_gaussian_equal_opencv():
  mask = images((19, 23, 1))[..., 0] > 0.3
  across = [cv2.Sobel(mask.astype(np.float32), cv2.CV_32F, *d, ksize=3) for d in ((1, 0), (0, 1))]
  np.testing.assert_allclose(insertion_parts.sobel(jnp.asarray(mask)), np.hypot(*across), atol=1e-6)
  image = images((19, 23, 3))
  blurred = cv2.GaussianBlur(image, (3, 3), 1.0)
  np.testing.assert_allclose(insertion_parts.gaussian3(jnp.asarray(image)), blurred, atol=1e-6)


def test_paper_equals_opencv():
  background, (values, surround, alpha) = images((SIDE, SIDE, 1)), lesion()
  found = insert(background, values / 200, surround / 200, alpha, mode="paper")
  mask = alpha >= 0.5
  image = background.copy()
  image[mask] = 0
  image[mask] += values[mask] / 200
  edges = [cv2.Sobel(mask.astype(np.float64), cv2.CV_64F, *d, ksize=3) for d in ((1, 0), (0, 1))]
  edge = np.hypot(*edges) > 0
  image[edge] = cv2.GaussianBlur(image, (3, 3), 1.0)[..., None][edge]
  np.testing.assert_allclose(found, image, atol=1e-6)


def test_ct_is_partial_volume():
  background, (values, surround, alpha) = smooth_background(), lesion()
  found = insert(background, values, surround, alpha, mode="ct")
  expected = (1 - alpha[..., None]) * background + alpha[..., None] * 140
  np.testing.assert_allclose(found, expected, atol=1.0)  # of 100: the noise filter saw the slope
  core = scipy.ndimage.binary_erosion(alpha >= 1, iterations=2)
  np.testing.assert_allclose(found[core], 140, atol=1e-3)


def test_projection_adds_line_integrals():
  background, (values, surround, alpha) = smooth_background(), lesion()
  found = insert(background, values, surround, alpha, mode="projection", gain=0.5)
  np.testing.assert_allclose(found, background + 50 * alpha[..., None], rtol=1e-5)


def test_a_stone_darkens_no_ray():
  background, (values, surround, alpha) = smooth_background(), lesion()
  middle = SIDE // 2
  values[middle : middle + 3, middle + 2 : middle + 6] = surround.min() - 30  # drawn by a SinGAN
  found = insert(background, values, surround, alpha, mode="projection")
  assert (np.asarray(found) >= background).all()
  # A lesion that is darker than its surroundings brightens none.
  lucent = insert(background, 2 * surround - values, surround, alpha, mode="projection")
  np.testing.assert_allclose(background - lucent, found - background, atol=1e-4)


def test_projection_of_intensities_multiplies_transmission():
  alpha = disc()[0]
  donor = np.full((SIDE, SIDE, 1), 700, np.float32)  # white is 1,000: an intensity of 300
  thickness = 0.8 * alpha[..., None]
  values = 1000 - (1000 - donor) * np.exp(-thickness)
  background = 5 * smooth_background()
  found = insert(background, values, donor, alpha, mode="projection", white=1000.0)
  expected = 1000 - (1000 - background) * np.exp(-thickness)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_poisson_equals_a_sparse_solver():
  background, (values, surround, alpha) = smooth_background(2), lesion()
  values, surround = (np.concatenate([v, 2 * v], -1) for v in (values, surround))
  found = insert(background, values, surround, alpha, mode="poisson")
  inside = reach(alpha)
  index = -np.ones(inside.shape, int)
  index[inside] = np.arange(inside.sum())
  for channel in range(2):
    matrix, right = scipy.sparse.lil_matrix((inside.sum(),) * 2), np.zeros(inside.sum())
    for y, x in zip(*np.nonzero(inside), strict=True):
      for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
        matrix[index[y, x], index[y, x]] += 1
        right[index[y, x]] += values[y, x, channel] - values[v, u, channel]
        if inside[v, u]:
          matrix[index[y, x], index[v, u]] -= 1
        else:
          right[index[y, x]] += background[v, u, channel]
    solved = scipy.sparse.linalg.spsolve(matrix.tocsr(), right)
    np.testing.assert_allclose(np.asarray(found)[inside, channel], solved, rtol=1e-4)


def test_feather_keeps_contrast_where_the_level_is_near():
  values, surround, alpha = lesion()  # 100 over 40
  found = insert(np.full((SIDE, SIDE, 1), 60, np.float32), values, surround, alpha, mode="feather")
  np.testing.assert_allclose(found[..., 0], 60 + 100 * alpha, atol=1e-3)
  # Farther away only a quarter of the contrast is given way.
  found = insert(np.full((SIDE, SIDE, 1), 100, np.float32), values, surround, alpha, mode="feather")
  assert found[SIDE // 2, SIDE // 2, 0] == pytest.approx(165, abs=2)


@pytest.mark.parametrize("level", [20, 60])
def test_a_clipped_plateau_stays_clipped(level):
  values, surround, alpha = lesion()
  values = np.minimum(values, 120)
  background = np.full((SIDE, SIDE, 1), level, np.float32)
  kept, moved = (
    np.asarray(insert(background, values, surround, alpha, mode="feather", ceiling=end))
    for end in (120.0, np.inf)
  )
  core = alpha >= 1
  np.testing.assert_allclose(kept[core], 120, atol=1e-3)
  assert np.abs(moved[core] - 120).min() > 15
  np.testing.assert_allclose(kept[0, 0], level)


@pytest.mark.parametrize("mode", ["feather", "ct"])
def test_a_pixel_that_is_clipped_and_not_wholly_filled_stays_clipped(mode):
  values, surround, alpha = lesion()
  partly = (alpha > 0.55) & (alpha < 0.95)
  assert partly.sum() > 4
  values = np.where(partly[..., None], 120, np.minimum(values, 120)).astype(np.float32)
  dark = np.full((SIDE, SIDE, 1), surround.min() - 20, np.float32)
  kept, moved = (
    np.asarray(insert(dark, values, surround, alpha, mode=mode, ceiling=end))[..., 0]
    for end in (120.0, np.inf)
  )
  assert kept[partly].min() >= 120 > moved[partly].min() + 5
  outside = alpha < 0.5
  if mode == "ct":
    np.testing.assert_array_equal(kept[outside], moved[outside])


def test_the_end_of_a_blur_comes_along_and_a_dark_rim_does_not():
  values, surround, alpha = lesion(noise=2)
  far = disc()[1]
  band = (far > 7) & (far < 8.5)
  background = np.full((SIDE, SIDE, 1), 40, np.float32)
  for added, least, most in ((20, 8, 30), (-60, -10, -1)):
    ringed = values + added * band[..., None]
    found = np.asarray(insert(background, ringed, surround, alpha, mode="ct"))[..., 0]
    assert least < (found - 40)[band].mean() < most


@pytest.mark.parametrize("mode", insertion.MODES)
@given(seed=st.integers(0, 2**31), value=st.sampled_from([1.0, 1e-3, 3e4]))
def test_nothing_changes_beyond_the_reach(mode, seed, value):
  rng = np.random.default_rng(seed)
  background = (value * rng.normal(size=(SIDE, SIDE, 1))).astype(np.float32)
  values, surround, _ = lesion(noise=5, seed=seed)
  alpha = scipy.ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 3).astype(np.float32)
  alpha = np.clip(alpha / np.abs(alpha).max(), 0, 1)
  found = np.asarray(insert(background, values, surround, alpha, mode=mode))
  beyond = ~reach(alpha, 4 if mode in ("ct", "feather") else 2)
  assert np.isfinite(found).all()
  assert found[beyond].tobytes() == background[beyond].tobytes()


@pytest.mark.parametrize("mode", ["feather", "poisson", "ct", "projection"])
@pytest.mark.parametrize("donor_noise", [0.0, 4.0, 12.0])
def test_the_lesion_is_as_noisy_as_its_neighbourhood(mode, donor_noise):
  core = disc()[1] < 3
  spreads = []
  for seed in range(12):
    noise = np.random.default_rng(seed + 100).normal(size=(SIDE, SIDE, 1))
    background = (100 + 4 * noise).astype(np.float32)
    found = insert(background, *lesion(donor_noise, seed=seed), mode=mode)
    spreads.append(np.std(np.asarray(found)[core]))
  # A filter of 3 x 3 cannot make a donor three times as noisy quite as quiet; and in a sum what it
  # leaves comes on top of the background's own noise.
  most = {4.0: 1.4, 0.0: 1.4}.get(donor_noise, 1.7 if mode == "projection" else 1.55)
  assert 0.75 * 4 < np.sqrt(np.mean(np.square(spreads))) < most * 4


def test_the_noise_filter_equals_scipy():
  image, level = images((20, 20, 2)), np.array([0.1, 0.6], np.float32)
  found = image - insertion_parts.noise_in(jnp.asarray(image), jnp.asarray(level))[0]
  for channel, sd in enumerate(level):
    expected = scipy.signal.wiener(image[..., channel].astype(float), 3, noise=float(sd) ** 2)
    np.testing.assert_allclose(found[1:-1, 1:-1, channel], expected[1:-1, 1:-1], atol=1e-5)


def test_the_noise_level_is_found_beside_anatomy():
  noise = np.random.default_rng(0).normal(size=(64, 64, 1)) * [3.0, 11.0]
  image = noise + 40 * np.sin(np.arange(64) / 8)[:, None, None]
  image[:, 40:] += 500
  where = np.ones((64, 64), bool)
  found = insertion_parts.noise_level(jnp.asarray(image, jnp.float32), where)
  np.testing.assert_allclose(found, [3, 11], rtol=0.25)  # the step touches a seventh of it
  assert insertion_parts.noise_level(jnp.asarray(image, jnp.float32), ~where).tolist() == [0, 0]


def test_dilation_equals_the_distance_transform():
  mask = images((20, 21, 1))[..., 0] > 0.9
  for radius in (1, 1.5, 2, 8):
    expected = scipy.ndimage.distance_transform_edt(~mask) <= radius
    np.testing.assert_array_equal(insertion_parts.dilate(jnp.asarray(mask), radius), expected)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_resample_equals_pillow(scale):
  values, shift, side = images((40, 40, 1)), (0.3, -0.4), 20
  found, _, _ = insertion.resample(
    values, values, values[..., 0], scale=scale, shift_yx=shift, side=side
  )
  top, left = (20 - (side / 2 + s) / scale for s in shift)
  box = (left, top, left + side / scale, top + side / scale)
  expected = Image.fromarray(values[..., 0]).resize((side, side), Image.Resampling.BICUBIC, box=box)
  np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_resample_moves_the_centroid_and_scales_the_area():
  alpha, _ = disc(32, 6.0)
  values = alpha[..., None]
  _, _, moved = insertion.resample(values, values, alpha, scale=1.3, shift_yx=(0.6, -2.2), side=48)
  centre = np.array(scipy.ndimage.center_of_mass(np.asarray(moved))) + 0.5
  np.testing.assert_allclose(centre, [24.6, 21.8], atol=0.02)
  np.testing.assert_allclose(np.sum(moved), 1.3**2 * np.sum(alpha), rtol=0.01)


def test_resample_repeats_the_border_and_has_no_lesion_there():
  alpha = np.ones((8, 8), np.float32)
  values = np.full((8, 8, 1), 7, np.float32)
  found, _, occupancy = insertion.resample(
    values, values, alpha, scale=1.0, shift_yx=(0, 0), side=16
  )
  np.testing.assert_allclose(found, 7, rtol=1e-6)
  assert np.sum(occupancy) == pytest.approx(64)


def test_wrong_arguments():
  values, surround, alpha = lesion()
  with pytest.raises(ValueError, match="unknown mode 'copy'"):
    insertion.insert(values, values, surround, alpha, mode="copy")
  with pytest.raises(ValueError, match="wanted"):
    insertion.insert(values[1:], values, surround, alpha, mode="ct")
  assert set(insertion.DEFAULT_MODE.values()) <= set(insertion.MODES)
