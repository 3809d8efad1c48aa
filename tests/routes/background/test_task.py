"""The contract of the step: the same on any mesh, and nothing but what it says is changed."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hiresmed_jax.routes import settings
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import optim
from tests import tiny, tiny_run
from tests.reference.background_loss import adaptive_ratio, whole_loss

# Its programs are compiled once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tiny run")]
LOSSES = "reconstruction commitment codebook entropy gan_generator gan_discriminator".split()
EPOCH = 3  # batches that differ


class Run(NamedTuple):
  states: list[Any]  # before each step and after the last, on the host
  history: list[dict[str, float]]


def run(task, steps, *, data=1, fsdp=1, start=0, broken=(), size=tiny.CROP) -> Run:
  """Steps from the beginning; `start`: number of the first one; `broken`: those whose batch is."""
  program = tiny_run.programs(task, data, fsdp, size)
  state = tiny_run.begin(task, program)
  state = state.replace(step=jax.device_put(jnp.int32(start), state.step.sharding))
  states, history = [host(state)], []
  for number in range(start, start + steps):
    given = tiny_run.batch(program, number, broken=number in broken, size=size)
    state, scalars = program.step(state, given, program.frozen)
    states.append(host(state))
    history.append({name: float(value) for name, value in scalars.items()})
  return Run(states, history)


def host(state: Any) -> Any:
  """Copies as numpy, for a step consumes its state."""
  return jax.tree.map(np.array, state.replace(key=jax.random.key_data(state.key)))


def assert_same(a: Any, b: Any) -> None:
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def assert_close(a: list[dict[str, float]], b: list[dict[str, float]], tolerance: float) -> None:
  for step, (one, other) in enumerate(zip(a, b, strict=True)):
    assert one.keys() == other.keys()
    for name in one:
      difference = abs(one[name] - other[name]) / max(1.0, abs(one[name]))
      assert difference <= tolerance, (step, name, one[name], other[name])


def codebook_moments(opt_state: Any) -> list[np.ndarray]:
  """Everything that an optimiser keeps for the codebook: f32[K, D] each."""
  paths = jax.tree_util.tree_leaves_with_path(opt_state)
  return [leaf for path, leaf in paths if "codebook" in jax.tree_util.keystr(path)]


@pytest.fixture(scope="module")
def ten() -> Run:
  return run(tiny_run.task(), tiny.STEPS)


def test_the_losses_fall_and_are_all_there(ten):
  named = {"reconstruction", "commitment", "codebook", "entropy", "gan_generator"}
  named |= {"gan_discriminator", "gan_weight", "gradient_norm", "revived", "skipped"}
  named |= {"skipped_in_a_row", "code_usage", "code_perplexity"}
  assert all(scalars.keys() == named for scalars in ten.history)
  assert np.isfinite([list(scalars.values()) for scalars in ten.history]).all()
  # Means of whole epochs: batches differ. The discriminator's starts at chance, which is one.
  history = run(tiny_run.task(), 12 * EPOCH).history
  first, last = history[:EPOCH], history[-EPOCH:]
  for name, share in (("reconstruction", 0.75), ("codebook", 0.6), ("gan_discriminator", 0.95)):
    before, after = (np.mean([scalars[name] for scalars in rows]) for rows in (first, last))
    assert after < share * before, name


def test_eight_devices_make_the_steps_of_one(ten):
  assert sum(scalars["revived"] for scalars in ten.history[:5]) > 0
  assert_close(ten.history, run(tiny_run.task(), tiny.STEPS, data=8).history, 1e-5)


@pytest.fixture
def shards_at_64(monkeypatch):
  """Makes leaves of 64 numbers large enough to be split."""
  monkeypatch.setattr(meshes, "MIN_SHARDED_ELEMENTS", 64)
  monkeypatch.setattr(optim, "MIN_SHARDED_ELEMENTS", 64)


def test_parameters_split_over_two_devices_make_the_steps_of_one(ten, shards_at_64):
  task = tiny_run.task(("ema", 0.9))  # a task of its own: the rule is read while tracing
  program = tiny_run.programs(task, 4, 2)
  state = tiny_run.begin(task, program)
  split = [leaf for leaf in jax.tree.leaves(state) if not leaf.is_fully_replicated]
  assert len(split) > 20
  assert all(leaf.addressable_shards[0].data.size * 2 == leaf.size for leaf in split)
  assert_close(ten.history, run(task, tiny.STEPS, data=4, fsdp=2).history, 1e-5)


def test_eight_devices_make_the_steps_of_one_in_bfloat16():
  # Weights that differ in the last bit of float32 may differ in the last of bfloat16: a loss is as
  # sure as the mean of many pixels.
  task = tiny_run.task(("optimizer.learning_rate", 1e-4), dtype=jnp.bfloat16)
  one, eight = (run(task, 5, data=data, size=64).history for data in (1, 8))
  assert sum(scalars["revived"] for scalars in one) > 0
  losses = [[{name: row[name] for name in LOSSES} for row in rows] for rows in (one, eight)]
  assert_close(*losses, 5e-3)


def test_the_state_is_donated_and_stays_float32():
  program = tiny_run.programs(tiny_run.task())
  held = program.step.memory_analysis()
  assert held.alias_size_in_bytes > 0
  # Keys and counters besides, all of the state is made in the place of the old one.
  sizes = [x.size * 4 for x in jax.tree.leaves(program.abstract_state) if x.dtype == jnp.float32]
  assert held.alias_size_in_bytes >= sum(sizes)
  kinds = {x.dtype for x in jax.tree.leaves(program.abstract_state)}
  assert {str(kind) for kind in kinds} == {"float32", "int32", "key<fry>"}


def test_one_backward_pass_gives_the_gradients_of_the_whole_loss():
  start = 6  # the generator feels the discriminator in full; nothing is revived
  task = tiny_run.task()
  states, history = run(task, 2, start=start)
  assert [scalars["gan_weight"] for scalars in history] == pytest.approx([0.1, 0.1])
  config = tiny.get_config("background").background
  net, disc = background.networks(config, channels=1, dtype=jnp.float32)
  loss = functools.partial(whole_loss, net=net, disc=disc, config=config)
  both = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=tiny_run.quick())
  expected = []
  for number in (start, start + 1):
    images = tiny_run.batch(tiny_run.programs(task), number)["images_m11"]
    keys = step_keys(states[0], number)
    expected.append(both(states[0].gen, states[0].disc, images, keys, 0.1))
  for player, state in ((0, states[1].gen_opt), (1, states[1].disc_opt)):
    assert_gradients(state.acc_grads, pack(expected[0][player]))
  # Two micro-batches: Adam's first moment holds their mean, clipped.
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *(pack(grads[0]) for grads in expected))
  clipped, _ = optax.clip_by_global_norm(1.0).update(mean, optax.EmptyState())
  assert optax.tree.norm(mean) > 1.0
  moment = optax.tree.get(states[2].gen_opt.inner_opt_state, "mu")
  assert_gradients(moment, jax.tree.map(lambda g: 0.5 * g, clipped))


def test_the_adaptive_weight_balances_the_gradients_at_the_last_convolution():
  def distance(weights, prediction, target):
    return jnp.sum(weights["scale"] * (prediction - target) ** 2, axis=(1, 2, 3))

  config = tiny.get_config("background").background
  config.gan.update({"adaptive": True, "adaptive_cap": 1e4})
  weights = {"scale": np.float32(0.01)}
  task = background.build(
    config, channels=1, size=(16, 16), steps=tiny.STEPS, steps_per_epoch=2,
    distance=distance, distance_params=weights,
  )  # fmt: skip
  states, history = run(task, 1, start=6)
  net, disc = background.networks(config, channels=1, dtype=jnp.float32)
  ratio = functools.partial(
    adaptive_ratio,
    net=net,
    disc=disc,
    config=config,
    distance=functools.partial(distance, weights),
  )
  images = tiny_run.batch(tiny_run.programs(task), 6)["images_m11"]
  keys = step_keys(states[0], 6)
  found = jax.jit(ratio, compiler_options=tiny_run.quick())(
    states[0].gen, states[0].disc, images, keys
  )
  assert 1e-3 < found < 1e4
  assert history[0]["gan_weight"] == pytest.approx(0.1 * float(found), rel=1e-4)
  assert history[0]["perceptual"] > 0


def step_keys(state, number):
  """What the step draws its DropPath and its DiffAugment from."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
  return [jax.random.fold_in(key, use) for use in (0, 1)]


def pack(tree):
  return optim.pack(tree, apart=("codebook",))


def assert_gradients(found: Any, expected: Any) -> None:
  assert found.keys() == expected.keys()
  for name in expected:
    scale = np.abs(expected[name]).max()
    assert scale > 1e-4, name
    # Processors add up in other orders: 1.3e-5 of the largest was seen.
    np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=3e-5 * scale, err_msg=name)


def test_parameters_move_on_every_second_micro_batch(ten):
  for number, (before, after) in enumerate(zip(ten.states, ten.states[1:])):
    for name in ("kernel", "other"):
      moved = not np.array_equal(pack(before.gen)[name], pack(after.gen)[name])
      assert moved == (number % 2 == 1), (number, name)


def test_the_discriminator_waits_and_the_generator_waits_longer(ten):
  weights = [scalars["gan_weight"] for scalars in ten.history]
  np.testing.assert_allclose(weights, [0, 0, 0, 0, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)
  for number in range(tiny.GAN_START):
    assert_same(ten.states[number + 1].disc, ten.states[0].disc)
    assert_same(ten.states[number + 1].disc_opt, ten.states[0].disc_opt)
  # It is two micro-batches from its start until it moves.
  after = pack(ten.states[tiny.GAN_START + 2].disc)
  assert not np.array_equal(after["kernel"], pack(ten.states[0].disc)["kernel"])


def rates(tx, updates):
  """What Adam makes of a gradient that stays the same: the learning rate of every update."""

  def update(state, _):
    moved, state = tx.update({"kernel": jnp.ones(())}, state, {"kernel": jnp.zeros(())})
    return state, -moved["kernel"]

  return jax.lax.scan(update, tx.init({"kernel": jnp.zeros(())}), None, length=updates)[1]


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_both_schedules_end_with_the_run(preset):
  config, steps = settings.values("background", preset), 1000
  start, peak = round(config.gan.start * steps), config.optimizer.learning_rate
  gen, disc = background.optimizers(config, steps)
  of_gen, of_disc = rates(gen, steps), rates(disc, steps - start)
  if preset == "paper":
    assert_same(of_disc, of_gen[: steps - start])
    return
  for found in (of_gen, of_disc):
    assert found.max() == pytest.approx(peak, rel=1e-3)
    assert np.argmax(found) == pytest.approx(config.optimizer.warmup * len(found), abs=1)
    assert 0 < found[-1] < 1e-4 * peak


def test_a_revived_code_begins_anew(ten):
  revivals = [i for i, scalars in enumerate(ten.history) if scalars["revived"]]
  assert revivals == [2, 5, 8]
  for number in revivals:  # in mid-accumulation, and just after an update
    before, after = ten.states[number], ten.states[number + 1]
    new = after.usage == np.float32(1 / tiny.CODES)
    assert 0 < new.sum() == ten.history[number]["revived"] < tiny.CODES
    np.testing.assert_array_equal(after.ema["codebook"][new], after.gen["codebook"][new])
    np.testing.assert_allclose(np.linalg.norm(after.gen["codebook"][new], axis=-1), 1, rtol=1e-6)
    assert np.all(after.gen["codebook"][new] != before.gen["codebook"][new])
    kept = codebook_moments(after.gen_opt)
    assert len(kept) == 3  # two moments and the accumulator
    for moment in kept:
      np.testing.assert_array_equal(moment[new], 0)
      assert np.any(moment[~new]) or number == 5
    # The others: what they had, moved by the optimiser at most.
    np.testing.assert_allclose(after.gen["codebook"][~new], before.gen["codebook"][~new], atol=5e-3)


def test_a_batch_that_is_not_finite_leaves_no_trace_but_a_count(ten):
  found = run(tiny_run.task(), 7, broken=(3, 4))
  assert_same(found.states[3], ten.states[3])
  for after in found.states[4:6]:
    for name in ("gen", "disc", "gen_opt", "disc_opt", "usage"):
      assert_same(getattr(after, name), getattr(ten.states[3], name))
    assert np.isfinite(after.ema["kernel"]).all()
    assert np.isfinite(after.counts).all()
  assert [int(s.step) for s in found.states] == list(range(8))
  rows = [(s["skipped"], s["skipped_in_a_row"]) for s in found.history]
  assert rows == [(0, 0), (0, 0), (0, 0), (1, 1), (2, 2), (2, 0), (2, 0)]
  assert np.isnan(found.history[3]["reconstruction"])
  moved = pack(found.states[6].gen)["kernel"] != pack(ten.states[3].gen)["kernel"]
  assert moved.mean() > 0.9  # the accumulator still had its first half


def test_the_average_follows_the_weights(ten):
  decay = [min(0.9, (1 + step) / (10 + step)) for step in range(tiny.STEPS)]
  average = pack(ten.states[0].gen)["kernel"]
  for kept, state in zip(decay, ten.states[1:]):
    average = kept * average + (1 - kept) * np.asarray(pack(state.gen)["kernel"])
  np.testing.assert_allclose(ten.states[-1].ema["kernel"], average, atol=1e-6)


def test_code_counts_are_of_the_last_whole_epoch(ten):
  positions = tiny.BATCH * (tiny.CROP // 4) ** 2
  sums = [state.counts.sum(axis=1).tolist() for state in ten.states]
  assert sums[:5] == [
    [0, 0],
    [positions, 0],
    [2 * positions, 0],
    [positions, 2 * positions],
    [2 * positions, 2 * positions],
  ]


def test_the_codebook_begins_as_centres_of_latents():
  task = tiny_run.task()
  program = tiny_run.programs(task)
  state = tiny_run.begin(task, program)
  batches = [tiny_run.batch(program, number) for number in range(3)]
  net, _ = background.networks(tiny.get_config().background, channels=1, dtype=jnp.float32)

  def start(state, batches):
    images = jnp.concatenate([batch["images_m11"] for batch in batches])
    latents = net.apply({"params": state.gen["net"]}, images, method="encode")
    return task.warm_start(state, batches, {}), latents

  warm, latents = jax.jit(start, compiler_options=tiny_run.quick())(state, batches)
  codes = np.asarray(warm.gen["codebook"])
  np.testing.assert_allclose(np.linalg.norm(codes, axis=-1), 1, rtol=1e-5)
  np.testing.assert_array_equal(codes, warm.ema["codebook"])
  assert_same(warm.gen["net"], state.gen["net"])
  unit = np.reshape(latents, (-1, codes.shape[-1]))
  unit /= np.linalg.norm(unit, axis=-1, keepdims=True)

  def distance(codes):
    """Mean squared distance of a latent to the nearest code."""
    return np.mean(2 - 2 * np.max(unit @ codes.T, axis=-1))

  assert distance(codes) < 0.5 * distance(np.asarray(state.gen["codebook"]))
  # Every code is the mean of the latents that are nearest to it.
  nearest = np.argmax(unit @ codes.T, axis=-1)
  means = np.stack([unit[nearest == code].mean(axis=0) for code in range(tiny.CODES)])
  means /= np.linalg.norm(means, axis=-1, keepdims=True)
  assert np.sum(means * codes, axis=-1).min() > 0.99


def evaluation(program, **changes):
  arrays = {k: v for k, v in tiny_run.val_batches()[0].items() if k != "boxes"} | changes
  return meshes.put_batch(arrays, program.batch_sharding)


def test_what_fills_a_batch_up_does_not_count():
  task = tiny_run.task()
  program = tiny_run.programs(task)
  state = tiny_run.begin(task, program)
  given = tiny_run.val_batches()[0]["images_m11"].copy()
  first, pictures = program.evaluate(state, evaluation(program), {})
  given[5:] = -0.3
  second, _ = program.evaluate(state, evaluation(program, images_m11=given), {})
  assert task.summarise(jax.device_get(first)) == task.summarise(jax.device_get(second))
  error = np.clip(pictures[:5], -1, 1) - given[:5]
  numbers = task.summarise(jax.device_get(first))
  assert numbers["l1"] == pytest.approx(np.abs(error).mean() / 2, rel=1e-5)
  psnr = 10 * np.log10(4 / np.square(error).mean(axis=(1, 2, 3)))
  assert numbers["psnr"] == pytest.approx(psnr.mean(), rel=1e-5)


def test_the_padding_of_an_image_does_not_count():
  task = tiny_run.task()
  program = tiny_run.programs(task)
  state = tiny_run.begin(task, program)
  valid = np.zeros((tiny.BATCH, 32, 32), bool)
  valid[:, 4:20] = True
  totals, pictures = program.evaluate(state, evaluation(program, valid=valid), {})
  error = np.asarray(pictures[:5]) - tiny_run.val_batches()[0]["images_m11"][:5]
  numbers = task.summarise(jax.device_get(totals))
  assert numbers["l1"] == pytest.approx(np.abs(error[:, 4:20]).mean() / 2, rel=1e-5)


def test_the_evaluation_uses_the_averaged_weights():
  task = tiny_run.task()
  program = tiny_run.programs(task)
  state = tiny_run.begin(task, program)
  _, before = program.evaluate(state, evaluation(program), {})
  before = np.array(before)
  zeroed = state.replace(gen=jax.tree.map(jnp.zeros_like, state.gen))
  _, after = program.evaluate(zeroed, evaluation(program), {})
  np.testing.assert_array_equal(before, after)


PLAIN = (("gan.weight", 0.0), ("net.block", "residual"), ("optimizer.accumulate", 1), ("ema", 0.0))


def test_a_grey_batch_is_three_equal_channels():
  task = tiny_run.task(*PLAIN, channels=3)
  step = jax.jit(task.train_step, compiler_options=tiny_run.quick())
  state = jax.jit(task.init, compiler_options=tiny_run.quick())(jax.random.key(0))
  grey = tiny_run.images(4)
  # Losses and the gradients' norm: the first update of Adam makes steps of what is only rounding,
  # and the two are different programs.
  _, one = step(state, {"images_m11": grey}, {})
  _, three = step(state, {"images_m11": np.repeat(grey, 3, axis=-1)}, {})
  for name, value in one.items():
    assert float(value) == pytest.approx(float(three[name]), rel=1e-5, abs=1e-6), name


def test_without_a_discriminator_or_an_average_there_is_none_in_the_state():
  task = tiny_run.task(*PLAIN)
  state = jax.eval_shape(task.init, jax.random.key(0))
  assert (state.disc, state.ema) == ({}, {})
  assert all(x.shape == () for x in jax.tree.leaves(state.disc_opt))
