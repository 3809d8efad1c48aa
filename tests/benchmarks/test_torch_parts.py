"""The small parts of the PyTorch baseline: LPIPS, optimiser, codebook, augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from benchmarks.torch_baseline import diffaugment, lpips, optim, quantizer
from hiresmed_jax.convert import features
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import optim as ours
from tests.reference.parity import quick_jit


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  """Tiny tensors: more threads only wait for each other."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.slow
def test_lpips_equals_ours(tmp_path):
  rng = np.random.default_rng(0)
  weights = {
    name: (
      rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
      if len(shape) > 1
      else rng.uniform(0, 0.1, shape)
    ).astype(np.float32)
    for name, shape in features.layout("vgg16").items()
  }
  np.savez(features.cache_path("vgg16", tmp_path), **weights)
  distance, params = features.load_perceptual("vgg16", folder=tmp_path)
  a, b = draw(2, 16, 16, 1), draw(2, 16, 16, 1, seed=1)

  def loss(a):
    values = distance(params, a, b)
    return jnp.sum(values * jnp.array([1.0, 2.0])), values

  gradient, values = quick_jit(jax.grad(loss, has_aux=True))(a)
  network = lpips.load("vgg16", folder=tmp_path)
  assert not any(p.requires_grad for p in network.parameters())
  left, right = (torch.tensor(x.transpose(0, 3, 1, 2).copy()) for x in (a, b))
  left.requires_grad_()
  found = network(left, right)
  (found * torch.tensor([1.0, 2.0])).sum().backward()
  np.testing.assert_allclose(found.detach(), values, rtol=1e-4)
  np.testing.assert_allclose(
    left.grad.permute(0, 2, 3, 1), gradient, atol=1e-3 * np.abs(gradient).max()
  )
  np.testing.assert_array_equal(network(right, right), 0.0)
  low = lpips.load("vgg16", folder=tmp_path, dtype=torch.bfloat16)(left, right)
  assert low.dtype == torch.float32
  np.testing.assert_allclose(low.detach(), values, rtol=0.05)


def test_lpips_without_weights_is_named(tmp_path):
  with pytest.raises(UserError, match="weights fetch vgg16"):
    lpips.load("vgg16", folder=tmp_path)
  with pytest.raises(UserError, match="use vgg16"):
    lpips.load("alexnet", folder=tmp_path)


@pytest.mark.parametrize(
  ("accumulate", "schedule", "warmup", "clip", "decay"),
  [(1, "constant", 3, 0.0, 0.0), (2, "cosine", 2, 0.5, 0.1)],
)
def test_updates_equal_ours(accumulate, schedule, warmup, clip, decay):
  steps = 9
  tree = {"kernel": draw(3, 3, 2, 4), "bias": draw(4), "scale": draw(4, seed=1)}
  tx = ours.make_optimizer(
    name="adamw",
    learning_rate=0.1,
    b1=0.5,
    b2=0.9,
    eps=1e-3,
    weight_decay=decay,
    schedule=schedule,
    warmup_steps=warmup,
    total_steps=steps,
    clip=clip or None,
    accumulate=accumulate,
  )
  module = torch.nn.Module()
  for name, value in tree.items():
    module.register_parameter(name, torch.nn.Parameter(torch.tensor(value)))
  rate = optim.schedule(schedule, 0.1, warmup=warmup // accumulate, total=steps // accumulate)
  updates = optim.Updates(
    module,
    rate,
    betas=(0.5, 0.9),
    eps=1e-3,
    weight_decay=decay,
    clip=clip,
    accumulate=accumulate,
  )
  params, state = tree, tx.init(tree)

  @quick_jit
  def move(gradients, state, params):
    moves, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, moves), state

  for step in range(steps):
    gradients = {name: draw(*np.shape(v), seed=10 + step) for name, v in tree.items()}
    params, state = move(gradients, state, params)
    for name, parameter in module.named_parameters():
      gradient = torch.tensor(gradients[name])
      parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    updates.step()
    for name, parameter in module.named_parameters():
      np.testing.assert_allclose(
        params[name], parameter.detach(), rtol=1e-5, atol=1e-6, err_msg=f"{name}, step {step}"
      )
  assert all(p.grad is None for p in module.parameters()) == (steps % accumulate == 0)


def test_schedules_are_those_of_ours():
  for name, warmup in (("constant", 0), ("constant", 4), ("cosine", 0), ("cosine", 4)):
    rate = optim.schedule(name, 0.3, warmup=warmup, total=20)
    expected = ours.make_schedule(
      learning_rate=0.3, schedule=name, warmup_steps=warmup, total_steps=20
    )
    for update in (0, 1, 3, 4, 5, 11, 19, 20, 30):
      assert rate(update) == pytest.approx(float(expected(update)), rel=1e-5, abs=1e-8)
  with pytest.raises(ValueError, match="constant or cosine"):
    optim.schedule("step", 0.1, warmup=0, total=1)


def test_the_average_is_that_of_ours():
  start, now = draw(3), draw(3, seed=1)
  for step in (0, 5, 10_000):
    ema = [torch.tensor(start)]
    optim.ema_update(ema, [torch.tensor(now)], 0.99, step)
    np.testing.assert_allclose(ema[0], ours.ema_update(start, now, 0.99, step), rtol=1e-6)


def test_codes_by_distance():
  latents, codebook = draw(2, 3, 4, 5), draw(7, 5, seed=1)
  left = torch.tensor(latents, requires_grad=True)
  right = torch.tensor(codebook, requires_grad=True)
  codes, indices, chosen = quantizer.quantize_by_distance(left, right)
  distance = ((latents[..., None, :] - codebook) ** 2).sum(-1)
  np.testing.assert_array_equal(indices, distance.argmin(-1))
  torch.testing.assert_close(codes, chosen)
  weights = torch.tensor(draw(2, 3, 4, 5, seed=2))
  (codes * weights).sum().backward(retain_graph=True)
  torch.testing.assert_close(left.grad, weights)  # straight through
  assert right.grad is None
  (chosen * weights).sum().backward()
  expected = torch.zeros(7, 5).index_add_(0, indices.flatten(), weights.flatten(0, -2))
  torch.testing.assert_close(right.grad, expected)


@pytest.mark.parametrize("num_latents", [50, 5])
def test_codes_are_revived_from_distinct_latents(num_latents):
  torch.manual_seed(0)
  codebook, latents = torch.tensor(draw(12, 4)), torch.tensor(draw(num_latents, 4, seed=1))
  usage = torch.tensor([0.0, 1.0] * 6)
  fresh, revived = quantizer.revive(codebook, usage, latents, 0.5)
  assert torch.equal(revived, usage == 0)
  assert torch.equal(fresh[~revived], codebook[~revived])
  match = (fresh[revived][:, None] - quantizer.unit(latents)).abs().amax(-1)
  assert match.amin(1).max() < 1e-6
  assert match.argmin(1).unique().numel() >= min(6, num_latents - 1)
  counts = quantizer.code_counts(torch.tensor([[0, 3, 3], [1, 3, 0]]), 5)
  assert counts.tolist() == [2, 1, 0, 3, 0]


def test_kmeans_finds_clusters():
  torch.manual_seed(0)
  centres = quantizer.unit(torch.randn(8, 16))
  latents = centres.repeat_interleave(25, 0) * 3 + 0.05 * torch.randn(200, 16)
  found = quantizer.kmeans(latents, 24)
  assert (found @ centres.T).amax(0).min() > 0.999
  torch.testing.assert_close(found.norm(dim=1), torch.ones(24))


def test_augmentation_is_drawn_once_for_all_that_it_is_made_to():
  torch.manual_seed(0)
  images = torch.tensor(draw(6, 3, 16, 24))
  see = diffaugment.draw(images, ("color", "translation", "cutout"))
  assert torch.equal(see(images), see(images))
  assert see(images).shape == images.shape
  assert not torch.equal(diffaugment.draw(images, ("color",))(images), see(images))
  assert diffaugment.draw(images, ())(images) is images
  x = images.clone().requires_grad_()
  diffaugment.draw(images, ("translation", "cutout"))(x).sum().backward()
  assert 0 < (x.grad == 0).float().mean() < 1


def test_color_keeps_the_shape_of_grey_images():
  torch.manual_seed(0)
  images = torch.tensor(draw(200, 1, 8, 8))
  seen = diffaugment.draw(images, ("color",))(images)
  slope = seen.std((1, 2, 3)) / images.std((1, 2, 3))
  assert slope.min() >= 0.5 - 1e-4
  assert slope.max() <= 1.5 + 1e-4
  moved = seen.mean((1, 2, 3)) - images.mean((1, 2, 3))
  assert moved.abs().max() <= 0.5
  assert moved.abs().mean() == pytest.approx(0.25, abs=0.03)
  flat = (seen - seen.mean((1, 2, 3), keepdim=True)) / slope[:, None, None, None]
  torch.testing.assert_close(flat, images - images.mean((1, 2, 3), keepdim=True))
  colored = torch.tensor(draw(200, 3, 4, 4))
  spread = lambda x: (x - x.mean(1, keepdim=True)).std((1, 2, 3))  # noqa: E731
  seen = diffaugment.draw(colored, ("color",))(colored)
  assert (spread(seen) / spread(colored)).max() > 1.6


def test_translation_moves_whole_pixels():
  torch.manual_seed(0)
  images = torch.tensor(draw(300, 1, 16, 24)) + 2
  seen = diffaugment.draw(images, ("translation",))(images)
  padded = torch.nn.functional.pad(images, (3, 3, 2, 2))
  shifts = set()
  for one, wide in zip(seen, padded, strict=True):
    places = [
      (row, column)
      for row in range(5)
      for column in range(7)
      if torch.equal(one, wide[:, row : row + 16, column : column + 24])
    ]
    assert len(places) == 1
    shifts.add(places[0])
  assert len(shifts) == 35


@pytest.mark.parametrize("side", [8, 10])
def test_cutout_zeroes_a_square_of_half_the_side(side):
  torch.manual_seed(0)
  images = torch.ones(400, 2, side, side)
  hole = diffaugment.draw(images, ("cutout",))(images)[:, 0] == 0
  rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
  assert torch.equal(hole.sum((1, 2)), rows * columns)
  assert rows.max() == columns.max() == side // 2
  assert hole.any(0).all()
