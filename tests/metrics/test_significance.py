"""Against SciPy, against numbers of statsmodels 0.15.0, and against what a bootstrap must do."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.metrics import significance

RNG = np.random.default_rng(0)
A = RNG.normal(0.3, 1.0, 23)
B = RNG.normal(0.0, 1.0, 23)


def test_paired_t_and_wilcoxon_are_scipys():
  found, wanted = significance.paired_t(A, B), scipy.stats.ttest_rel(A, B)
  assert (found.statistic, found.p_value) == pytest.approx((wanted.statistic, wanted.pvalue), 1e-12)
  assert found.difference == pytest.approx((A - B).mean())
  found, wanted = significance.wilcoxon(A, B), scipy.stats.wilcoxon(A, B)
  assert (found.statistic, found.p_value) == (wanted.statistic, wanted.pvalue)
  assert (found.n, found.note) == (23, "")


def test_wilcoxon_of_few_pairs_counts_every_sign():
  ranks = scipy.stats.rankdata(np.abs(A[:7] - B[:7]))
  sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=7)]
  smaller = significance.wilcoxon(A[:7], B[:7]).statistic
  p = min(1.0, 2 * np.mean(np.array(sums) <= smaller))
  assert significance.wilcoxon(A[:7], B[:7]).p_value == pytest.approx(p)


@pytest.mark.parametrize("test", [significance.paired_t, significance.wilcoxon])
def test_what_cannot_be_tested_says_why(test):
  assert test([], []).note == "fewer than two pairs"
  one = test([1.0], [0.0])
  assert np.isnan(one.p_value)
  assert one.note == "fewer than two pairs"
  assert test([1.0, 2.0], [1.0, 2.0]).note == "no pair differs"
  with pytest.raises(ValueError, match="pairs of numbers"):
    test([1.0, 2.0], [1.0])
  with pytest.raises(ValueError, match="NaN"):
    test([1.0, np.nan], [1.0, 2.0])


def test_equal_differences_have_no_t():
  assert "no spread" in significance.paired_t([1.1, 2.1, 3.1], [1.0, 2.0, 3.0]).note


def test_holm_and_bonferroni_are_statsmodels():
  p = [0.01, 0.04, 0.03, 0.005, 0.2, 0.04]
  np.testing.assert_allclose(significance.holm(p), [0.05, 0.12, 0.12, 0.03, 0.2, 0.12])
  np.testing.assert_allclose(significance.bonferroni(p), [0.06, 0.24, 0.18, 0.03, 1.0, 0.24])
  for adjust in (significance.holm, significance.bonferroni):
    two = adjust([0.02, 0.5])
    np.testing.assert_array_equal(adjust([0.02, np.nan, 0.5]), [two[0], np.nan, two[1]])
    assert adjust([]).shape == (0,)
    with pytest.raises(ValueError, match="lie in"):
      adjust([1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_below_bonferroni(p):
  holm, bonferroni = significance.holm(p), significance.bonferroni(p)
  assert (holm <= bonferroni).all()
  assert (holm >= p).all()
  order = np.argsort(p)
  assert (np.diff(holm[order]) >= 0).all()


def test_stars_are_the_usual_ones():
  assert [significance.stars(p) for p in (0.0009, 0.009, 0.049, 0.05, np.nan)] == [
    *("***", "**", "*", "", "")
  ]


def test_bootstrap_without_groups_is_scipys():
  found = significance.bootstrap(A, B, resamples=4000)
  wanted = scipy.stats.bootstrap(
    (A - B,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
  ).confidence_interval
  width = wanted.high - wanted.low
  assert found.low == pytest.approx(wanted.low, abs=0.05 * width)
  assert found.high == pytest.approx(wanted.high, abs=0.05 * width)
  assert found == significance.bootstrap(A, B, resamples=4000)
  assert found.groups == 23


def test_rows_of_a_group_stay_together():
  groups = np.array(["b", "a", "b", "c", "b", "a"])
  for rows in significance.group_draws(groups, resamples=50, seed=0):
    counts = np.bincount(rows, minlength=6)
    for name in "abc":
      assert len(set(counts[groups == name])) == 1
    assert sum(counts[[3, 0, 1]]) == 3  # three groups were drawn
  within = significance.group_draws(groups, resamples=200, seed=0, within=True)
  assert any(len(set(np.bincount(rows, minlength=6)[groups == "b"])) > 1 for rows in within)


def test_repeated_rows_of_a_patient_do_not_narrow_the_interval():
  once = significance.bootstrap(A, B, resamples=2000)
  five = [np.repeat(x, 5) for x in (A, B)]
  grouped = significance.bootstrap(*five, groups=np.repeat(np.arange(23), 5), resamples=2000)
  naive = significance.bootstrap(*five, resamples=2000)
  assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))
  assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_bootstrap_of_one_group_has_no_interval():
  found = significance.bootstrap([1.0, 2.0], [0.0, 0.0], groups=["a", "a"])
  assert found.value == 1.5
  assert np.isnan([found.low, found.high, found.p_value]).all()
  with pytest.raises(ValueError, match="2 pairs and 3 groups"):
    significance.bootstrap([1.0, 2.0], [0.0, 0.0], groups=["a", "a", "b"])


def test_bootstrap_p_value_is_small_for_a_clear_difference_and_never_zero():
  clear = significance.bootstrap(A + 9, B, resamples=500)
  assert clear.p_value == pytest.approx(2 / 501)
  assert significance.bootstrap(A, A, resamples=500).p_value == 1.0
