"""One level of one SinGAN while it trains: images from below, and both networks' steps.

These functions are of one training image, a lesion's window or a whole image; `singan_task` maps
them over all of them.

s x s pixels of the level, C channels, K images at once. Source: Shaham et al. 2019 and its code,
with two readings of the paper: the noise that must give the lesion back is drawn once, and the
generator is evaluated anew at each of its steps, with the same noise.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses.generative import critic_loss, generator_loss
from hiresmed_jax.nets.singan import Critic, Generator
from hiresmed_jax.ops.pyramid import Pyramid, to_level
from hiresmed_jax.runtime import optim
from hiresmed_jax.types import Array, Metrics, Params

SCALARS = ("critic", "adversarial", "reconstruction")  # of an iteration
_NOISE, _BELOW, _BETWEEN = range(3)  # what an iteration draws random numbers for


class Level(NamedTuple):
  """What a level is made of, and how it trains.

  Attributes:
    pyramid: all levels of the lesion.
    generators: of the levels so far; the last one trains.
    critic: of the last one.
    gen_tx, critic_tx: optimisers.
    gen_steps, critic_steps: of one iteration.
    penalty: weight of the gradient penalty.
    alpha: weight of the reconstruction.
  """

  pyramid: Pyramid
  generators: tuple[Generator, ...]
  critic: Critic
  gen_tx: optax.GradientTransformation
  critic_tx: optax.GradientTransformation
  gen_steps: int
  critic_steps: int
  penalty: float
  alpha: float


@flax.struct.dataclass
class Players:
  """Both networks and their optimisers. gen: {"params", "batch_stats"}; critic: parameters."""

  gen: Params
  critic: Params
  gen_opt: optax.OptState
  critic_opt: optax.OptState


@flax.struct.dataclass
class Given:
  """What stays the same as long as a level trains.

  Attributes:
    real: f32[1, s, s, C], the lesion at this level.
    levels: the finished generators' variables.
    amplitudes: f32[levels so far], the last one's included.
    rec_noise: f32[1, s, s, 1], what must give the lesion back; zeros but at the coarsest level.
    rec_below: f32[1, s, s, C], what the levels below make of it.
  """

  real: Array
  levels: tuple[Params, ...]
  amplitudes: Array
  rec_noise: Array
  rec_below: Array


def climb(level: Level, levels: Sequence[Params], amplitudes: Array, noises: list[Array]) -> Array:
  """Images of the finished levels, at the size of the one that trains: f32[K, s, s, C].

  Args:
    level: the one that trains.
    levels: variables of the finished ones.
    amplitudes: f32[at least as many].
    noises: f32[K, s_n, s_n, 1 or C] for each finished level.
  """
  sizes, channels = level.pyramid.sizes, level.generators[0].channels
  image = jnp.zeros((noises[0].shape[0] if noises else 1, *sizes[0], channels))
  for number, variables in enumerate(levels):
    noisy = amplitudes[number] * noises[number] + image
    image = level.generators[number].apply(variables, noisy, image, False)
    image = to_level(image, number + 1, level.pyramid)
  return image


def noise(level: Level, number: int, key: Array) -> Array:
  """f32[s_n, s_n, 1 or C]: at the coarsest level one for all channels."""
  channels = level.generators[0].channels if number else 1
  return jax.random.normal(key, (*level.pyramid.sizes[number], channels))


def draw_below(level: Level, given: Given, keys: Array) -> Array:
  """A new image from below for each of key[K]: f32[K, s, s, C]."""
  if not given.levels:
    return jnp.zeros((keys.shape[0], *given.real.shape[1:]))
  noises = [
    jax.vmap(lambda key, n=n: noise(level, n, jax.random.fold_in(key, n)))(keys)
    for n in range(len(given.levels))
  ]
  return climb(level, given.levels, given.amplitudes, noises)


def reconstruction_below(
  level: Level, levels: Sequence[Params], amplitudes: Array, fixed: Array
) -> Array:
  """What the finished levels make of the fixed noise f32[h, w, 1]: f32[1, s, s, C]."""
  noises = [fixed[None]] + [jnp.zeros((1, *size, 1)) for size in level.pyramid.sizes[1:]]
  return climb(level, levels, amplitudes, noises)


def reconstruct(level: Level, gen: Params, given: Given) -> Array:
  """The lesion as its trained level gives it back: f32[1, s, s, C]."""
  noisy = given.amplitudes[-1] * given.rec_noise + given.rec_below
  return level.generators[-1].apply(gen, noisy, given.rec_below, False)


def iterate(level: Level, players: Players, given: Given, key: Array) -> tuple[Players, Metrics]:
  """The critic's steps, then the generator's; one noise for all, an image from below for each.

  Returns:
    (players, f32[] of each of SCALARS, means over the steps).
  """
  number = len(given.levels)
  z = noise(level, number, jax.random.fold_in(key, _NOISE))[None]
  keys = jax.random.split(jax.random.fold_in(key, _BELOW), level.critic_steps)
  below = draw_below(level, given, keys)
  mixtures = jax.random.uniform(jax.random.fold_in(key, _BETWEEN), (level.critic_steps,))
  # The generator stands still meanwhile, so that all of the fakes are made at once.
  fakes, gen = generate(level, players.gen, given.amplitudes[-1] * z + below, below)
  players = dataclasses.replace(players, gen=gen)

  def train_critic(players: Players, drawn: tuple[Array, Array]) -> tuple[Players, Array]:
    fake, mixture = drawn
    return critic_step(level, players, given.real, fake[None], mixture)

  def train_generator(players: Players, _: None) -> tuple[Players, tuple[Array, Array]]:
    return generator_step(level, players, given, z, below[-1:])

  players, critic = jax.lax.scan(train_critic, players, (fakes, mixtures))
  players, (adversarial, error) = jax.lax.scan(
    train_generator, players, None, length=level.gen_steps
  )
  means = (jnp.mean(value) for value in (critic, adversarial, error))
  return players, dict(zip(SCALARS, means))


def generate(level: Level, gen: Params, noisy: Array, below: Array) -> tuple[Array, Params]:
  """A forward pass in training -> (f32[K, s, s, C], variables with newer running statistics)."""
  images, moved = level.generators[-1].apply(gen, noisy, below, True, mutable=["batch_stats"])
  return images, {"params": gen["params"], **moved}


def critic_step(
  level: Level, players: Players, real: Array, fake: Array, mixture: Array
) -> tuple[Players, Array]:
  """One update of the critic on f32[1, s, s, C] of both kinds -> (players, loss f32[])."""
  between = mixture * real + (1.0 - mixture) * fake

  def loss(params: Params) -> Array:
    critic = lambda images: level.critic.apply({"params": params}, images)  # noqa: E731
    return critic_loss(critic, real, fake, between, penalty=level.penalty)[0]

  value, gradient = jax.value_and_grad(loss)(players.critic)
  critic, opt = optim.update(
    level.critic_tx, optim.pack(gradient), players.critic, players.critic_opt
  )
  return dataclasses.replace(players, critic=critic, critic_opt=opt), value


def generator_step(
  level: Level, players: Players, given: Given, z: Array, below: Array
) -> tuple[Players, tuple[Array, Array]]:
  """One update of the generator -> (players, (adversarial loss, mean squared error) f32[])."""
  amplitude = given.amplitudes[-1]
  noisy = jnp.concatenate([amplitude * z + below, amplitude * given.rec_noise + given.rec_below])
  both = jnp.concatenate([below, given.rec_below])

  def loss(params: Params) -> tuple[Array, Any]:
    images, gen = generate(level, {**players.gen, "params": params}, noisy, both)
    adversarial = generator_loss(level.critic.apply({"params": players.critic}, images[:1]))[0]
    error = jnp.mean(jnp.square(images[1:] - given.real))
    return adversarial + level.alpha * error, (gen["batch_stats"], adversarial, error)

  params = players.gen["params"]
  gradient, (stats, adversarial, error) = jax.grad(loss, has_aux=True)(params)
  params, opt = optim.update(level.gen_tx, optim.pack(gradient), params, players.gen_opt)
  gen = {"params": params, "batch_stats": stats}
  return dataclasses.replace(players, gen=gen, gen_opt=opt), (adversarial, error)


def optimiser_state(tx: optax.GradientTransformation, params: Params) -> optax.OptState:
  """The first state of an optimiser of the packed parameters."""
  return tx.init(optim.pack(params))
