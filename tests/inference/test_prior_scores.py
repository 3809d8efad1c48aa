"""Log-scores of places beside sums over pixels, and what a good and a bad prior get."""

import numpy as np
import pytest

from hiresmed_jax.inference.prior_scores import gains, log_scores

SHAPE = (20, 30)


def score(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).uniform(0, 1, SHAPE).astype(np.float32)


def test_the_score_is_the_chance_of_the_pixel_over_the_uniform_one():
  values, allowed = score(), score(1) > 0.3
  allowed[4, 7] = True
  points = np.array([[7.9, 4.1]])  # (x, y): column 7, row 4
  found = log_scores(values, allowed, points, floor=0.3)
  inside = values * allowed
  chance = 0.7 * values[4, 7] / inside.sum(dtype=np.float64) + 0.3 / allowed.sum()
  assert found == pytest.approx([np.log(chance * allowed.sum())], rel=1e-6)


def test_the_uniform_prior_gains_nothing_and_a_floor_bounds_the_loss():
  allowed, points = np.ones(SHAPE, bool), np.array([[3.0, 3.0], [29.9, 19.9]])
  assert log_scores(np.ones(SHAPE, np.float32), allowed, points, floor=0.3) == pytest.approx([0, 0])
  elsewhere = np.zeros(SHAPE, np.float32)
  elsewhere[10, 10] = 1.0
  assert log_scores(elsewhere, allowed, points, floor=0.3) == pytest.approx([np.log(0.3)] * 2)
  assert log_scores(elsewhere, allowed, points, floor=0.0) == pytest.approx([np.log(0.01)] * 2)


def test_a_real_place_is_allowed_whatever_the_mask_says():
  nowhere = np.zeros(SHAPE, bool)
  found = log_scores(score(), nowhere, np.array([[5.5, 5.5], [6.5, 5.5]]), floor=0.3)
  assert np.isfinite(found).all()


def test_groups_are_drawn_together():
  rng = np.random.default_rng(0)
  of_group = rng.normal(1.0, 1.0, 8)
  logs = {"good": np.repeat(of_group, 50), "none": np.zeros(400)}
  alike = gains(logs, [str(i) for i in np.repeat(np.arange(8), 50)])["good"]
  alone = gains(logs, [str(i) for i in range(400)])["good"]
  assert alike.value == pytest.approx(of_group.mean())
  assert alike.high - alike.low > 3 * (alone.high - alone.low)
  over = gains(logs, [str(i) for i in range(400)], against="none")
  assert set(over) == {"good"}
  assert over["good"].value == pytest.approx(of_group.mean())
