import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from hiresmed_jax.errors import UserError
from hiresmed_jax.placement.candidates import Site, allowed_pixels, log_probabilities, place

seeds = st.integers(0, 2**32 - 1)


def disc(diameter: float, pad: int = 2) -> np.ndarray:
  half = math.ceil(diameter / 2) + pad
  rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
  return np.hypot(rows, columns) <= diameter / 2


def lump(rng: np.random.Generator, diameter: float) -> np.ndarray:
  half = math.ceil(diameter) + 1
  rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
  angle, phase = np.arctan2(rows, columns), rng.uniform(0, 2 * np.pi, 2)
  radius = 1 + 0.25 * np.cos(2 * angle + phase[0]) + 0.15 * np.cos(3 * angle + phase[1])
  return np.hypot(rows, columns) <= diameter / 2 * radius


def covered(shape: tuple[int, ...], mask: np.ndarray, site: Site) -> np.ndarray:
  out = np.zeros(shape, bool)
  for row, column in np.argwhere(mask) + site.origin:
    assert 0 <= row < shape[0]
    assert 0 <= column < shape[1]
    out[row, column] = True
  return out


@settings(max_examples=200)
@given(seed=seeds, count=st.integers(0, 4), gap=st.floats(0, 9), margin=st.floats(0, 5))
def test_any_request_is_kept_or_refused(seed: int, count: int, gap: float, margin: float) -> None:
  rng = np.random.default_rng(seed)
  shape = tuple(int(n) for n in rng.integers(30, 110, 2))
  field = cv2.GaussianBlur(rng.random(shape), (0, 0), 9)
  forbidden = (field > np.quantile(field, rng.uniform(0.3, 1))).astype(np.uint8)
  valid = np.ones(shape, bool)
  valid[:, : rng.integers(0, 12)] = False
  free = allowed_pixels(forbidden, valid, margin)
  score = rng.random(shape).astype(np.float32) ** 4
  footprints = [lump(rng, rng.uniform(2, 16)) for _ in range(count)]
  at = [tuple(rng.uniform(-3, shape[::-1]))] if count and rng.random() < 0.3 else None
  try:
    sites = place(np.random.default_rng(seed), score, free, footprints, at=at, min_gap_px=gap)
  except UserError:
    return
  assert len(sites) == count
  away = np.full(shape, np.inf)
  for mask, site in zip(footprints, sites):
    pixels = covered(shape, mask, site)
    assert pixels.sum() == mask.sum()
    assert not (pixels & ((forbidden > 0) | ~valid)).any()
    assert not (pixels & ~free).any()
    centroid = np.array(ndimage.center_of_mass(pixels))[::-1] + 0.5
    np.testing.assert_allclose(site.centre, centroid, atol=1e-6)
    assert away[pixels].min() >= max(gap, 1.0) - 1e-6
    away = np.minimum(away, ndimage.distance_transform_edt(~pixels))
    assert math.isfinite(site.log_probability)
    assert site.log_probability <= 1e-9
  if at:
    assert math.dist(sites[0].centre, at[0]) <= 0.71
    assert sites[0].prior == "user"
  again = place(np.random.default_rng(seed), score, free, footprints, at=at, min_gap_px=gap)
  assert again == sites


@given(seed=seeds, margin=st.floats(0, 7))
def test_allowed_keeps_the_margin_and_no_more(seed: int, margin: float) -> None:
  rng = np.random.default_rng(seed)
  forbidden = rng.random((24, 31)) < rng.choice([0.0, 0.005, 0.3])
  valid = rng.random((24, 31)) > rng.choice([0.0, 0.002])
  blocked = forbidden | ~valid
  away = ndimage.distance_transform_edt(~blocked) if blocked.any() else np.full((24, 31), np.inf)
  free = allowed_pixels(forbidden.astype(np.uint8) * 255, valid, margin)
  np.testing.assert_array_equal(free, away > margin)


def test_a_mask_that_is_not_known_forbids_nothing() -> None:
  valid = np.ones((5, 6), bool)
  assert allowed_pixels(None, valid, 3.0).all()
  assert allowed_pixels(np.zeros((0, 0), np.uint8), valid, 3.0).all()


@given(seed=seeds, floor=st.floats(0, 1))
def test_chances_sum_to_one(seed: int, floor: float) -> None:
  rng = np.random.default_rng(seed)
  score = (rng.random((40, 30)) * (rng.random((40, 30)) < 0.3)).astype(np.float32)
  candidates = rng.random((40, 30)) < 0.4
  logs = log_probabilities(score, candidates, floor)
  assert np.exp(logs).sum() == pytest.approx(1.0, rel=1e-9)
  assert (logs[~candidates] == -np.inf).all()
  expected = (1 - floor) * score / score[candidates].sum(dtype=float) + floor / candidates.sum()
  np.testing.assert_allclose(np.exp(logs)[candidates], expected[candidates], rtol=1e-6)


def test_draws_follow_the_chances_that_are_reported() -> None:
  rng = np.random.default_rng(0)
  score = np.zeros((6, 7), np.float32)
  score[2, 1:5], score[4, 2] = [1, 2, 3, 4], 5.0
  free = np.ones((6, 7), bool)
  free[2, 3] = False
  logs = log_probabilities(score, free, 0.3)
  counts, priors = np.zeros((6, 7)), []
  for _ in range(2000):
    (site,) = place(rng, score, free, [np.ones((1, 1), bool)], min_gap_px=1)
    pixel = int(site.centre[1]), int(site.centre[0])
    assert site.log_probability == pytest.approx(logs[pixel], rel=1e-9)
    counts[pixel] += 1
    priors.append(site.prior)
  expected = 2000 * np.exp(logs)
  assert counts[~free].sum() == 0
  assert stats.chisquare(counts[free], expected[free]).pvalue > 1e-3
  assert stats.binomtest(priors.count("uniform"), 2000, 0.3).pvalue > 1e-3
  assert set(priors) == {"uniform", "atlas"}


def test_uniform_places_are_limited_to_what_is_likely() -> None:
  rng = np.random.default_rng(0)
  score, free = np.zeros((9, 9), np.float32), np.ones((9, 9), bool)
  score[2, 3] = 1.0
  likely = np.zeros((9, 9), bool)
  likely[5:7, 5:7] = True
  logs = log_probabilities(score, free, 0.4, likely)
  assert np.exp(logs[2, 3]) == pytest.approx(0.6)
  assert np.exp(logs[likely]) == pytest.approx([0.1] * 4)
  one = [np.ones((1, 1), bool)]
  for _ in range(50):
    (site,) = place(rng, score, free, one, likely=likely, floor=0.4, min_gap_px=1)
    pixel = int(site.centre[1]), int(site.centre[0])
    assert likely[pixel] == (site.prior == "uniform")
    assert site.log_probability == pytest.approx(logs[pixel])
  # Nothing is likely: all follows the score; without a score there is no place.
  nowhere = np.zeros((9, 9), bool)
  (site,) = place(rng, score, free, one, likely=nowhere, floor=0.4, min_gap_px=1)
  assert (site.centre, site.log_probability) == ((3.5, 2.5), 0.0)
  with pytest.raises(UserError, match="no room"):
    place(rng, 0 * score, free, one, likely=nowhere, min_gap_px=1)


def test_each_footprint_has_its_own_score() -> None:
  left, right = np.zeros((2, 12, 12), np.float32)
  left[6, 2], right[6, 9] = 1.0, 1.0
  sites = place(
    np.random.default_rng(0), [left, right], np.ones((12, 12), bool), [disc(1), disc(2)],
    floor=0.0, min_gap_px=1,
  )  # fmt: skip
  assert [int(site.centre[0]) for site in sites] == [2, 9]
  with pytest.raises(ValueError, match="1 scores for 2 footprints"):
    place(
      np.random.default_rng(0), [left], np.ones((12, 12), bool), [disc(1), disc(2)], min_gap_px=1
    )


def test_a_score_of_zero_everywhere_allowed_is_named_uniform() -> None:
  score = np.zeros((20, 20), np.float32)
  (site,) = place(
    np.random.default_rng(0), score, np.ones((20, 20), bool), [disc(3)], min_gap_px=1, floor=0.0
  )
  assert site.prior == "uniform"
  assert site.log_probability == pytest.approx(-math.log(18 * 18))


def test_the_whole_footprint_must_be_allowed() -> None:
  free = np.zeros((40, 40), bool)
  free[20, 12] = True
  score = np.ones((40, 40), np.float32)
  rng = np.random.default_rng(0)
  with pytest.raises(UserError, match="no room for a lesion of 9 px"):
    place(rng, score, free, [disc(9)], min_gap_px=1)
  free[16:25, 8:17] = True
  (site,) = place(rng, score, free, [disc(9)], min_gap_px=1)
  assert site.centre == (12.5, 20.5)
  assert site.log_probability == 0.0


def test_an_unlucky_first_lesion_is_drawn_again() -> None:
  # Two lesions fit side by side only when the first does not take the middle.
  free, score = np.zeros((20, 60), bool), np.ones((20, 60), np.float32)
  free[6:15, 5:30] = True
  for seed in range(20):
    sites = place(np.random.default_rng(seed), score, free, [disc(9)] * 2, min_gap_px=1)
    assert abs(sites[0].centre[0] - sites[1].centre[0]) >= 9


@pytest.mark.parametrize(
  ("at", "diameters", "says"),
  [
    ([(60.0, 5.0)], [5], "60,5 lies outside the image of 60 x 50"),
    ([(-1.0, 5.0)], [5], "outside the image"),
    ([(math.nan, 5.0)], [5], "outside the image"),
    ([(2.0, 25.0)], [9], "would reach beyond the image"),
    ([(40.0, 10.0)], [5], "5 px at the point 40,10 would lie on what is forbidden"),
    ([(20.0, 25.0), (24.0, 25.0)], [5, 5], "at the point 24,25 would lie too near another one"),
    ([(20.0, 25.0), (9.0, 9.0)], [5], "2 points are given for 1 lesion"),
    ([(9.0, 9.0)], [], "1 points are given for 0 lesions"),
    (None, [64], "no room for a lesion of 64 px"),
    (None, [10] * 40, "no room for 40 lesions beside each other"),
  ],
)
def test_what_cannot_be_is_one_line(
  at: list[tuple[float, float]] | None, diameters: list[int], says: str
) -> None:
  free, score = np.ones((50, 60), bool), np.ones((50, 60), np.float32)
  free[:20, 30:] = False
  footprints = [disc(d) for d in diameters]
  with pytest.raises(UserError) as refused:
    place(np.random.default_rng(0), score, free, footprints, at=at, min_gap_px=2)
  assert says in str(refused.value)
  assert len(str(refused.value).splitlines()) == 1


def test_no_lesions_are_no_sites() -> None:
  free = np.zeros((5, 5), bool)
  assert place(np.random.default_rng(0), np.ones((5, 5), np.float32), free, [], min_gap_px=1) == []


@pytest.mark.parametrize(
  ("score", "options"),
  [
    (np.full((9, 9), -1, np.float32), {}),
    (np.full((9, 9), np.nan, np.float32), {}),
    (np.ones((9, 8), np.float32), {}),
    (np.ones((9, 9), np.float32), {"floor": 1.5}),
    (np.ones((9, 9), np.float32), {"min_gap_px": math.nan}),
  ],
)
def test_arguments_that_make_no_sense(score: np.ndarray, options: dict) -> None:
  with pytest.raises(ValueError, match=r"score|floor"):
    place(
      np.random.default_rng(0),
      score,
      np.ones((9, 9), bool),
      [disc(2)],
      **{"min_gap_px": 1.0, **options},
    )
