"""SinGAN's networks beside PyTorch's: as many parameters, the same images, the same statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hiresmed_jax.nets.singan import Critic, Generator, width
from tests.reference import singan as reference
from tests.reference.parity import images, quick_jit
from tests.reference.singan_weights import to_torch


def count(net, *inputs):
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
  ("channels", "level", "generator", "critic"),
  [
    (3, 0, 29_763, 29_185),
    (3, 4, 114_819, 113_665),
    (3, 8, 450_819, 448_513),
    (1, 3, 28_609, 28_609),
    (1, 7, 112_513, 112_513),
    (1, 12, 446_209, 446_209),
    (4, 0, 30_340, 29_473),
    (4, 5, 115_972, 114_241),
    (4, 9, 453_124, 449_665),
  ],
)
def test_parameters_as_published(channels, level, generator, critic):
  image = jnp.zeros((1, 16, 16, channels))
  assert count(Generator(channels, width(level)), image, image, True) == generator
  assert count(Critic(width(level)), image) == critic


def test_ten_levels_as_published():
  image = jnp.zeros((1, 16, 16, 3))
  levels = [count(Generator(3, width(n)), image, image, True) for n in range(10)]
  assert sum(levels) == 1_479_966


def test_a_level_beside_pytorch():
  noisy, below = images((2, 13, 14, 2)), images((2, 13, 14, 2), 2)
  net, twin = Generator(2, 12), reference.Generator(2, 12)
  variables = quick_jit(net.init, static_argnums=3)(jax.random.key(0), noisy, below, True)
  to_torch(variables["params"], twin)
  twin.double()

  def twice(variables):
    made, moved = net.apply(variables, noisy, below, True, mutable=["batch_stats"])
    variables = {"params": variables["params"], **moved}
    return made, variables, net.apply(variables, noisy, below, False)

  trained, variables, finished = quick_jit(twice)(variables)
  # PyTorch takes one image at a time; its noise is what is left of the input.
  z, prev = (torch.tensor(a.transpose(0, 3, 1, 2), dtype=torch.float64) for a in (noisy, below))
  with torch.no_grad():
    right = [twin(z[i : i + 1] - prev[i : i + 1], prev[i : i + 1], 1.0) for i in range(2)]
    twin.eval()
    after = twin(z - prev, prev, 1.0)
  np.testing.assert_allclose(trained, torch.cat(right).numpy().transpose(0, 2, 3, 1), atol=1e-5)
  np.testing.assert_allclose(finished, after.numpy().transpose(0, 2, 3, 1), atol=1e-5)
  for index in range(4):
    stats, norm = variables["batch_stats"]["body"][f"norm{index}"], twin.net[3 * index + 1]
    np.testing.assert_allclose(stats["mean"], norm.running_mean, atol=1e-6)
    np.testing.assert_allclose(stats["var"], norm.running_var, atol=1e-6)


def test_a_new_network_begins_as_published():
  image = jnp.zeros((1, 12, 12, 2))
  params = quick_jit(Critic(64).init)(jax.random.key(1), image)["params"]["body"]
  kernels = np.concatenate([np.ravel(params[f"kernel{i}"]) for i in range(5)])
  scales = np.concatenate([np.ravel(params[f"norm{i}"]["scale"]) for i in range(4)])
  assert kernels.std() == pytest.approx(0.02, rel=0.02)
  assert scales.mean() == pytest.approx(1.0, abs=0.005)
  assert scales.std() == pytest.approx(0.02, rel=0.2)


def test_half_precision_gives_float32_images_near_those_of_float32():
  noisy, below = images((1, 13, 13, 2)), images((1, 13, 13, 2), 2)
  net = Generator(2, 12)
  variables = quick_jit(net.init, static_argnums=3)(jax.random.key(0), noisy, below, True)
  made = [
    quick_jit(lambda v, net=net: net.apply(v, noisy, below, True))(variables)
    for net in (net, Generator(2, 12, jnp.bfloat16, "patches"))
  ]
  assert made[1].dtype == jnp.float32
  np.testing.assert_allclose(made[1], made[0], atol=0.03)
