"""StyleSwin's two networks beside ones of PyTorch's operations: counts, outputs, gradients."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.nets import styleswin
from hiresmed_jax.nets.styleswin import Discriminator, Generator
from tests.reference.parity import close, images, quick_jit, random_params


@pytest.mark.parametrize(
  ("net", "shape", "count"),
  [
    (Generator(256, multiplier=2), (1, 512), 48_929_512),
    (Generator(1024, multiplier=1), (1, 512), 40_862_990),
    (Discriminator(256), (1, 256, 256, 3), 26_211_585),
    (Discriminator(1024), (1, 1024, 1024, 3), 27_736_641),
  ],
)
def test_parameters(net, shape, count):
  variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def assert_same(apply, twin, params, x):
  """Outputs, gradients of the input and of every parameter, under one random cotangent."""
  import torch

  from benchmarks.torch_baseline.convert import state_dict

  twin.load_state_dict(state_dict(params, twin))
  twin.double()
  x_torch = torch.tensor(np.moveaxis(x, -1, 1)).double().requires_grad_()
  expected = twin(x_torch)
  expected = expected if expected.ndim == 1 else expected.permute(0, 2, 3, 1)
  weights = images(tuple(expected.shape), 7)

  def loss(params, x):
    out = apply(params, x)
    return jnp.sum(out * weights), out

  value = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, out), (grads, x_grad) = value(params, x)
  close(out, expected.detach().numpy(), 1e-4, "output")
  (expected * torch.tensor(weights)).sum().backward()
  close(x_grad, np.moveaxis(x_torch.grad.numpy(), 1, -1), 1e-4, "gradient of the input")
  theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
  ours = state_dict(grads, twin)
  assert ours.keys() == theirs.keys()
  floor = 1e-2 * max(np.abs(grad).max() for grad in theirs.values())
  for name, grad in theirs.items():
    close(ours[name], grad, 1e-4, f"gradient of {name}", floor=floor)


@pytest.mark.slow
def test_the_generator_is_that_of_pytorch():
  pytest.importorskip("torch")
  from tests.reference import styleswin as reference

  # 16 rows: a level smaller than a window, one as large, and one with four, which are shifted.
  net = Generator(16, channels=2, mapping=2, widest=32)
  latents = images((2, 12))
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), latents))["params"]
  for number in range(2):  # begin at 100 times that, as they learn a hundredth as fast
    params[f"mapping{number}"]["kernel"] *= 100 * np.sqrt(12)
  twin = reference.Generator(16, 2, [32, 32, 32], mapping=2, style=12)
  assert_same(lambda params, x: net.apply({"params": params}, x), twin, params, latents)


def test_the_discriminator_is_that_of_pytorch():
  torch = pytest.importorskip("torch")
  from tests.reference import styleswin as reference

  net, x = Discriminator(16, widest=16), images((8, 16, 16, 2))
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  params = random_params(shapes["params"])
  stats = jax.tree.map(lambda leaf: images(leaf.shape, 3), shapes["batch_stats"])
  twin = reference.Discriminator(16, 2, 16)
  for path, value in flax.traverse_util.flatten_dict(stats).items():
    if path[-1].endswith("/u"):
      twin.vectors[path[-1].split("/")[0]] = torch.tensor(np.asarray(value)[0]).double()

  def apply(params, x):
    out, _ = net.apply(
      {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
    )
    return out

  assert_same(apply, twin, params, x)


def test_wavelets_keep_norms_and_can_be_undone():
  x = jnp.asarray(images((2, 8, 6, 3)))
  waves = styleswin.haar(x)
  assert waves.shape == (2, 4, 3, 12)
  np.testing.assert_allclose(jnp.linalg.norm(waves), jnp.linalg.norm(x), rtol=1e-5)
  np.testing.assert_allclose(styleswin.unhaar(waves), x, atol=1e-5)
  flat = styleswin.haar(jnp.ones((1, 4, 4, 1)))
  np.testing.assert_allclose(flat[..., 1:], 0, atol=1e-6)


def test_an_enlarged_constant_stays_constant_inside():
  found = styleswin.blurred(jnp.ones((1, 6, 6, 2)), up=True)
  assert found.shape == (1, 12, 12, 2)
  np.testing.assert_allclose(found[:, 2:-2, 2:-2], 1, atol=1e-5)
