import numpy as np
import pytest
import scipy.ndimage

from benchmarks import physics_oracle


def test_a_ball_is_as_large_as_it_should_be():
  offsets = [np.arange(-8, 9) + shift for shift in (0.2, -0.4, 0.1)]
  assert physics_oracle._ball(offsets, 5.0).sum() == pytest.approx(4 / 3 * np.pi * 125, rel=0.01)
  assert physics_oracle._ball(offsets[:2], 5.0).sum() == pytest.approx(np.pi * 25, rel=0.01)


@pytest.mark.slow
def test_superposition_is_exact_in_uniform_tissue_whatever_lies_along_the_ray():
  hu = np.full((100, 24, 100), 40, np.float32)
  hu[:, :4] = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(100, 4, 100)), 3)
  hu[:, :4] *= 2000 / hu[:, :4].max()  # bone and gas, in front of what the sites are in
  errors = physics_oracle.measure(hu, 1.5, 9.0, sites=4)
  assert max(errors["known"]) < 0.02
  assert max(errors["intensity"]) < 0.02
  assert np.median(errors["estimated"]) < 0.2


@pytest.mark.slow
def test_insertion_into_the_projection_equals_projection_of_the_insertion(shared):
  hu, spacing = physics_oracle.load(shared / "data/abdomen_drr/example_ct.nii.gz")
  errors = physics_oracle.measure(hu, spacing, 12.0, sites=24)
  assert np.median(errors["known"]) <= 0.05
  assert np.median(errors["intensity"]) <= 0.05
