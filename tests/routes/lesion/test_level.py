"""Steps of a level beside PyTorch's, which computes in float64 with the same noise.

In float32 the gradient of a bias before a normalisation is rounding alone, of which Adam would make
whole steps; in float64 it is as good as nothing, and ours has none.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hiresmed_jax.ops.pyramid import lesion_pyramid
from hiresmed_jax.routes import settings, singan_level
from hiresmed_jax.routes import singan_task as task
from hiresmed_jax.routes.singan_level import Given, Players
from hiresmed_jax.runtime.optim import unpack
from tests.reference import singan as reference
from tests.reference.parity import images, quick_jit
from tests.reference.singan_weights import drawn, names_and_tensors, to_torch

SIDE, WIDTH, CHANNELS = 24, 12, 2  # levels of 12, 15, 17, 21 and 24 px
AMPLITUDES = (0.7, 0.4)  # a run begins with 1; 0.7 tells whether it is used
STEPS = 5  # after round(0.8 * 5) iterations the rate falls


@functools.cache
def config() -> Any:
  config = settings.values("lesion", "best")
  config.update(width=WIDTH, max_width=WIDTH)
  return config


class Case(NamedTuple):
  """A level of ours and its twin, on the same weights."""

  level: singan_level.Level
  players: Players
  given: Given
  twin: reference.Level
  optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]  # generator's, critic's


def case(number: int) -> Case:
  """Level 0 or 1; weights, images and running statistics are drawn."""
  level = task.make_level(SIDE, CHANNELS, number, config=config(), steps=STEPS, dtype=jnp.float32)
  sizes = [size[0] for size in level.pyramid.sizes]
  real = 0.5 * images((1, sizes[number], sizes[number], CHANNELS))
  image = jnp.zeros(real.shape)
  shapes = jax.eval_shape(lambda k: level.generators[-1].init(k, image, image, True), KEY)
  gens = [variables(shapes, 10 + n) for n in range(number + 1)]
  critic = drawn(jax.eval_shape(level.critic.init, KEY, image)["params"], 5)
  players = Players(
    gen=gens[-1],
    critic=critic,
    gen_opt=singan_level.optimiser_state(level.gen_tx, gens[-1]["params"]),
    critic_opt=singan_level.optimiser_state(level.critic_tx, critic),
  )
  fixed = images((sizes[0], sizes[0], 1), 4)
  levels, amplitudes = tuple(gens[:-1]), jnp.array(AMPLITUDES[: number + 1])
  below = singan_level.reconstruction_below(level, levels, amplitudes, fixed)
  rec_noise = np.zeros((1, *real.shape[1:3], 1), np.float32) if number else fixed[None]
  given = Given(real, levels, amplitudes, rec_noise, below)

  resize = reference.resizer(sizes, level.pyramid.ratio)
  twins: list[reference.Level] = []
  for n in range(number + 1):
    torch_real = (
      nchw(real) if n == number else torch.zeros(1, CHANNELS, sizes[n], sizes[n]).double()
    )
    twin = reference.Level([], torch_real, lambda x, n: resize(x.float(), n).double(), base=WIDTH)
    twin.below, twin.amp = list(twins), float(np.float32(AMPLITUDES[n]))
    fill(twin.generator, gens[n])
    twin.z_rec = nchw(fixed[None]).expand_as(torch_real) if n == 0 else torch.zeros_like(torch_real)
    if n < number:
      twin.freeze()
    twins.append(twin)
  twin = twins[-1]
  to_torch(critic, twin.critic)
  twin.critic.double()
  if number:
    twin.prev_rec = twin.resize(twins[-2].reconstruction(), number)
  optimisers = reference.adam(twin.generator), reference.adam(twin.critic)
  return Case(level, players, given, twin, optimisers)


KEY = jax.random.key(3)


def variables(shapes: Any, seed: int) -> Any:
  """A generator's, with running statistics that are not those of a new one."""
  stats = jax.tree.map(lambda x: 1.0 + 0.5 * np.abs(x), drawn(shapes["batch_stats"], seed))
  return {"params": drawn(shapes["params"], seed + 1), "batch_stats": stats}


def fill(twin: reference.Generator, ours: Any) -> None:
  to_torch(ours["params"], twin)
  for index in range(4):
    stats, norm = ours["batch_stats"]["body"][f"norm{index}"], twin.net[3 * index + 1]
    norm.running_mean.copy_(torch.tensor(stats["mean"]))
    norm.running_var.copy_(torch.tensor(stats["var"]))
  twin.double()


def nchw(array: Any) -> torch.Tensor:
  return torch.tensor(np.array(array).transpose(0, 3, 1, 2), dtype=torch.float64)


def assert_player(ours: Any, opt: Any, twin: Any, optimiser: Any, steps: int) -> None:
  """Parameters to 1e-4; moments to 1e-4 of their largest."""
  adam = opt[0]
  assert int(adam.count) == steps
  mean, square = unpack(adam.mu, ours), unpack(adam.nu, ours)
  for name, (tensor, value) in names_and_tensors(ours, twin).items():
    np.testing.assert_allclose(value, tensor.detach().numpy(), rtol=0, atol=1e-4, err_msg=name)
    assert optimiser.state[tensor]["step"] == steps
  for key, moment in (("exp_avg", mean), ("exp_avg_sq", square)):
    pairs = names_and_tensors(moment, twin)
    theirs = {name: optimiser.state[tensor][key].numpy() for name, (tensor, _) in pairs.items()}
    largest = max(np.abs(array).max() for array in theirs.values())
    assert largest > 0
    for name, (_, value) in pairs.items():
      atol = 1e-4 * max(np.abs(theirs[name]).max(), 1e-2 * largest)
      np.testing.assert_allclose(value, theirs[name], rtol=0, atol=atol, err_msg=f"{key} {name}")


def assert_statistics(ours: Any, twin: reference.Generator) -> None:
  for index in range(4):
    stats, norm = ours["batch_stats"]["body"][f"norm{index}"], twin.net[3 * index + 1]
    np.testing.assert_allclose(stats["mean"], norm.running_mean, atol=1e-5)
    np.testing.assert_allclose(stats["var"], norm.running_var, rtol=1e-5)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_step_of_the_critic(number):
  ours = case(number)
  fake = 0.5 * images(ours.given.real.shape, 8)
  step = quick_jit(functools.partial(singan_level.critic_step, ours.level))
  players, loss = step(ours.players, ours.given.real, fake, 0.3)
  twin = ours.twin
  expected = reference.critic_step(
    twin.critic, ours.optimisers[1], twin.real, nchw(fake), torch.tensor(0.3)
  )
  np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
  assert_player(players.critic, players.critic_opt, twin.critic, ours.optimisers[1], 1)
  jax.tree.map(np.testing.assert_array_equal, players.gen, ours.players.gen)


@pytest.mark.parametrize("number", [0, 1])
def test_a_step_of_the_generator(number):
  ours = case(number)
  shape = ours.given.real.shape
  z, below = images((*shape[:3], CHANNELS if number else 1), 8), 0.5 * number * images(shape, 9)
  step = quick_jit(functools.partial(singan_level.generator_step, ours.level))
  players, losses = step(ours.players, ours.given, z, below)
  twin = ours.twin
  expected = reference.generator_step(
    *(twin.generator, twin.critic, ours.optimisers[0], twin.real),
    *(nchw(z).expand_as(twin.real), nchw(below), twin.amp, twin.z_rec, twin.prev_rec),
  )
  np.testing.assert_allclose(losses, [value.item() for value in expected], rtol=1e-5)
  params = players.gen["params"]
  assert_player(params, players.gen_opt, twin.generator, ours.optimisers[0], 1)
  assert_statistics(players.gen, twin.generator)
  jax.tree.map(np.testing.assert_array_equal, players.critic, ours.players.critic)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_an_iteration(number, monkeypatch):
  ours, key = case(number), jax.random.key(7)
  level, twin = ours.level, ours.twin
  players, scalars = quick_jit(functools.partial(singan_level.iterate, level))(
    ours.players, ours.given, key
  )
  # The same noise for PyTorch: one for all steps, and for each of the critic's one from below.
  z = singan_level.noise(level, number, jax.random.fold_in(key, singan_level._NOISE))
  monkeypatch.setattr(twin, "noise", lambda: nchw(z[None]).expand_as(twin.real))
  keys = jax.random.split(jax.random.fold_in(key, singan_level._BELOW), 3)
  if number:
    coarsest = twin.below[0]
    drawn_below = iter([singan_level.noise(level, 0, jax.random.fold_in(k, 0)) for k in keys])
    monkeypatch.setattr(
      coarsest, "noise", lambda: nchw(next(drawn_below)[None]).expand_as(coarsest.real)
    )
  between = jax.random.fold_in(key, singan_level._BETWEEN)
  mixtures = iter(np.array(jax.random.uniform(between, (3,))))
  monkeypatch.setattr(torch, "rand", lambda shape: torch.tensor(float(next(mixtures))))
  losses: dict[str, list[float]] = {"critic": [], "adversarial": [], "reconstruction": []}
  listen(monkeypatch, "critic_step", lambda made: losses["critic"].append(made.item()))

  def hear_generator(made):
    losses["adversarial"].append(made[0].item())
    losses["reconstruction"].append(made[1].item())

  listen(monkeypatch, "generator_step", hear_generator)
  twin.step(*ours.optimisers)
  assert [len(values) for values in losses.values()] == [3, 3, 3]
  # Evaluated anew, the generator is a better one at every step.
  assert losses["reconstruction"] == sorted(losses["reconstruction"], reverse=True)
  for name, values in losses.items():
    np.testing.assert_allclose(scalars[name], np.mean(values), rtol=1e-4, atol=1e-4, err_msg=name)
  assert_player(players.critic, players.critic_opt, twin.critic, ours.optimisers[1], 3)
  params = players.gen["params"]
  assert_player(params, players.gen_opt, twin.generator, ours.optimisers[0], 3)
  assert_statistics(players.gen, twin.generator)  # 3 fakes, then 3 times a fake and the lesion


def listen(monkeypatch: pytest.MonkeyPatch, name: str, hear: Any) -> None:
  whole = getattr(reference, name)

  def heard(*arguments: Any, **options: Any) -> Any:
    made = whole(*arguments, **options)
    hear(made)
    return made

  monkeypatch.setattr(reference, name, heard)


def test_what_stays_the_same_at_a_level_above_another():
  ours = case(1)
  np.testing.assert_allclose(
    ours.given.rec_below, ours.twin.prev_rec.permute(0, 2, 3, 1), rtol=0, atol=1e-5
  )
  made = singan_level.reconstruct(ours.level, ours.players.gen, ours.given)
  ours.twin.freeze()
  right = ours.twin.reconstruction().permute(0, 2, 3, 1)
  np.testing.assert_allclose(made, right, rtol=0, atol=1e-5)


def test_the_next_level_begins_as_published():
  """Its amplitude is a tenth of the error of what is below; its weights are those of the last."""
  ours = case(0)
  crop = 0.5 * images((SIDE, SIDE, CHANNELS), 6)
  state = task.State(
    step=jnp.int32(STEPS),
    levels=(),
    amplitudes=jnp.array([AMPLITUDES[:1]]),
    fixed=ours.given.rec_noise,
    players=jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], ours.players),
    skipped=jnp.zeros((1, 2), jnp.int32),
    keys=KEY[None],
  )
  make = functools.partial(task.make_level, config=config(), steps=STEPS, dtype=jnp.float32)
  begin = quick_jit(functools.partial(task._next_level, make=make))
  after = begin(state, {"images_m11": crop[None], "weight": np.ones(1)})
  pyramid = lesion_pyramid(SIDE)
  real = reference.resize_matrix(SIDE, pyramid.sizes[1][0], pyramid.ratio**3)
  real = np.einsum("rh,hwc,sw->rsc", real, crop, real)
  ours.twin.freeze()
  made = singan_level.reconstruct(ours.level, ours.players.gen, ours.given)
  right = ours.twin.reconstruction().permute(0, 2, 3, 1)
  np.testing.assert_allclose(made, right, rtol=0, atol=1e-5)
  below = ours.twin.resize(ours.twin.reconstruction(), 1).permute(0, 2, 3, 1).numpy()
  expected = 0.1 * np.sqrt(np.mean((real - below) ** 2))
  np.testing.assert_allclose(after.amplitudes, [[AMPLITUDES[0], expected]], rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, after.levels[0], state.players.gen)
  jax.tree.map(np.testing.assert_array_equal, after.players.gen, state.players.gen)
  jax.tree.map(np.testing.assert_array_equal, after.players.critic, state.players.critic)
  assert int(after.step) == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.players.gen_opt))


def test_the_rate_falls_to_a_tenth_after_four_fifths():
  level = task.make_level(SIDE, CHANNELS, 0, config=config(), steps=STEPS, dtype=jnp.float32)
  for tx, updates in ((level.gen_tx, level.gen_steps), (level.critic_tx, level.critic_steps)):
    state, rates = tx.init(jnp.zeros(())), []
    for _ in range(STEPS * updates):
      update, state = tx.update(jnp.ones(()), state)  # Adam moves by the rate
      rates.append(-float(update))
    expected = [5e-4] * (4 * updates) + [5e-5] * updates
    np.testing.assert_allclose(rates, expected, rtol=1e-4)
