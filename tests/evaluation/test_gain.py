"""FROC of single images is that of the batched metric; the bootstrap knows what is paired."""

import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.evaluation import gain
from hiresmed_jax.metrics import detection


def random_images(seed: int, count: int = 12, skill: float = 0.5):
  """(boxes, scores, real boxes) of images; `skill`: share of the lesions that are detected."""
  rng = np.random.default_rng(seed)
  boxes, scores, real = [], [], []
  for _ in range(count):
    there = rng.uniform(10, 200, (rng.integers(0, 4), 2))
    there = np.concatenate([there, there + rng.uniform(5, 20, there.shape)], 1)
    hit = there[rng.random(len(there)) < skill]
    corner = rng.uniform(0, 200, (rng.integers(0, 9), 2))
    own = np.concatenate([hit + rng.uniform(-2, 2, hit.shape), np.hstack([corner, corner + 8])])
    sure = rng.uniform(0.01, 0.6, len(own))
    sure[: len(hit)] += 0.3 * (rng.random(len(hit)) < 0.7)
    order = np.argsort(-sure)
    boxes.append(own[order]), scores.append(sure[order]), real.append(there)
  return boxes, scores, real


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_metric_of_the_location_route(seed):
  boxes, scores, real = random_images(seed)
  count, room, most = len(boxes), 16, 4
  arrays = {"boxes": np.zeros((count, room, 4)), "scores": np.zeros((count, room))}
  valid, there = np.zeros((count, room), bool), np.zeros((count, most, 4))
  real_valid = np.zeros((count, most), bool)
  for i in range(count):
    arrays["boxes"][i, : len(boxes[i])], arrays["scores"][i, : len(boxes[i])] = boxes[i], scores[i]
    valid[i, : len(boxes[i])] = True
    there[i, : len(real[i])], real_valid[i, : len(real[i])] = real[i], True
  totals = detection.count(
    jnp.asarray(arrays["boxes"], jnp.float32),
    jnp.asarray(arrays["scores"], jnp.float32),
    jnp.zeros((count, room), jnp.int32),
    jnp.asarray(valid),
    jnp.asarray(there, jnp.float32),
    jnp.zeros((count, most), jnp.int32),
    jnp.asarray(real_valid),
    jnp.ones(count),
  )
  expected = float(np.mean(detection.froc(totals)))
  assert gain.froc(gain.hits(boxes, scores, real)) == pytest.approx(expected, abs=1e-6)


def test_an_image_that_counts_twice_is_there_twice():
  images = random_images(5)
  weight = np.ones(12)
  weight[[2, 7]], weight[3] = 2.0, 0.0
  order = [*[i for i in range(12) if i != 3], 2, 7]
  repeated = gain.hits(*[[part[i] for i in order] for part in images])
  assert gain.froc(gain.hits(*images), weight) == pytest.approx(gain.froc(repeated))


def test_a_better_detector_is_told_and_the_same_one_is_not():
  groups = np.repeat(np.arange(20), 2)
  worse = [gain.hits(*random_images(0, 40, 0.4))]
  better = [gain.hits(*random_images(0, 40, 0.95))]
  found = gain.difference(better, worse, groups, resamples=300)
  assert 0 < found.low < found.value < found.high
  same = gain.difference(worse, worse, groups, resamples=50)
  assert (same.value, same.low, same.high) == (0, 0, 0)


def test_groups_are_drawn_whole():
  # All images of two groups: a resample has one of them alone, or both as they are.
  boxes, scores, real = random_images(3, 30)
  groups = np.repeat(["a", "b"], 15)
  other = random_images(4, 30)[0]
  first = gain.hits(other, [np.linspace(0.9, 0.1, len(own)) for own in other], real)
  second = gain.hits(boxes, scores, real)
  possible = {
    round(gain.froc(first, weight) - gain.froc(second, weight), 9)
    for weight in (np.repeat(pair, 15) for pair in ([2.0, 0], [0.0, 2], [1.0, 1]))
  }
  found = gain.difference([first], [second], groups, resamples=100)
  assert {round(found.low, 9), round(found.high, 9)} <= possible
  assert found.groups == 2


def test_arms_must_be_pairs():
  one = [gain.hits(*random_images(1, 6))]
  assert np.isnan(gain.difference(one, one, ["a"] * 6).low)
  with pytest.raises(ValueError, match="trainings"):
    gain.difference(one, one * 2, ["a"] * 6)


def test_lesions_that_count():
  made = gain.hits(
    [np.array([[0.0, 0, 4, 4], [50, 50, 54, 54]])], [np.array([0.9, 0.1])],
    [np.array([[0.0, 0, 5, 5], [20, 20, 30, 30]])],
  )  # fmt: skip
  assert gain.froc(made) == 0.5
  assert gain.froc(made, lesions=np.array([True, False])) == 1.0
  assert np.isnan(gain.froc(made, lesions=np.array([False, False])))
