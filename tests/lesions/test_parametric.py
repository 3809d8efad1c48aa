import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import parametric
from hiresmed_jax.lesions.patch import centroid, touches_border
from tests.lesions import drawn

SIZES = [(3, 32), (4, 32), (6, 32), (8, 32), (11, 48), (15, 48)]
PATCHES = [drawn.patch(d, side=s, seed=i) for i, (d, s) in enumerate(SIZES)]
LUMPS = parametric.Lumps.fit(PATCHES)


@given(wanted=st.floats(2.5, 20), seed=st.integers(0, 10_000))
def test_a_diameter_asked_for_is_met(wanted, seed):
  made = LUMPS.draw(np.random.default_rng(seed), wanted)
  assert abs(made.diameter_px - wanted) <= drawn.tolerance(wanted)
  side = made.alpha.shape[0]
  assert np.hypot(*(np.array(centroid(made.mask)) - side / 2)) <= 1
  assert ndimage.label(made.mask, np.ones((3, 3)))[1] == 1
  assert not touches_border(ndimage.binary_dilation(made.mask, iterations=2))
  assert made.values.dtype == made.surround.dtype == made.alpha.dtype == np.float32
  assert made.kind == "parametric"
  assert made.donor in {p.donor for p in PATCHES}


def test_equal_generators_give_equal_bytes():
  one, two, other = (LUMPS.draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
  assert one.values.tobytes() == two.values.tobytes()
  assert one.alpha.tobytes() == two.alpha.tobytes()
  assert one.values.tobytes() != other.values.tobytes()


@pytest.mark.parametrize("sigma", [0.6, 0.9, 1.4])
def test_the_blur_of_the_scanner_is_found_again(sigma):
  patches = [drawn.patch(d, side=64, blur=sigma, seed=i) for i, d in enumerate((9, 12, 16))]
  # A pixel is a box: its own variance of 1/12 is part of what is seen.
  expected = np.sqrt(sigma**2 + 1 / 12)
  np.testing.assert_allclose(parametric.Lumps.fit(patches).blur_px, expected, rtol=0.12)


def test_its_contrast_is_that_of_its_donor():
  contrasts = []
  for seed in range(20):
    made = LUMPS.draw(np.random.default_rng(seed), 15.0)
    contrasts.append(np.percentile((made.values - made.surround)[made.mask], 90))
  assert 85 < np.median(contrasts) < 120


def test_a_contrast_that_the_ceiling_cuts_off_stays_below_it():
  patch = drawn.patch(15.0, side=48, contrast=400.0)
  patch = patch._replace(values=np.minimum(patch.values, 255))
  lumps = parametric.Lumps.fit([patch])
  for seed in range(5):
    made = lumps.draw(np.random.default_rng(seed))
    assert made.values.max() == 255
    assert np.mean(made.values[made.mask] == 255) > 0.3


def test_a_projection_is_thickest_in_the_middle():
  def fullness(physics):
    lumps = parametric.Lumps([drawn.patch(15.0, side=64, physics=physics)], 0.5, 0.0)
    made = [lumps.draw(np.random.default_rng(seed), 16.0) for seed in range(8)]
    added = [(m.values - m.surround)[..., 0] for m in made]
    return np.mean([a[m.mask].mean() / a.max() for a, m in zip(added, made, strict=True)])

  # The mean chord of a sphere is 2/3 of the longest; a slice is full all over.
  assert 0.6 < fullness("projection") < 0.75
  assert fullness("ct") > 0.85


def test_it_is_as_long_as_its_donor():
  side = 48
  y, x = np.mgrid[:side, :side] + 0.5 - side / 2
  alpha = ndimage.gaussian_filter((np.hypot(x / 2, y * 2) < 6).astype(np.float32), 0.8)
  patch = drawn.patch(12.0, side=side)._replace(alpha=alpha)
  lumps = parametric.Lumps([patch], 0.8, 0.0)
  masks = [lumps.draw(np.random.default_rng(seed), 12.0).mask for seed in range(10)]
  ratios = [np.sqrt(np.divide(*np.linalg.eigvalsh(np.cov(np.nonzero(m)))[::-1])) for m in masks]
  assert np.median(ratios) > 2.2


def test_no_lesion_of_that_diameter():
  with pytest.raises(UserError, match="no lesion of that diameter"):
    LUMPS.draw(np.random.default_rng(0), 60.0)
