import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import copying
from hiresmed_jax.lesions.patch import centroid, touches_border
from tests.lesions import drawn

PATCHES = [drawn.patch(d, side=s, seed=i) for i, (d, s) in enumerate([(3, 32), (8, 32), (15, 48)])]


@given(wanted=st.floats(2.2, 20), seed=st.integers(0, 10_000))
def test_a_diameter_asked_for_is_met(wanted, seed):
  source = copying.Copies(PATCHES, flip_columns=True)
  try:
    made = source.draw(np.random.default_rng(seed), wanted)
  except UserError:
    native = np.array([p.diameter_px for p in PATCHES])
    assert not ((wanted / native >= 0.7) & (wanted / native <= 1.4)).any()
    return
  assert abs(made.diameter_px - wanted) <= drawn.tolerance(wanted)
  side = made.alpha.shape[0]
  assert np.hypot(*(np.array(centroid(made.mask)) - side / 2)) <= 1
  assert ndimage.label(made.mask, np.ones((3, 3)))[1] == 1
  assert not touches_border(ndimage.binary_dilation(made.mask, iterations=2))
  assert made.values.dtype == made.surround.dtype == made.alpha.dtype == np.float32
  assert made.kind == "copy"
  assert np.isfinite(made.values).all()


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_without_a_wish_a_copy_has_its_donors_pixels(flips):
  rows, columns = flips
  source, rng, ways = copying.Copies(PATCHES, columns, rows), np.random.default_rng(0), set()
  for _ in range(40):
    made = source.draw(rng)
    (donor,) = (p for p in PATCHES if p.donor == made.donor)
    assert made.diameter_px == donor.diameter_px
    (way,) = (
      (down, across)
      for down in {1, -1 if rows else 1}
      for across in {1, -1 if columns else 1}
      if np.array_equal(made.values, donor.values[::down, ::across])
      and np.array_equal(made.surround, donor.surround[::down, ::across])
      and np.array_equal(made.alpha, donor.alpha[::down, ::across])
    )
    ways.add(way)
  assert len(ways) == 2 ** sum(flips)


def test_equal_generators_give_equal_bytes():
  source = copying.Copies(PATCHES, flip_rows=True)
  one, two, other = (source.draw(np.random.default_rng(seed), 8.0) for seed in (3, 3, 4))
  assert one.values.tobytes() == two.values.tobytes()
  assert one.alpha.tobytes() == two.alpha.tobytes()
  assert one.values.tobytes() != other.values.tobytes()


def test_nothing_asked_for_changes_nothing():
  patch = PATCHES[1]
  same = copying.scaled(patch, patch.diameter_px)
  # Only the centroid is brought to the middle, by less than a pixel.
  assert np.abs(same.alpha - patch.alpha).max() < 0.1
  np.testing.assert_allclose(same.values.mean(), patch.values.mean(), rtol=5e-3)


def test_turning_and_flipping_equal_numpy():
  rng = np.random.default_rng(1)
  patch = PATCHES[1]
  lumpy = patch._replace(
    values=rng.normal(size=patch.values.shape).astype(np.float32), surround=patch.surround * 0
  )
  plain = copying.scaled(lumpy, patch.diameter_px).values
  turned = copying.scaled(lumpy, patch.diameter_px, turn=np.pi / 2).values
  np.testing.assert_allclose(turned, np.rot90(plain), atol=1e-3)
  flipped = copying.scaled(lumpy, patch.diameter_px, flips=(False, True)).values
  np.testing.assert_allclose(flipped, plain[:, ::-1], atol=1e-3)


@pytest.mark.parametrize(("physics", "gain"), [("projection", 1.3), ("ct", 1.0), ("none", 1.0)])
def test_what_is_wider_is_thicker_in_a_projection(physics, gain):
  patch = drawn.patch(15.0, side=64, physics=physics)
  patch = patch._replace(surround=patch.surround * 0, values=100 * patch.alpha[..., None])
  made = copying.scaled(patch, 1.3 * patch.diameter_px)
  np.testing.assert_allclose(made.values.max(), 100 * gain, rtol=0.03)


@pytest.mark.parametrize("wanted", [1.0, 40.0])
def test_no_lesion_of_that_diameter(wanted):
  with pytest.raises(UserError, match="no lesion of that diameter"):
    copying.Copies(PATCHES).draw(np.random.default_rng(0), wanted)
