"""The paper's Table 3, numbers of statsmodels 0.15.0, and enumeration of every outcome."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.metrics import reader_study
from hiresmed_jax.metrics.reader_study import Counts

SENIOR = Counts(tp=85, fn=15, fp=55, tn=45)
INTERMEDIATE = Counts(tp=65, fn=35, fp=55, tn=45)


@pytest.mark.parametrize(
  ("counts", "sensitivity", "accuracy", "kappa", "exact", "corrected", "guess"),
  [
    (SENIOR, 0.85, 0.65, 0.3, 1.652519847797991e-06, 3.140785137292438e-06, 2.6528755595268727e-05),
    (INTERMEDIATE, 0.65, 0.55, 0.1, 0.04459752462791592, 0.045201352976522134, 0.17896403953325155),
  ],
)
def test_table_3(counts, sensitivity, accuracy, kappa, exact, corrected, guess):
  found = reader_study.read(counts)
  assert found.sensitivity.value == sensitivity
  assert found.specificity.value == 0.45
  assert found.accuracy.value == accuracy
  assert found.kappa.value == pytest.approx(kappa, abs=1e-12)
  findings = {f.name: f for f in found.findings}
  assert findings["McNemar, exact"].p_value == pytest.approx(exact, rel=1e-12)
  assert findings["McNemar, with continuity correction"].p_value == pytest.approx(
    corrected, rel=1e-12
  )
  assert findings["accuracy against 50 %, exact binomial"].p_value == pytest.approx(
    guess, rel=1e-12
  )
  # Fooled: 55 of 100 either way.
  fooled = findings["synthetic called real against 50 %, exact binomial"]
  assert fooled.p_value == pytest.approx(0.36820161732669615)
  assert found.fooled[3:] == pytest.approx((0.4524460299744213, 0.6438546202048803))


def test_every_p_value_says_what_it_means():
  senior, intermediate = (
    [f.meaning for f in reader_study.read(c).findings] for c in (SENIOR, INTERMEDIATE)
  )
  assert "130 of 200" in senior[0]
  assert "the reader does not guess" in senior[0]
  assert "not shown that the reader can tell" in intermediate[0]
  assert "equality is not shown" in senior[1]
  assert "leans towards 'real'" in senior[3]
  assert "says nothing on whether" in senior[4]
  assert "leans towards 'synthetic'" in reader_study.read(Counts(5, 40, 5, 40)).findings[3].meaning
  assert "within the margin" in reader_study.read(Counts(200, 200, 200, 200)).findings[1].meaning


def test_kappa_and_its_interval_are_statsmodels():
  for table, wanted in (
    ([[85, 15], [55, 45]], (0.3, 0.17883046747349007, 0.42116953252651)),
    ([[65, 35], [55, 45]], (0.1, -0.03510963072978357, 0.23510963072978375)),
    ([[20, 5], [10, 15]], (0.4, 0.151092290476661, 0.6489077095233389)),
  ):
    np.testing.assert_allclose(reader_study.kappa(table), wanted, atol=1e-12)
  assert reader_study.kappa([[7, 0], [0, 3]]) == pytest.approx((1.0, 1.0, 1.0))
  assert np.isnan(reader_study.kappa([[9, 0], [0, 0]])).all()


def test_wilson_is_statsmodels():
  for k, n, low, high in (
    (85, 100, 0.7671644040916763, 0.9069401471634337),
    (110, 200, 0.4807561513847569, 0.6173593159775166),
    (0, 10, 0.0, 0.27753279986288926),
    (10, 10, 0.7224672001371106, 1.0),
  ):
    np.testing.assert_allclose(reader_study.wilson(k, n), (k, n, k / n, low, high), atol=1e-12)
  assert np.isnan(reader_study.wilson(0, 0)[2:]).all()
  with pytest.raises(ValueError, match="5 of 3"):
    reader_study.wilson(5, 3)


def test_mcnemar_without_discordant_answers_is_1():
  assert reader_study.mcnemar_exact(0, 0) == reader_study.mcnemar_corrected(0, 0) == 1.0
  assert reader_study.mcnemar_exact(0, 6) == 0.03125
  assert reader_study.mcnemar_corrected(0, 6) == pytest.approx(0.041226833337163815)


@given(st.integers(1, 60), st.data())
def test_equivalence_is_the_larger_of_two_tails(n, data):
  k = data.draw(st.integers(0, n))
  low = sum(math.comb(n, i) * 0.4**i * 0.6 ** (n - i) for i in range(k, n + 1))
  high = sum(math.comb(n, i) * 0.6**i * 0.4 ** (n - i) for i in range(k + 1))
  assert reader_study.equivalence(k, n, margin=0.1) == pytest.approx(max(low, high), abs=1e-12)


def power(reject, n, truth):
  chances = scipy.stats.binom.pmf(np.arange(n + 1), n, truth)
  return sum(chance for k, chance in enumerate(chances) if reject(k, n))


def test_needed_numbers_have_the_power_and_one_less_has_not():
  differs = lambda k, n: reader_study.binomial(k, n) <= 0.05  # noqa: E731
  same = lambda k, n: reader_study.equivalence(k, n, margin=0.2) <= 0.05  # noqa: E731
  n = reader_study.needed_for_difference(0.7)
  assert power(differs, n - 1, 0.7) < 0.8 <= min(power(differs, n + i, 0.7) for i in range(6))
  assert reader_study.needed_for_difference(0.3) == n
  n = reader_study.needed_for_equivalence(0.2)
  assert power(same, n - 1, 0.5) < 0.8 <= min(power(same, n + i, 0.5) for i in range(6))
  # 199 by the normal approximation; the exact test needs a few more.
  assert 199 <= reader_study.needed_for_difference(0.6) <= 215


def test_answers_become_counts():
  real, said = [1, 1, 0, 0, 0], [True, False, True, False, False]
  assert reader_study.count(real, said) == Counts(tp=1, fn=1, fp=1, tn=2)
  with pytest.raises(ValueError, match="5 images and 2 answers"):
    reader_study.count(real, [1, 0])
  with pytest.raises(ValueError, match="true and false"):
    reader_study.count([1, 2], [1, 0])


def test_two_readers_agree_beyond_chance_or_not():
  rng = np.random.default_rng(0)
  real = np.arange(200) < 100
  good, coin = real ^ (rng.random(200) < 0.1), rng.random(200) < 0.5
  found = reader_study.compare(real, good, coin)
  assert abs(found.kappa.value) < 0.2
  assert "one reader is better" in found.findings[0].meaning
  only = (good == real) & (coin != real), (good != real) & (coin == real)
  assert found.findings[0].p_value == reader_study.mcnemar_exact(*(int(x.sum()) for x in only))
  assert found.same.k == (good == coin).sum()
  itself = reader_study.compare(real, good, good)
  assert itself.kappa.value == 1.0
  assert itself.findings[0].p_value == 1.0


def test_auc_counts_pairs():
  real, rating = np.array([1, 1, 1, 0, 0]), np.array([5.0, 3.0, 1.0, 3.0, 0.0])
  pairs = [(a > b) + 0.5 * (a == b) for a in rating[real == 1] for b in rating[real == 0]]
  assert reader_study.auc(real, rating) == pytest.approx(np.mean(pairs))
  assert math.isnan(reader_study.auc([1, 1], [1.0, 2.0]))


@pytest.mark.parametrize("counts", [Counts(0, 0, 0, 0), Counts(-1, 2, 3, 4), Counts(1.5, 1, 1, 1)])
def test_counts_that_are_none_are_refused(counts):
  with pytest.raises(ValueError, match="whole numbers"):
    reader_study.read(counts)


def test_a_study_of_synthetic_images_alone_has_no_sensitivity():
  found = reader_study.read(Counts(0, 0, 12, 8))
  assert math.isnan(found.sensitivity.value)
  assert found.specificity.value == 0.4
  with pytest.raises(ValueError, match="margin"):
    reader_study.read(SENIOR, margin=0.6)
