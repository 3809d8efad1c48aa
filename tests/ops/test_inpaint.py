import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from hiresmed_jax.ops import grain, inpaint

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


def correlated(seed, shape, sigma=(0.5, 1.0)):
  noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
  return noise / noise.std()


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("sigma", [(0.0, 0.0), (0.4, 0.9)])
def test_noise_has_the_level_and_correlation_of_the_surroundings(sigma, alike, monkeypatch):
  if not alike:  # the noise is drawn
    monkeypatch.setattr(grain, "places", lambda *_: np.zeros((0, 2), int))
  noise, trend = correlated(0, SHAPE, sigma), 50 + 0.5 * Y
  image = (trend + 8 * noise)[..., None].astype(np.float32)
  fills = [inpaint.inpaint(image, DISC, jax.random.key(i))[..., 0] - trend for i in range(40)]
  fills, inside = np.stack(fills), scipy.ndimage.binary_erosion(DISC)
  # Of correlated noise the plate takes the long waves for anatomy; few places are like.
  assert np.std(fills[:, inside]) == pytest.approx(8, rel=0.25 if alike or any(sigma) else 0.1)
  for axis in (0, 1):  # rows are not correlated as columns are
    both = [fills[:, 20:30, 26:34], np.roll(fills, -1, axis + 1)[:, 20:30, 26:34]]
    lag = np.mean(both[0] * both[1]) / np.var(fills[:, inside])
    assert lag == pytest.approx(
      np.mean(noise * np.roll(noise, -1, axis)), abs=0.15 if alike else 0.2
    )


def test_detail_is_copied_from_a_like_place():
  # Loud grain on the left, quiet on the right, a bright lesion and an edge.
  image = 100 + correlated(0, (96, 160)) * np.where(np.arange(160) < 80, 8, 1)
  rows, columns = np.mgrid[:96, :160]
  image[np.hypot(rows - 20, columns - 30) < 5] = 250
  image[:, 78:82] = 250
  hole = np.hypot(rows - 60, columns - 30) < 6
  search = grain.searched(image[..., None].astype(np.float32), hole)
  (box,) = scipy.ndimage.find_objects(hole.astype(int))
  shifts = grain.places(search, hole, box, inpaint._window(box, hole.shape))
  assert len(shifts) > 1
  assert not (shifts % 8).any()
  for row, column in shifts:
    there = image[np.roll(hole, (row, column), (0, 1))]
    assert there.std() > 4
    assert there.max() < 200
  # Where the hole is, is no place, nor is one that another hole touches.
  assert (np.abs(shifts).max(axis=1) >= 11 + grain.AROUND_PX).all()
  other = hole | (np.hypot(rows - 60 - shifts[0][0], columns - 30 - shifts[0][1]) < 2)
  search = grain.searched(image[..., None].astype(np.float32), other)
  found = grain.places(search, other, box, inpaint._window(box, hole.shape))
  assert shifts[0].tolist() not in found.tolist()
  loud = grain.searched((image * (1 + 9 * hole) + 40 * correlated(1, hole.shape) * (
    np.hypot(rows - 60, columns - 30) < 14))[..., None].astype(np.float32), hole)  # fmt: skip
  assert not len(grain.places(loud, hole, box, inpaint._window(box, hole.shape)))


def test_a_flat_place_gives_no_detail():
  noisy = np.random.default_rng(0).normal(50, 3, (48, 48, 1)).astype(np.float32)
  hole = np.zeros((48, 48), bool)
  hole[20:28, 20:28] = True
  filled = np.asarray(inpaint.inpaint_window(noisy, hole, None, (0 * noisy, 0 * hole > 0)))
  smooth = np.asarray(inpaint.continuation(noisy, hole))
  np.testing.assert_allclose(filled[hole], smooth[hole], atol=0.5)


def test_the_rim_is_like_the_rest_of_the_grain():
  # The step from the last known to the first filled pixel is as large as any other.
  disc = np.hypot(*(np.mgrid[:96, :96] - 48)) < 7
  steps = []
  for seed in range(12):
    image = (100 + 8 * correlated(seed, (96, 96), 0.8))[..., None].astype(np.float32)
    found = inpaint.inpaint(image, disc, jax.random.key(seed))
    for axis in (0, 1):
      seam = disc != np.roll(disc, 1, axis)
      step = [np.abs(f - np.roll(f, 1, axis))[..., 0][seam].mean() for f in (found, image)]
      steps.append(step)
  filled, real = np.mean(steps, axis=0)
  assert filled == pytest.approx(real, rel=0.15)


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
  assert np.isfinite(found).all()


def test_what_holes_hold_does_not_matter():
  # Also not where one hole lies in the window of a place that fills another.
  image = (100 + 8 * correlated(0, (96, 96)))[..., None].astype(np.float32)
  rows, columns = np.mgrid[:96, :96]
  mask = (rows % 40 - 20) ** 2 + (columns % 40 - 20) ** 2 < 20
  spoilt = [np.where(mask[..., None], value, image).astype(np.float32) for value in (5000, np.nan)]
  first, *found = [inpaint.inpaint(one, mask, jax.random.key(0)) for one in (image, *spoilt)]
  for other in found:
    np.testing.assert_allclose(other, first, atol=0.01)


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**60])
def test_units_do_not_matter(unit):
  image = np.random.default_rng(0).normal(5, 1, (64, 64, 1)).astype(np.float32)
  mask = np.zeros((64, 64), bool)
  mask[30:37, 28:36] = True
  for key in (None, jax.random.key(1)):
    filled = inpaint.inpaint(image * np.float32(unit), mask, key) / np.float32(unit)
    np.testing.assert_allclose(filled, inpaint.inpaint(image, mask, key), rtol=1e-4, atol=1e-4)


def test_the_key_draws_the_place():
  image = (100 + 8 * correlated(0, (96, 96)))[..., None].astype(np.float32)
  disc = np.hypot(*(np.mgrid[:96, :96] - 48)) < 6
  assert len({inpaint.inpaint(image, disc, jax.random.key(i)).tobytes() for i in range(20)}) > 2


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
