import numpy as np
import pytest
import skimage.measure
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import patch


def blobs(seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.random((24, 24)) < rng.uniform(0.05, 0.5)


@given(seed=st.integers(0, 10_000))
def test_measures_equal_those_of_scikit_image(seed):
  mask = blobs(seed)
  mask[12, 12] = True
  region = skimage.measure.regionprops(mask.astype(int))[0]
  row, column = region.centroid
  np.testing.assert_allclose(patch.centroid(mask), (column + 0.5, row + 0.5), rtol=1e-12)
  np.testing.assert_allclose(patch.diameter(mask), region.equivalent_diameter_area, rtol=1e-12)
  top, left, bottom, right = region.bbox
  assert patch.long_side(mask) == max(bottom - top, right - left)


@given(seed=st.integers(0, 10_000))
def test_the_central_component_is_the_largest_at_the_centre(seed):
  mask = blobs(seed)
  found = patch.central_component(mask)
  labels = skimage.measure.label(mask, connectivity=2)
  near = [v for v in np.unique(labels[11:13, 11:13]) if v]
  areas = [np.count_nonzero(labels == v) for v in near]
  assert np.count_nonzero(found) == max(areas, default=0)
  assert not (found & ~mask).any()
  assert found[11:13, 11:13].any() == bool(near)


def test_reach_lets_a_component_be_off_the_centre():
  mask = np.zeros((32, 32), bool)
  mask[16, 20] = True
  assert not patch.central_component(mask).any()
  assert patch.central_component(mask, reach=4.0).sum() == 1


def test_border():
  mask = np.zeros((8, 8), bool)
  mask[1:-1, 1:-1] = True
  assert not patch.touches_border(mask)
  for at in ((0, 3), (7, 3), (3, 0), (3, 7)):
    assert patch.touches_border(mask | (np.arange(64).reshape(8, 8) == 8 * at[0] + at[1]))


@given(length=st.floats(1, 60))
def test_side_is_the_smallest_with_context(length):
  side = patch.side_for(length)
  fitting = [s for s in patch.SIDES if s >= 3 * length]
  assert side == (fitting[0] if fitting else None)


def test_lesions_that_fit_a_diameter():
  native = np.array([5.0, 10.0, 20.0])
  np.testing.assert_array_equal(patch.fitting(native, None), [0, 1, 2])
  np.testing.assert_array_equal(patch.fitting(native, 7.0), [0, 1])
  np.testing.assert_array_equal(patch.fitting(native, 14.0), [1, 2])


@pytest.mark.parametrize(("wanted", "nearest"), [(3.4, "3.5"), (28.1, "28"), (30.0, "28")])
def test_a_diameter_out_of_reach_is_one_line(wanted, nearest):
  with pytest.raises(UserError, match=f"no lesion of that diameter: .* is {nearest} px") as error:
    patch.fitting(np.array([5.0, 10.0, 20.0]), wanted)
  assert "\n" not in str(error.value)


def test_a_gap_between_lesions_is_told_too():
  with pytest.raises(UserError, match=r"4.5 px asked for, the nearest that can be made is 4.2 px"):
    patch.fitting(np.array([3.0, 8.0]), 4.5)


def test_nothing_to_draw_from_is_one_line():
  with pytest.raises(UserError, match="no lesion to draw from"):
    patch.fitting(np.zeros(0), None)
