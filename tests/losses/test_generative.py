"""Losses of generators against PyTorch: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.torch_baseline import losses as reference
from hiresmed_jax.losses import generative
from hiresmed_jax.losses.generative import critic_loss, generator_loss, gradient_penalty
from hiresmed_jax.nets.singan import Critic
from hiresmed_jax.ops.quantize import normalize
from tests.reference import singan
from tests.reference.parity import close, images, quick_jit
from tests.reference.singan_weights import drawn, names_and_tensors, to_torch


def _draw(*shape: int, seed: int = 0) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def _unit(*shape: int, seed: int = 0) -> jax.Array:
  x = np.array(_draw(*shape, seed=seed))
  return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def _assert_same(loss, torch_loss, *trees, per_example: bool = True) -> None:
  """Values, and gradients of a weighted sum over examples, with respect to every array."""
  value = quick_jit(loss)(*trees)
  assert value.dtype == jnp.float32
  weights = np.linspace(0.5, 2.0, value.size).reshape(value.shape).astype(np.float32)
  gradient = quick_jit(
    jax.grad(lambda *t: jnp.sum(weights * loss(*t)), argnums=tuple(range(len(trees))))
  )(*trees)

  def leaf(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64).requires_grad_()

  leaves = jax.tree.map(leaf, trees)
  expected = torch_loss(*leaves)
  (torch.tensor(weights, dtype=torch.float64) * expected).sum().backward()
  np.testing.assert_allclose(value, expected.detach(), rtol=2e-6, atol=2e-6)
  assert value.ndim == (1 if per_example else 0)
  is_leaf = lambda x: isinstance(x, torch.Tensor)  # noqa: E731
  for actual, exact in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(leaves, is_leaf=is_leaf), strict=True
  ):
    wanted = np.zeros(exact.shape) if exact.grad is None else exact.grad
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["l1", "mse"])
def test_reconstruction(name):
  pred, target = _draw(3, 6, 5, 2), _draw(3, 6, 5, 2, seed=1)
  _assert_same(getattr(generative, name), getattr(reference, name), pred, target)


@pytest.mark.parametrize("name", ["l1", "mse"])
def test_reconstruction_sums_in_float32(name):
  loss = getattr(generative, name)
  target = jnp.zeros((2, 64, 64, 1), jnp.bfloat16)
  value = loss(target + jnp.bfloat16(1.0), target)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, 1.0)  # bfloat16 sums stop growing at 256
  with pytest.raises(AssertionError):
    loss(target, target[:1])


@pytest.mark.parametrize("name", ["commitment", "codebook"])
def test_codebook_distance(name):
  latents, codes = _unit(3, 4, 5, 8), _unit(3, 4, 5, 8, seed=1)
  loss, torch_loss = getattr(generative, name), getattr(reference, name)

  # Normalised inside, so that both gradients lie in the sphere and agree.
  def on_sphere(a, b):
    return loss(normalize(a), normalize(b))

  _assert_same(on_sphere, torch_loss, latents, codes)
  opposite = loss(latents, -latents)
  np.testing.assert_allclose(opposite, 4.0, rtol=1e-6)  # whatever the code width


def test_each_codebook_loss_moves_its_own_side_only():
  latents, codes = _unit(2, 3, 3, 4), _unit(2, 3, 3, 4, seed=1)
  for loss, still in ((generative.commitment, 1), (generative.codebook, 0)):
    gradients = quick_jit(jax.grad(lambda *a, f=loss: jnp.sum(f(*a)), argnums=(0, 1)))(
      latents, codes
    )
    assert not np.any(gradients[still])
    assert np.any(gradients[1 - still])


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_entropy(temperature):
  latents, codes = _unit(2, 3, 4, 8), _draw(16, 8, seed=1)

  def loss(latents, codes):
    total, weight = generative.entropy(latents, codes, temperature=temperature)
    return total / weight

  def torch_loss(latents, codes):
    return reference.entropy(latents, codes, temperature)

  total, weight = generative.entropy(latents, codes, temperature=temperature)
  assert weight == 24
  assert -np.log(16) <= total / weight <= 0
  value, expected = loss(latents, codes), torch_loss(*(_torch(a) for a in (latents, codes)))
  np.testing.assert_allclose(value, expected, atol=1e-5)

  # Latents leave the sphere in a derivative, where 2 - 2 cos and the distance differ by a term
  # that is the same for all codes: the softmax, and so the gradient, is the same.
  ours = quick_jit(jax.grad(loss, argnums=(0, 1)))(latents, codes)
  leaves = [_torch(a).requires_grad_() for a in (latents, codes)]
  torch_loss(*leaves).backward()
  for actual, exact in zip(ours, leaves, strict=True):
    np.testing.assert_allclose(actual, exact.grad, rtol=1e-4, atol=1e-5)


def _torch(array: jax.Array) -> torch.Tensor:
  return torch.tensor(np.asarray(array), dtype=torch.float64)


def test_entropy_knows_its_best_and_worst():
  eye = jnp.eye(8)
  spread = generative.entropy(eye[None], eye, temperature=0.01)
  np.testing.assert_allclose(spread[0] / spread[1], -np.log(8), rtol=1e-5)
  collapsed = generative.entropy(jnp.tile(eye[:1], (5, 1)), eye, temperature=0.01)
  np.testing.assert_allclose(collapsed[0], 0.0, atol=1e-5)
  gradient = jax.grad(lambda e: generative.entropy(e, eye, temperature=1e-4)[0])(eye)
  assert np.all(np.isfinite(gradient))


def test_hinge():
  real = tuple(_draw(3, s, s, 1, seed=s) for s in (8, 4, 2))
  fake = tuple(_draw(3, s, s, 1, seed=10 + s) for s in (8, 4, 2))
  _assert_same(generative.hinge_discriminator, reference.hinge_discriminator, real, fake)
  _assert_same(generative.hinge_generator, reference.hinge_generator, fake)


def test_hinge_counts_each_scale_the_same():
  fake = (jnp.ones((2, 8, 8, 1), jnp.bfloat16), jnp.full((2, 1, 1, 1), 3.0, jnp.bfloat16))
  value = generative.hinge_generator(fake)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, -2.0)
  silent = tuple(jnp.zeros((2, s, s, 1)) for s in (4, 2))
  np.testing.assert_allclose(generative.hinge_discriminator(silent, silent), 1.0)


def test_hinge_refuses_unequal_scales():
  one = (jnp.zeros((1, 2, 2, 1)),)
  with pytest.raises(ValueError, match="scales"):
    generative.hinge_discriminator(one, one * 2)
  with pytest.raises(ValueError, match="at least one"):
    generative.hinge_generator(())


@pytest.mark.parametrize(("scale", "cap"), [(1.0, 10.0), (1e-3, 10.0), (0.0, 1e4), (1e4, 10.0)])
def test_adaptive_weight(scale, cap):
  nll, gan = _draw(3, 3, 8, 1), scale * _draw(3, 3, 8, 1, seed=1)
  actual = generative.adaptive_weight(nll, gan, cap=cap)
  expected = reference.adaptive_weight(_torch(nll), _torch(gan), cap)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)
  tree = generative.adaptive_weight({"a": nll[:1], "b": nll[1:]}, gan, cap=cap)
  np.testing.assert_allclose(tree, expected, rtol=1e-6)
  slope = jax.grad(lambda g: generative.adaptive_weight(nll, g, cap=cap))(gan)
  assert not np.any(slope)


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
  twin = singan.Critic(2, WIDTH)
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
    singan.gradient_penalty(twin, image, image, torch.tensor(0.5).double(), 1.0)
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
    singan.critic_loss(twin, one, other, torch.tensor(float(mixture)).double(), PENALTY)
    for one, other, mixture in zip(nchw(real).split(1), nchw(fake).split(1), mixtures, strict=True)
  ]
  assert values.shape == (2,)
  np.testing.assert_allclose(values, [value.item() for value in right], rtol=1e-5, atol=1e-6)
  sum(right).backward()
  assert_gradients(gradient, twin)


def test_what_the_generator_minimises():
  scores = images((2, 4, 3, 1))
  np.testing.assert_allclose(generator_loss(scores), -scores.mean((1, 2, 3)), atol=1e-6)
