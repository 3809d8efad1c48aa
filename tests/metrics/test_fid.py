"""pytorch_fid's distance, on both paths, and what a floor and an interval must do."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiresmed_jax.metrics import fid


def features(number, length, seed=0, shift=0.0):
  rng = np.random.default_rng(seed)
  mixing = np.random.default_rng(99).standard_normal((length, length)) / np.sqrt(length)
  return (rng.standard_normal((number, length)) @ mixing + shift).astype(np.float32)


def pytorch_fids(a, b):
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  tv.import_torchvision()
  score = pytest.importorskip("pytorch_fid.fid_score")
  parts = [(z.mean(axis=0), np.cov(z, rowvar=False)) for z in (a.astype(float), b.astype(float))]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it calls SciPy in an older way
    return score.calculate_frechet_distance(*parts[0], *parts[1])


@pytest.mark.parametrize(("n", "m"), [(400, 300), (65, 400)])
def test_more_images_than_features_is_pytorch_fids(n, m):
  a, b = features(n, 48), features(m, 48, 1, 0.2)
  assert fid.fid(a, b) == pytest.approx(pytorch_fids(a, b), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(40, 30), (40, 300)])
def test_fewer_images_than_features_is_the_eigenvalues_of_the_product(n, m):
  a, b = (z.astype(np.float64) for z in (features(n, 64), features(m, 64, 1, 0.2)))
  s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  # The product's non-zero eigenvalues are those of an N x N matrix that is positive.
  centred = (a - a.mean(axis=0)) / np.sqrt(n - 1)
  roots = np.sqrt(np.maximum(np.linalg.eigvalsh(centred @ s2 @ centred.T), 0)).sum()
  wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * roots
  assert fid.fid(a, b) == pytest.approx(wanted, rel=1e-6)


def test_fewer_images_than_features_is_pytorch_fids():
  a, b = features(40, 64), features(30, 64, 1, 0.2)
  assert fid.fid(a, b) == pytest.approx(pytorch_fids(a, b), rel=1e-6)


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), st.integers(0, 99))
def test_symmetric_and_zero_for_equal_sets(n, m, length, seed):
  a, b = features(n, length, seed), features(m, length, seed + 1)
  assert fid.fid(a, b) == pytest.approx(fid.fid(b, a), rel=1e-9, abs=1e-9)
  assert fid.fid(a, a) == pytest.approx(0, abs=1e-9 * length)
  assert fid.fid(a, b) >= 0


def test_the_floor_keeps_patients_whole():
  x = features(40, 8)
  groups = np.repeat(np.arange(10), 4)
  halves = []
  found = fid.split_half(x, lambda a, b: halves.append((a, b)) or 1.0, groups=groups, repeats=5)
  assert found == (1.0, 0.0, 20)
  for a, b in halves:
    owners = [{int(groups[(x == row).all(axis=1)][0]) for row in half} for half in (a, b)]
    assert owners[0].isdisjoint(owners[1])
  assert fid.split_half(x).value > 0
  assert fid.split_half(x, seed=1) == fid.split_half(x, seed=1)
  with pytest.raises(ValueError, match="cannot be halved"):
    fid.split_half(x, groups=np.zeros(40))


def test_the_interval_is_over_patients_and_holds_the_value():
  real, other = features(60, 4), features(60, 4, 1, 0.8)
  each = {"groups_real": np.arange(60), "groups_other": np.arange(60)}
  narrow = fid.bootstrap(real, other, resamples=100, **each)
  assert narrow.low < narrow.value < narrow.high
  assert narrow.value == fid.fid(real, other)
  few = {key: np.arange(60) // 12 for key in each}
  assert fid.bootstrap(real, other, resamples=100, **few).groups == 5
  assert fid.bootstrap(real, real, paired=True, resamples=20, **each).high < 1e-9
  with pytest.raises(ValueError, match="one group"):
    fid.bootstrap(real, other, groups_real=[0] * 60, groups_other=[0] * 60)
  with pytest.raises(ValueError, match="row by row"):
    fid.bootstrap(real, other, paired=True, groups_real=range(60), groups_other=range(1, 61))


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(3), np.full((3, 3), np.nan)])
def test_what_has_no_distance_is_refused(bad):
  with pytest.raises(ValueError, match=r"two or more|NaN"):
    fid.fid(bad, np.zeros((3, 3)))
  with pytest.raises(ValueError, match="have no distance"):
    fid.fid(np.zeros((3, 2)), np.zeros((3, 3)))
