"""The PyTorch HiResMed-VQGAN computes and trains as ours does, on the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.torch_baseline import convert
from benchmarks.torch_baseline.hiresmed import VQGAN
from benchmarks.torch_baseline.step import hiresmed_step, linen
from hiresmed_jax.nets import resampling
from hiresmed_jax.routes import settings as tables
from hiresmed_jax.routes.background import losses
from hiresmed_jax.routes.background import task as background
from tests.reference.parity import quick_jit, random_params

SIZE = 16
GAN_STEP = 6  # of ten steps: both players are at work, the weight's ramp over


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  """Tiny tensors: more threads only wait for each other."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


def settings(preset, **changes):
  config = tables.values("background", preset)
  config.net.update({"stem_channels": 4, "channels": (8,), "strides": (4,), "encoder_blocks": 1})
  config.net.update({"full_resolution_channels": 4, "code_dim": 4, "drop_path_rate": 0.0})
  config.net.update({"se_ratio": 1, "remat": False})
  config.codebook.update({"num_codes": 16, "revive_every": 1000})
  config.perceptual.net = None
  config.gan.update({"features": (4, 8), "scales": 2, "start": 0.2, "warmup": 0.2, "augment": ()})
  # A larger eps, so that an update is as sure as its gradient: Adam's first has the sign of it.
  config.optimizer.update({"learning_rate": 0.02, "eps": 1e-2})
  config.update_from_flattened_dict(changes)
  return config


def draw(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def nchw(images):
  return torch.tensor(images.transpose(0, 3, 1, 2).copy())


def assert_close(ours, theirs, tolerance, floor=0.0):
  """Each array against its own largest value, but not below `floor`."""
  leaves = jax.tree_util.tree_leaves_with_path(ours)
  for (path, one), other in zip(leaves, jax.tree.leaves(theirs), strict=True):
    scale = max(np.abs(other).max(), floor)
    assert scale > 0, f"{path} is zero: the comparison would prove nothing"
    np.testing.assert_allclose(
      one, other, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
    )


@functools.cache
def shapes(**options):
  values = tuple(options.items())
  net = background.networks(settings("paper", **dict(values)), channels=1, dtype=jnp.float32)[0]
  return jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))["params"]


@pytest.mark.parametrize("upsampling", ["transposed", "resize", "subpixel"])
@pytest.mark.parametrize("block", ["hdfb", "residual"])
def test_weights_go_over_and_come_back(block, upsampling):
  changes = {"net.block": block, "net.upsampling": upsampling}
  params = random_params(shapes(**changes))
  config = settings("paper", **changes)
  disc = background.networks(config, channels=1, dtype=jnp.float32)[1]
  disc_params = random_params(
    jax.eval_shape(disc.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))["params"]
  )
  codebook = draw(16, 4)
  step = hiresmed_step(
    config,
    channels=1,
    size=SIZE,
    steps=10,
    params=params,
    codebook=codebook,
    disc_params=disc_params,
  )
  back = linen(step)
  expected = {"net": params, "codebook": codebook, "disc": disc_params}
  jax.tree.map(np.testing.assert_array_equal, back, expected)
  assert jax.tree.structure(back) == jax.tree.structure(expected)
  net = step.generator.net
  again = convert.state_dict(back["net"], net)
  assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.items())


@pytest.mark.slow
@pytest.mark.parametrize(
  ("preset", "block"),
  [
    ("paper", "hdfb"),
    ("best", "residual"),
    ("paper", "residual"),
    ("best", "hdfb"),
  ],
)
def test_forward_and_all_gradients_equal_ours(preset, block):
  config = settings(preset, **{"net.block": block})
  net, _ = background.networks(config, channels=1, dtype=jnp.float32)
  images, cotangent = draw(2, SIZE, SIZE, 1), draw(2, SIZE, SIZE, 1, seed=1)
  ours = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
  gen = {"net": random_params(ours), "codebook": draw(16, 4, seed=2)}

  def loss(gen):
    made, aux = losses.forward(
      gen, net=net, images=images, key=jax.random.key(0), config=config.loss
    )
    return (made[0] * cotangent).sum() + 3 * made[1], (made[0], aux)

  (_, (recon, aux)), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(gen)

  step = hiresmed_step(
    config, channels=1, size=SIZE, steps=10, params=gen["net"], codebook=gen["codebook"]
  )
  generator = step.generator
  made = generator(nchw(images))
  ((made.recon * nchw(cotangent)).sum() + 3 * made.code_loss).backward()
  np.testing.assert_array_equal(made.indices, aux["indices"])
  assert len(np.unique(made.indices)) > 3
  assert_close(recon, made.recon.permute(0, 2, 3, 1).detach().numpy(), 1e-4)
  assert aux["losses"].keys() == made.losses.keys()
  for name, value in made.losses.items():
    np.testing.assert_allclose(aux["losses"][name], value, rtol=1e-4, err_msg=name)
  theirs = {
    "codebook": generator.codebook.grad.numpy(),
    "net": convert.linen_params(
      {name: p.grad for name, p in generator.net.named_parameters()}, generator.net
    ),
  }
  floor = 1e-2 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
  assert_close(gradients, theirs, 1e-4, floor)


@pytest.mark.parametrize(
  ("preset", "changes"),
  [
    pytest.param(
      "best",
      {"gan.adaptive": True, "optimizer.warmup": 0.2, "optimizer.clip": 0.5}
      | {"net.block": "residual", "net.middle_blocks": 0, "ema": 0.0, "gan.scales": 1},
      marks=pytest.mark.slow,
    ),
    pytest.param("paper", {}, marks=pytest.mark.slow),
    pytest.param("best", {"gan.adaptive": True}, marks=pytest.mark.slow),
  ],
)
def test_whole_steps_equal_ours(preset, changes):
  config = settings(preset, **changes)
  task = background.build(config, channels=1, size=(SIZE, SIZE), steps=10, steps_per_epoch=100)
  shapes = jax.eval_shape(task.init, jax.random.key(1))
  # Without compiling what makes it: moments are zero, and weights such that the players feel.
  state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.replace(key=None))
  gen = {"net": random_params(shapes.gen["net"]), "codebook": draw(16, 4, seed=2)}
  state = state.replace(
    step=jnp.int32(GAN_STEP), gen=gen, disc=random_params(shapes.disc, 1), key=jax.random.key(1)
  )
  step = hiresmed_step(
    config,
    channels=1,
    size=SIZE,
    steps=10,
    params=gen["net"],
    codebook=gen["codebook"],
    disc_params=state.disc,
  )
  step.calls = GAN_STEP
  update = quick_jit(task.train_step)
  before = {"net": gen["net"], "codebook": np.asarray(gen["codebook"]), "disc": state.disc}
  for number in range(2):
    images = draw(2, SIZE, SIZE, 1, seed=number)
    state, ours = update(state, {"images_m11": images}, {})
    theirs = step(nchw(images))
    assert step.calls == int(state.step)
    for name, value in theirs.items():
      if name != "gradient_norm":
        np.testing.assert_allclose(ours[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    names = {"commitment", "codebook", "reconstruction", "gan_generator", "gan_discriminator"}
    assert names | {"gan_weight"} <= theirs.keys()
    assert float(theirs["gan_weight"]) > 0.05
  after, made = {**state.gen, "disc": state.disc}, linen(step)
  # The first step's rate is 0 where there is a warm-up.
  moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after, before)
  theirs = jax.tree.map(lambda a, b: a - np.asarray(b), made, before)
  # A bias before a normalisation with one channel a group has no gradient: Adam moves it by what it
  # makes of rounding, up to a fifth of its rate.
  assert np.mean([np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(theirs)]) > 0.7
  floor = 0.2 * config.optimizer.learning_rate
  assert_close(moved, theirs, 2e-3, floor)
  # In the parameters themselves.
  assert_close(after, made, 1e-4)


@pytest.mark.parametrize("upsampling", ["transposed", "resize", "subpixel"])
def test_the_start_has_the_distributions_of_ours(upsampling):
  options = {"channels": (32,), "strides": (4,), "stem_channels": 16, "code_dim": 8}
  torch.manual_seed(0)
  twin = VQGAN(**options, upsampling=upsampling)
  params = convert.linen_params(twin.state_dict(), twin)
  up = params["decoder_stages_0"]["up"]["up0"]["kernel"]
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key != "kernel":
      np.testing.assert_array_equal(leaf, 1.0 if path[-1].key == "scale" else 0.0)
    elif leaf.size > 2000 and not (path[-2].key.startswith("up") and upsampling == "transposed"):
      std = 1 / np.sqrt(leaf[..., 0].size)  # flax's lecun_normal
      np.testing.assert_allclose(leaf.std(), std, rtol=0.15, err_msg=str(path))
      assert np.abs(leaf).max() < 2.3 * std
  if upsampling == "transposed":
    init = resampling.bilinear_kernel_init(None)(jax.random.key(0), up.shape)
    np.testing.assert_allclose(up.std(), init.std(), rtol=0.15)
    phases = up.reshape(2, 2, 2, 2, *up.shape[2:]).sum((0, 2))  # a constant stays one
    np.testing.assert_allclose(phases, np.broadcast_to(phases[:1, :1], phases.shape), rtol=1e-4)
  elif upsampling == "subpixel":
    phases = up.reshape(*up.shape[:3], 4, -1)
    np.testing.assert_array_equal(phases, np.broadcast_to(phases[..., :1, :], phases.shape))
  torch.manual_seed(0)
  narrow = VQGAN(**options, kernel_init_std=0.02)
  assert float(narrow.stem.weight.detach().std()) == pytest.approx(0.02, rel=0.15)
