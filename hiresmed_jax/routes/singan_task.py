"""One SinGAN for every lesion of the route `lesion`, all lesions of one window size at once.

The baseline `singan` trains whole images in the place of lesions; "lesion" below stands for both.

A phase is a level of the pyramid. Finished levels are frozen and used with their running
statistics; the level that trains begins with the weights of the one below where the widths agree.
Every lesion draws from a key of its own, so that it is the same lesion in any company.

L lesions, S side of a window, s of a level, C channels (of a lesion the last of them is the soft
mask); all in [-1, 1]. Source: Shaham et al. 2019 (SinGAN), section 2 and its code.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from hiresmed_jax.nets import singan
from hiresmed_jax.ops import pyramid as pyramids
from hiresmed_jax.routes import singan_level
from hiresmed_jax.routes.singan_level import Given, Level, Players
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import optim
from hiresmed_jax.types import Array, Batch, Metrics, Params

SAMPLES = 3  # in the pictures of an evaluation
_NOISE_SHARE = 0.1  # amplitude of the noise over the error of what the levels below make
_FIRST, _FIXED, _SHOWN = range(1 << 20, (1 << 20) + 3)  # beside the numbers of levels, in keys

MakeLevel = Callable[[int, int, int], Level]  # (side, channels, number)


@flax.struct.dataclass
class State:
  """All that a resumed run needs; every array but the step begins with the axis of lesions.

  Attributes:
    step: i32[], of this level.
    levels: finished ones, coarse first: {"params", "batch_stats"} of their generators.
    amplitudes: f32[L, len(levels) + 1], of the noise.
    fixed: f32[L, h, w, 1], the coarsest level's noise that must give the lesion back.
    players: the level that trains.
    skipped: i32[L, 2], iterations left out as not finite: in all, and in a row.
    keys: key[L].
    done: finished lesions of other window sizes: (levels, amplitudes, fixed) each.
  """

  step: Array
  levels: tuple[Params, ...]
  amplitudes: Array
  fixed: Array
  players: Players
  skipped: Array
  keys: Array
  done: tuple[Any, ...] = ()


def build(
  config: Any,
  crops: Sequence[np.ndarray],
  weights: Sequence[np.ndarray],
  *,
  steps: int,
  steps_per_call: int,
  mesh: Mesh,
  at_once: int = 0,
  dtype: Any = jnp.float32,
  name: str = "lesion",
) -> Task:
  """Makes the task from the values of a route's settings.

  Args:
    config: nested values, read here and never handed to a network.
    crops: f32[L, S, S, C] for every window size, in [-1, 1]; the devices divide L.
    weights: f32[L] for each, 0 where a lesion only fills the devices up.
    steps: of every level.
    steps_per_call: at most so many of them in one call of the compiled loop.
    mesh: whose devices share the lesions.
    at_once: lesions that a device computes side by side, while its others wait; 0: all.
    dtype: of the convolutions; parameters, statistics and losses stay float32.
    name: of the route.
  """
  make = functools.partial(make_level, config=config, steps=steps, dtype=dtype)
  most_steps = min(steps, steps_per_call)
  phases: list[Phase] = []
  for number, (windows, weight) in enumerate(zip(crops, weights, strict=True)):
    side = windows.shape[1]
    levels = pyramid_of(config, side)
    for level, (size, _) in enumerate(levels.sizes):
      begin: Callable[[State, Batch], State] | None = None
      if level:
        begin = functools.partial(_next_level, make=make)
      elif number:
        begin = functools.partial(_next_size, make=make)
      phases.append(
        Phase(
          f"{name}s of {side} px, level {level + 1} of {len(levels.sizes)} ({size} px)",
          steps,
          len(windows),
          most_steps=most_steps,
          begin=begin,
          batch={"images_m11": windows, "weight": weight},
        )
      )
  train = functools.partial(_train, make=make, most_steps=most_steps, mesh=mesh, at_once=at_once)
  return Task(
    name=name,
    phases=tuple(phases),
    init=functools.partial(_init, shape=crops[0].shape, make=make),
    train_step=train,
    eval_step=functools.partial(_eval_step, make=make),
    eval_arrays=("images_m11", "weight"),
    summarise=summarise,
    shown={"reconstruction": "rec"},
    newest=optim.SKIPPED,
    in_a_row=optim.SKIPPED[1],
    shardings=meshes.bank_shardings,
  )


def make_level(
  side: int, channels: int, number: int, *, config: Any, steps: int, dtype: Any
) -> Level:
  """Networks, optimisers and constants of level `number` of a window of `side` px."""
  widths = [singan.width(n, least=config.width, most=config.max_width) for n in range(number + 1)]
  generators = tuple(singan.Generator(channels, width, dtype, config.conv) for width in widths)

  def optimiser(updates: int) -> optax.GradientTransformation:
    rate = optax.piecewise_constant_schedule(
      config.learning_rate, {round(config.decay_at * steps) * updates: config.decay}
    )
    return optax.adam(rate, b1=config.b1, b2=config.b2)

  return Level(
    pyramid=pyramid_of(config, side),
    generators=generators,
    critic=singan.Critic(widths[-1], dtype, config.conv),
    gen_tx=optimiser(config.generator_steps),
    critic_tx=optimiser(config.critic_steps),
    gen_steps=config.generator_steps,
    critic_steps=config.critic_steps,
    penalty=config.penalty,
    alpha=config.alpha,
  )


def pyramid_of(config: Any, side: int) -> pyramids.Pyramid:
  """The levels of a window, never resized, or of an image, reduced to `max_size`."""
  if "max_size" not in config:
    return pyramids.lesion_pyramid(side, min_size=config.min_size, factor=config.factor)
  given = {name: config[name] for name in ("min_size", "max_size", "factor")}
  return pyramids.pyramid(side, side, **given)


def level_facts(config: Any, channels: int, number: int, pixels: int) -> dict[str, int]:
  """{"pixels", "width", "generator", "critic": parameters} of a level, by shapes alone."""
  width = singan.width(number, least=config.width, most=config.max_width)
  image = jax.ShapeDtypeStruct((1, pixels, pixels, channels), jnp.float32)
  key = jax.random.key(0)
  init = functools.partial(singan.Generator(channels, width).init, train=True)
  gen = jax.eval_shape(init, key, image, image)["params"]
  critic = jax.eval_shape(singan.Critic(width).init, key, image)["params"]
  counts = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (gen, critic))
  return {"pixels": pixels, "width": width, **dict(zip(("generator", "critic"), counts))}


def summarise(totals: Mapping[str, Any]) -> dict[str, float]:
  """Root mean squared error of the reconstruction on the range of 2, mean over lesions."""
  return {"rmse": float(totals["rmse"]) / float(totals["weight"])}


def finished(state: State) -> list[tuple[tuple[Params, ...], Array, Array]]:
  """(levels, amplitudes f32[L, levels], fixed f32[L, h, w, 1]) of every window size, in order."""
  return [*state.done, _harvest(state)]


def _harvest(state: State) -> tuple[tuple[Params, ...], Array, Array]:
  return (*state.levels, state.players.gen), state.amplitudes, state.fixed


def _init(key: Array, *, shape: tuple[int, ...], make: MakeLevel) -> State:
  """The coarsest level of the first window size."""
  count, side, _, channels = shape
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))
  return _first_level(keys, side, channels, make=make)


def _first_level(keys: Array, side: int, channels: int, *, make: MakeLevel) -> State:
  level = make(side, channels, 0)
  fixed = jax.vmap(lambda key: singan_level.noise(level, 0, jax.random.fold_in(key, _FIXED)))(keys)
  return State(
    step=jnp.zeros((), jnp.int32),
    levels=(),
    amplitudes=jnp.ones((keys.shape[0], 1)),
    fixed=fixed,
    players=_new_players(level, keys),
    skipped=jnp.zeros((keys.shape[0], 2), jnp.int32),
    keys=keys,
  )


def _new_players(level: Level, keys: Array) -> Players:
  number = len(level.generators) - 1

  def one(key: Array) -> Players:
    gen_key, critic_key = jax.random.split(jax.random.fold_in(key, _FIRST + number * 3), 2)
    image = jnp.zeros((1, *level.pyramid.sizes[number], level.generators[0].channels))
    gen = level.generators[number].init(gen_key, image, image, True)
    critic = level.critic.init(critic_key, image)["params"]
    return _with_optimisers(level, gen, critic)

  return jax.vmap(one)(keys)


def _with_optimisers(level: Level, gen: Params, critic: Params) -> Players:
  gen_opt = singan_level.optimiser_state(level.gen_tx, gen["params"])
  return Players(gen, critic, gen_opt, singan_level.optimiser_state(level.critic_tx, critic))


def _next_level(state: State, batch: Batch, *, make: MakeLevel) -> State:
  """The level that has trained is frozen; the next one begins as its copy, or anew."""
  crops = batch["images_m11"]
  levels = (*state.levels, state.players.gen)
  level = make(crops.shape[1], crops.shape[-1], len(levels))

  def error(crop: Array, levels: Any, amplitudes: Array, fixed: Array) -> Array:
    real = _at_level(level, crop[None])
    below = singan_level.reconstruction_below(level, levels, amplitudes, fixed)
    return jnp.sqrt(jnp.mean(jnp.square(real - below)))

  new = _NOISE_SHARE * jax.vmap(error)(crops, levels, state.amplitudes, state.fixed)
  if level.generators[-1].width == level.generators[-2].width:
    gen, critic = state.players.gen, state.players.critic
    players = jax.vmap(functools.partial(_with_optimisers, level))(gen, critic)
  else:
    players = _new_players(level, state.keys)
  return dataclasses.replace(
    state,
    step=jnp.zeros((), jnp.int32),
    levels=levels,
    amplitudes=jnp.concatenate([state.amplitudes, new[:, None]], axis=1),
    players=players,
  )


def _next_size(state: State, batch: Batch, *, make: MakeLevel) -> State:
  """The lesions of a window size are finished; those of the next begin."""
  count, side, _, channels = batch["images_m11"].shape
  # Keys that depend on the first lesion's and on how many sizes are done.
  root = jax.random.fold_in(state.keys[0], _FIRST + len(state.done))
  keys = jax.vmap(functools.partial(jax.random.fold_in, root))(jnp.arange(count))
  new = _first_level(keys, side, channels, make=make)
  return dataclasses.replace(new, done=(*state.done, _harvest(state)))


def _at_level(level: Level, images: Array) -> Array:
  """f32[K, S, S, C] -> f32[K, s, s, C]."""
  return pyramids.levels(images, level.pyramid)[len(level.generators) - 1]


def _given(level: Level, crop: Array, levels: Any, amplitudes: Array, fixed: Array) -> Given:
  real = _at_level(level, crop[None])
  rec_noise = jnp.zeros((1, *real.shape[1:3], 1)) if levels else fixed[None]
  below = singan_level.reconstruction_below(level, levels, amplitudes, fixed)
  return Given(real, levels, amplitudes, rec_noise, below)


def _train(
  state: State,
  batch: Batch,
  frozen: Params,
  count: Array,
  *,
  make: MakeLevel,
  most_steps: int,
  mesh: Mesh,
  at_once: int,
) -> tuple[State, Metrics]:
  """`count` iterations of every lesion's level, and of each the means over lesions.

  batch: {"images_m11": f32[L, S, S, C], "weight": f32[L]}. Every device loops over its own
  lesions: none waits for another, and nothing is sent.
  """
  del frozen
  crops = batch["images_m11"]
  level = make(crops.shape[1], crops.shape[-1], len(state.levels))
  names = (*singan_level.SCALARS, *optim.SKIPPED)

  def one(lesion: Any, begin: Array, count: Array) -> Any:
    players, skipped, key, crop, levels, amplitudes, fixed = lesion
    given = _given(level, crop, levels, amplitudes, fixed)
    key = jax.random.fold_in(key, len(levels))

    def iterate(number: Array, carry: Any) -> Any:
      before, skipped, rows = carry
      step_key = jax.random.fold_in(key, begin + number)
      after, scalars = singan_level.iterate(level, before, given, step_key)
      # A step that is not finite spoils the moments too: then the whole iteration is left out.
      finite = optim.all_finite((after.gen_opt, after.critic_opt))
      skipped = optim.count_skipped(skipped, finite)
      scalars |= dict(zip(optim.SKIPPED, skipped))
      rows = {name: row.at[number].set(scalars[name]) for name, row in rows.items()}
      return optim.select(finite, after, before), skipped, rows

    rows = {name: jnp.zeros(most_steps) for name in names}
    return jax.lax.fori_loop(0, count, iterate, (players, skipped, rows))

  def here(lesions: Any, begin: Array, count: Array) -> Any:
    # Not mapped over `count`: a loop whose length differs from lesion to lesion is another program.
    train = functools.partial(one, begin=begin, count=count)
    if at_once == 1:  # no axis of lesions at all: an ordinary convolution stays one
      return jax.lax.map(train, lesions)
    if not at_once or at_once >= lesions[3].shape[0]:
      return jax.vmap(train)(lesions)
    return jax.lax.map(train, lesions, batch_size=at_once)

  split = P(("data", "fsdp"))
  run = jax.shard_map(here, mesh=mesh, in_specs=(split, P(), P()), out_specs=split, check_vma=False)
  lesions = (state.players, state.skipped, state.keys, crops, state.levels)
  players, skipped, rows = run((*lesions, state.amplitudes, state.fixed), state.step, count)
  weight = (batch["weight"] / jnp.sum(batch["weight"]))[:, None]
  means = {name: jnp.sum(jnp.where(weight > 0, v * weight, 0.0), 0) for name, v in rows.items()}
  total, in_a_row = (rows[name] for name in optim.SKIPPED)
  means |= dict(zip(optim.SKIPPED, (jnp.sum(total, 0), jnp.max(in_a_row, 0))))
  new = dataclasses.replace(state, step=state.step + count, players=players, skipped=skipped)
  return new, means


def _eval_step(
  state: State, batch: Batch, frozen: Params, *, make: MakeLevel
) -> tuple[Mapping[str, Array], Array]:
  """Totals of the reconstruction's error; pictures f32[L, s, (2 + SAMPLES) s, C], side by side:
  the lesion at this level, its reconstruction, new samples."""
  del frozen
  crops, weight = batch["images_m11"], batch["weight"]
  level = make(crops.shape[1], crops.shape[-1], len(state.levels))
  number = len(state.levels)

  def one(
    gen: Params, crop: Array, levels: Any, amplitudes: Array, fixed: Array, key: Array
  ) -> Any:
    given = _given(level, crop, levels, amplitudes, fixed)
    rec = singan_level.reconstruct(level, gen, given)
    keys = jax.random.split(jax.random.fold_in(key, _SHOWN), SAMPLES)
    below = singan_level.draw_below(level, given, keys)
    z = jax.vmap(lambda k: singan_level.noise(level, number, jax.random.fold_in(k, number)))(keys)
    samples = level.generators[-1].apply(gen, amplitudes[-1] * z + below, below, False)
    rows = jnp.concatenate([given.real, rec, samples])
    return jnp.sqrt(jnp.mean(jnp.square(rec - given.real))), jnp.concatenate(rows, axis=1)

  errors, pictures = jax.vmap(one)(
    state.players.gen, crops, state.levels, state.amplitudes, state.fixed, state.keys
  )
  totals = {"rmse": jnp.sum(jnp.where(weight > 0, errors, 0.0)), "weight": jnp.sum(weight)}
  return totals, jnp.clip(pictures, -1.0, 1.0)
