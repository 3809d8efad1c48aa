import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from hiresmed_jax.ops import inpaint

SHAPE = (60, 70)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
DISC = np.hypot(X - 30, Y - 25) < 6


@pytest.mark.parametrize("key", [None, 3])
def test_constant_and_ramp_are_restored(key):
  key = None if key is None else jax.random.key(key)
  for image in (np.full(SHAPE, 7.0), 3 * X - 2 * Y + 1000):
    image = image.astype(np.float32)[..., None]
    spoilt = np.where(DISC[..., None], -5000, image).astype(np.float32)
    found = inpaint.inpaint(spoilt, DISC, key)
    np.testing.assert_allclose(found, image, atol=2e-3)


def test_the_plate_equals_a_dense_solver():
  # Not an image of 8 x 8 alone: rows and columns differ.
  image, mask = np.random.default_rng(0).normal(size=(12, 9)), np.zeros((12, 9), bool)
  mask[4:8, 3:6] = True
  second = {n: np.diff(np.eye(n), 2, axis=0) for n in image.shape}
  first = {n: np.diff(np.eye(n), axis=0) for n in image.shape}
  rows, columns = (np.eye(n) for n in image.shape)
  bend = np.concatenate(
    [
      np.kron(second[12], columns),
      np.kron(rows, second[9]),
      np.sqrt(2) * np.kron(first[12], first[9]),
    ]
  )
  known = np.diag((~mask).ravel().astype(float))
  solved = np.linalg.solve(known + inpaint._STIFFNESS * bend.T @ bend, known @ image.ravel())
  found = inpaint.continuation(image.astype(np.float32)[..., None], mask)
  np.testing.assert_allclose(np.asarray(found).ravel(), solved, atol=1e-4)


@pytest.mark.parametrize("correlated", [False, True])
def test_noise_has_the_level_and_correlation_of_the_surroundings(correlated):
  noise = np.random.default_rng(0).normal(size=(*SHAPE, 1))
  if correlated:
    noise = scipy.ndimage.gaussian_filter(noise, (0.7, 0.7, 0))
    noise /= noise.std()
  trend = 50 + 0.5 * Y[..., None]
  image = (trend + 8 * noise).astype(np.float32)
  fills = np.stack([inpaint.inpaint(image, DISC, jax.random.key(i)) - trend for i in range(40)])
  fills, inside = fills[..., 0], scipy.ndimage.binary_erosion(DISC)
  # Of correlated noise the plate takes the long waves for anatomy.
  assert np.std(fills[:, inside]) == pytest.approx(8, rel=0.2 if correlated else 0.1)
  lag = np.mean(fills[:, 20:30, 26:34] * fills[:, 20:30, 27:35]) / np.var(fills[:, inside])
  expected = np.mean(noise[:, :-1] * noise[:, 1:]) / np.var(noise)
  assert lag == pytest.approx(expected, abs=0.15)


def test_detail_goes_on_across_the_rim():
  # Waves too short for the plate: without a seam the step across the rim is like any other.
  image = (10 * np.sin(Y + X / 3) + 10 * np.sin(X - Y / 2))[..., None].astype(np.float32)
  rim = DISC & ~scipy.ndimage.binary_erosion(DISC)
  found = inpaint.inpaint(image, DISC)
  plain = np.where(DISC[..., None], inpaint.continuation(image, DISC), image)
  error, without = (np.abs(f - image)[rim].mean() for f in (found, plain))
  assert error < 0.5 * without


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_nothing_changes_outside_and_the_key_decides(seed):
  rng = np.random.default_rng(seed)
  image = (1e3 * rng.normal(size=(*SHAPE, 1))).astype(np.float32)
  mask = scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) > 0.3
  found = inpaint.inpaint(image, mask, jax.random.key(1))
  assert found[~mask].tobytes() == image[~mask].tobytes()
  assert found.tobytes() == inpaint.inpaint(image, mask, jax.random.key(1)).tobytes()
  assert not mask.any() or (found != inpaint.inpaint(image, mask, jax.random.key(2))).any()
  assert np.isfinite(found).all()


def test_each_hole_is_filled_by_its_own_surroundings():
  image = np.where(X[..., None] < 35, 10, 90).astype(np.float32)
  mask = (np.hypot(X - 14, Y - 20) < 4) | (np.hypot(X - 58, Y - 40) < 4)
  np.testing.assert_allclose(inpaint.inpaint(image, mask), image, atol=1.5)


def test_channels_of_a_grey_image_stay_equal():
  image = np.repeat(np.random.default_rng(0).normal(size=(*SHAPE, 1)), 3, -1).astype(np.float32)
  found = inpaint.inpaint(image, DISC, jax.random.key(0))
  # Not every compiler adds the channels up in the same order.
  np.testing.assert_allclose(found[..., 0], found[..., 2], rtol=0, atol=1e-6)


def test_wrong_arguments():
  image = np.zeros((*SHAPE, 1), np.float32)
  with pytest.raises(ValueError, match="wanted"):
    inpaint.inpaint(image, DISC[1:])
  with pytest.raises(ValueError, match="nothing is known"):
    inpaint.inpaint(image, np.ones(SHAPE, bool))
  np.testing.assert_array_equal(inpaint.inpaint(image, np.zeros(SHAPE, bool)), image)
