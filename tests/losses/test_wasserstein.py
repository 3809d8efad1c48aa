"""SinGAN's losses beside PyTorch, which differentiates the penalty twice in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hiresmed_jax.losses.adversarial import critic_loss, generator_loss, gradient_penalty
from hiresmed_jax.nets.singan import Critic
from tests.reference import singan as reference
from tests.reference.parity import close, images, quick_jit
from tests.reference.singan_weights import drawn, names_and_tensors, to_torch

WIDTH = 12  # more than the few channels that are convolved in another way
PENALTY = 0.7


@pytest.fixture(scope="module", params=["patches", "direct", "vendor"])
def net(request):
  return Critic(WIDTH, way=request.param)


@pytest.fixture(scope="module")
def params():
  image = jnp.zeros((1, 14, 13, 2))
  return drawn(jax.eval_shape(Critic(WIDTH).init, jax.random.key(0), image)["params"])


def twin_of(params):
  twin = reference.Critic(2, WIDTH)
  to_torch(params, twin)
  return twin.double()


def nchw(array):
  return torch.tensor(np.array(array).transpose(0, 3, 1, 2), dtype=torch.float64)


def assert_gradients(ours, twin):
  pairs = names_and_tensors(ours, twin)
  theirs = {
    # The penalty does not feel the last bias: PyTorch then has no gradient at all.
    name: np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
    for name, (tensor, _) in pairs.items()
  }
  floor = 1e-2 * max(np.abs(gradient).max() for gradient in theirs.values())
  for name, (_, gradient) in pairs.items():
    close(gradient, theirs[name], 1e-4, name, floor=floor)


def test_the_penalty_and_its_gradient(net, params):
  between = images((2, 14, 13, 2))

  def total(params):
    each = gradient_penalty(lambda x: net.apply({"params": params}, x), between)
    return jnp.sum(each), each

  (_, values), gradient = quick_jit(jax.value_and_grad(total, has_aux=True))(params)
  twin = twin_of(params)
  # PyTorch takes one image at a time; between an image and itself lies the image.
  right = [
    reference.gradient_penalty(twin, image, image, torch.tensor(0.5).double(), 1.0)
    for image in nchw(between).split(1)
  ]
  assert values.shape == (2,)
  np.testing.assert_allclose(values, [value.item() for value in right], rtol=1e-5)
  sum(right).backward()
  assert_gradients(gradient, twin)


def test_the_norm_is_over_channels_pixel_by_pixel():
  slopes = np.array([3.0, 4.0], np.float32)
  scale = np.linspace(0.1, 1.0, 12, dtype=np.float32).reshape(1, 4, 3, 1)
  critic = lambda x: jnp.sum(x * slopes * scale, -1, keepdims=True)  # noqa: E731
  value = gradient_penalty(critic, images((1, 4, 3, 2)))
  np.testing.assert_allclose(value, [np.mean((5 * scale - 1) ** 2)], rtol=1e-6)


def test_a_critic_without_a_slope_is_penalised_and_stays_finite():
  slope = lambda w: gradient_penalty(lambda x: w * x[..., :1], images((1, 3, 3, 2)))[0]  # noqa: E731
  value, gradient = jax.value_and_grad(slope)(0.0)
  assert value == pytest.approx(1.0)
  assert np.isfinite(gradient)


@pytest.mark.slow
def test_what_the_critic_minimises(net, params):
  real, fake = (images((2, 14, 13, 2), seed) for seed in (1, 2))
  mixtures = np.array([0.3, 0.8], np.float32)
  between = mixtures[:, None, None, None] * (real - fake) + fake
  loss = functools.partial(critic_loss, real=real, fake=fake, between=between, penalty=PENALTY)

  def total(params):
    each = loss(lambda x: net.apply({"params": params}, x))
    return jnp.sum(each), each

  (_, values), gradient = quick_jit(jax.value_and_grad(total, has_aux=True))(params)
  twin = twin_of(params)
  right = [
    reference.critic_loss(twin, one, other, torch.tensor(float(mixture)).double(), PENALTY)
    for one, other, mixture in zip(nchw(real).split(1), nchw(fake).split(1), mixtures, strict=True)
  ]
  assert values.shape == (2,)
  np.testing.assert_allclose(values, [value.item() for value in right], rtol=1e-5, atol=1e-6)
  sum(right).backward()
  assert_gradients(gradient, twin)


def test_what_the_generator_minimises():
  scores = images((2, 4, 3, 1))
  np.testing.assert_allclose(generator_loss(scores), -scores.mean((1, 2, 3)), atol=1e-6)
