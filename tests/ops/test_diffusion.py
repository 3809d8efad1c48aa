"""Noise and the ways back from it, beside the formulas of the papers."""

import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.ops import diffusion
from tests.reference.parity import images

SAMPLERS = [("ancestral", "small"), ("ancestral", "large"), ("ddim", "small")]


@pytest.mark.parametrize("count", [10, 1000])
@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
def test_the_levels_are_those_of_the_papers(schedule, count):
  pytest.importorskip("torch")
  from tests.reference import ddpm as reference

  found = diffusion.levels(schedule, count)
  left = np.array(reference.alpha_bars(schedule, count))
  np.testing.assert_allclose(found.signal, np.sqrt(left), rtol=1e-6)
  np.testing.assert_allclose(found.noise, np.sqrt(1 - left), rtol=1e-6)
  assert found.noise[0] < 0.25 < 0.99 < found.noise[-1]


def test_known_values():
  linear = diffusion.levels("linear", 1000)
  assert linear.noise[0] == pytest.approx(0.01)  # the square root of 1e-4
  assert linear.signal[-1] ** 2 == pytest.approx(4.0358e-5, rel=1e-3)
  with pytest.raises(ValueError, match="unknown schedule"):
    diffusion.levels("square", 10)


def test_each_image_has_the_noise_of_its_level():
  known = diffusion.levels("cosine", 50)
  x, eps, at = images((3, 4, 4, 2)), images((3, 4, 4, 2), seed=2), np.array([0, 20, 49])
  found = diffusion.noised(jnp.asarray(x), jnp.asarray(eps), jnp.asarray(at), known)
  for row, level in enumerate(at):
    expected = known.signal[level] * x[row] + known.noise[level] * eps[row]
    np.testing.assert_allclose(found[row], expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", diffusion.SCHEDULES)
@pytest.mark.parametrize(("sampler", "variance"), SAMPLERS)
@pytest.mark.parametrize("number", [20, 7, 1])
def test_sampling_is_that_of_the_papers(schedule, sampler, variance, number):
  torch = pytest.importorskip("torch")
  from tests.reference import ddpm as reference

  count = 20
  plan = diffusion.steps(schedule, count, number=number, sampler=sampler, variance=variance)
  assert plan.level[0] == count - 1
  assert (np.diff(plan.level) < 0).all()
  start, fresh = images((2, 4, 4, 1)), images((number, 2, 4, 4, 1), seed=3)

  def eps(x, level):  # any function of both
    return 0.8 * x + 0.01 * level

  x = jnp.asarray(start)
  for i in range(number):
    step = diffusion.Step(*(part[i] for part in plan))
    x = diffusion.less_noise(x, eps(x, step.level), jnp.asarray(fresh[i]), step)
  expected = reference.sample(
    torch.tensor(start).double(),
    eps,
    list(torch.tensor(fresh).double()),
    schedule=schedule,
    count=count,
    chosen=plan.level[::-1].tolist(),
    sampler=sampler,
    variance=variance,
  )
  np.testing.assert_allclose(x, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(("sampler", "variance"), SAMPLERS)
def test_whoever_knows_the_noise_gets_the_image_at_its_level_all_the_way(sampler, variance):
  """Noise levels that are one off, or run the other way, leave noise behind."""
  image, known = np.clip(images((4, 32, 32, 1)), -0.9, 0.9), diffusion.levels("cosine", 30)
  plan = diffusion.steps("cosine", 30, number=30, sampler=sampler, variance=variance)
  x = jnp.asarray(known.signal[-1] * image + known.noise[-1] * images(image.shape, seed=5))
  for i in range(30):
    level = plan.level[i]
    if variance == "small":
      residue = np.std(x - known.signal[level] * image)
      assert residue == pytest.approx(known.noise[level], rel=0.05), level
    eps = (x - known.signal[level] * image) / known.noise[level]
    step = diffusion.Step(*(part[i] for part in plan))
    x = diffusion.less_noise(x, eps, jnp.asarray(images(image.shape, seed=10 + i)), step)
  np.testing.assert_allclose(x, image, atol=1e-5)


def test_what_cannot_be_sampled_is_refused():
  with pytest.raises(ValueError, match="11 steps of 10 levels"):
    diffusion.steps("linear", 10, number=11)
  with pytest.raises(ValueError, match="use one of"):
    diffusion.steps("linear", 10, number=5, sampler="euler")
