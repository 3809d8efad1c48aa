import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.errors import UserError
from hiresmed_jax.placement.paper import danger, final, locate, place_paper


def test_candidates_are_the_peaks_of_the_score() -> None:
  rows, columns = np.mgrid[:80, :90]
  score = np.zeros((80, 90))
  for height, row, column in ((1.0, 20, 30), (3.0, 60, 25), (2.0, 40, 70)):
    score += height * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 60)
  expected = [[25.5, 60.5], [70.5, 40.5], [30.5, 20.5]]
  np.testing.assert_array_equal(locate(score, 10), expected)
  np.testing.assert_array_equal(locate(score, 2), expected[:2])
  assert locate(np.zeros((9, 9)), 3).shape == (0, 2)
  assert len(locate(np.ones((9, 9)), 3)) == 1


@given(st.integers(0, 2**32 - 1))
def test_equation_16_by_its_definition(seed: int) -> None:
  rng = np.random.default_rng(seed)
  m_danger = danger((rng.random((12, 15)) < 0.4).astype(np.uint8) * 3)
  points = rng.uniform(-3, 18, (25, 2))
  expected = [
    p for p in points.tolist()
    if 0 <= p[0] < 15 and 0 <= p[1] < 12 and m_danger[int(p[1]), int(p[0])] == 1
  ]  # fmt: skip
  np.testing.assert_array_equal(final(points, m_danger), np.reshape(expected, (-1, 2)))


def test_only_the_centre_is_asked() -> None:
  forbidden = np.ones((40, 40), np.uint8)
  forbidden[20, 12] = 0
  m_danger = danger(forbidden)
  points = np.array([[12.5, 20.5], [30.5, 30.5]])
  rng = np.random.default_rng(0)
  (site,) = place_paper(rng, points, m_danger, [np.ones((9, 9), bool)])
  assert site == ((12.5, 20.5), (16, 8), -math.log(1), "paper")
  with pytest.raises(UserError, match="gives 1 points off the forbidden tissue, too few"):
    place_paper(rng, points, m_danger, [np.ones((9, 9), bool)] * 2)


def test_random_among_the_points_without_overlap() -> None:
  points = np.array([[10.5, 10.5], [13.5, 10.5], [30.5, 30.5], [1.5, 1.5]])
  seen = set()
  for seed in range(40):
    rng = np.random.default_rng(seed)
    sites = place_paper(rng, points, np.ones((40, 40), np.uint8), [np.ones((7, 7), bool)] * 2)
    assert sites[0].log_probability == pytest.approx(-math.log(3))  # one is too near the border
    seen.add(frozenset(site.centre[0] for site in sites))
  assert seen == {frozenset([30.5, 10.5]), frozenset([30.5, 13.5])}


def test_points_of_the_user() -> None:
  m_danger = np.ones((40, 40), np.uint8)
  m_danger[:20] = 0
  one, none = [np.ones((5, 5), bool)], np.zeros((0, 2))
  rng = np.random.default_rng(0)
  (site,) = place_paper(rng, none, m_danger, one, at=[(12.3, 25.1)])
  assert site.prior == "user"
  assert math.dist(site.centre, (12.3, 25.1)) < 0.71
  for at, says in (
    ([(12.0, 5.0)], "on forbidden tissue"),
    ([(50.0, 5.0)], "outside the image"),
    ([(39.0, 39.0)], "reach beyond the image"),
    ([(9.0, 30.0), (9.0, 30.0)], "2 points are given for 1 lesions"),
  ):
    with pytest.raises(UserError, match=says):
      place_paper(rng, none, m_danger, one, at=at)
