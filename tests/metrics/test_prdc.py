"""KID against torchmetrics and sums written out; precision .. coverage ball by ball; protocols."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hiresmed_jax.evaluation.distances import label, protocol
from hiresmed_jax.metrics import kid

RNG = np.random.default_rng(0)
A = RNG.standard_normal((37, 6))
B = RNG.standard_normal((29, 6)) * 0.8 + 0.3


def test_mmd_is_the_sum_over_pairs():
  k = lambda x, y: (x @ y / 6 + 1) ** 3  # noqa: E731
  off = lambda z: [k(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j]  # noqa: E731
  same = [np.mean(off(z)) for z in (A, B)]
  wanted = sum(same) - 2 * np.mean([k(x, y) for x in A for y in B])
  assert kid.mmd2(A, B) == pytest.approx(wanted, rel=1e-12)


def test_mmd_is_torchmetrics():
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  tv.import_torchvision()
  from torchmetrics.image.kid import poly_mmd

  a, b = (tv.torch.from_numpy(z[:29]) for z in (A, B))
  assert kid.mmd2(A[:29], B) == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)


def test_kid_is_the_mean_of_subsets_and_unbiased():
  whole = kid.kid(A[:29], B, subsets=3, size=29)
  assert whole.value == pytest.approx(kid.mmd2(A[:29], B))
  assert whole.sd == pytest.approx(0, abs=1e-12)
  many = kid.kid(A, B, subsets=3000)
  assert many.size == 14
  assert many.value == pytest.approx(kid.mmd2(A, B), abs=4 * many.sd / np.sqrt(3000))
  assert many == kid.kid(A, B, subsets=3000)
  rng = np.random.default_rng(1)
  null = [kid.mmd2(*rng.standard_normal((2, 20, 4))) for _ in range(300)]
  assert abs(np.mean(null)) < 4 * np.std(null) / np.sqrt(300)
  assert min(null) < 0


def test_prdc_ball_by_ball(monkeypatch):
  monkeypatch.setattr(kid, "ROWS", 10)  # several parts
  for k in (1, 3, 5):
    real, fake, cross = cdist(A, A), cdist(B, B), cdist(A, B)
    balls = [np.sort(d, axis=1)[:, k] for d in (real, fake)]
    inside = cross < balls[0][:, None]
    found = kid.prdc(A, B, k=k)
    assert found.precision == pytest.approx(inside.any(axis=0).mean())
    assert found.recall == pytest.approx((cross < balls[1]).any(axis=1).mean())
    assert found.density == pytest.approx(inside.sum(axis=0).mean() / k)
    assert found.coverage == pytest.approx(inside.any(axis=1).mean())


def test_far_sets_share_nothing_and_one_set_all():
  assert kid.prdc(A, B + 1e3) == (0, 0, 0, 0)
  same = kid.prdc(A, A)
  assert (same.precision, same.recall, same.coverage) == (1, 1, 1)


@pytest.mark.parametrize("measure", [kid.mmd2, kid.kid, kid.prdc])
def test_what_cannot_be_compared_is_refused(measure):
  for bad in (A[:, :5], A[:1], np.full_like(A, np.nan)):
    with pytest.raises(ValueError, match=r"needed|no neighbour|NaN"):
      measure(A, bad)


def test_subsets_larger_than_a_set_are_refused():
  with pytest.raises(ValueError, match="subsets of 30"):
    kid.kid(A, B, size=30)


def test_a_smaller_tap_or_another_network_is_named():
  assert label("FID", "inception-2015-12-05", 2048) == "FID"
  assert label("KID", "inception-2015-12-05", 768) == "KID@768"
  assert label("FID", "RadImageNet ResNet-50", 2048) == "FID (RadImageNet ResNet-50)"
  line = protocol(
    "FID", net="inception-2015-12-05", tap=768, resize="tf1", count_real=111, count_other=90, seed=3
  )
  for part in ("FID@768", "768 features", "tf1", "N 111 against 90", "seed 3"):
    assert part in line
