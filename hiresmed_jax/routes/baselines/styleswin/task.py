"""Baseline `styleswin`: a generator and a discriminator in turn, one step at a time.

N images in a batch of S x S pixels, C channels, Z values of a style. Source: Zhang et al., arXiv
2112.10762.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import generative
from hiresmed_jax.nets.styleswin import Discriminator, Generator
from hiresmed_jax.ops.diffaugment import diff_augment
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.runtime.optim import pack, unpack
from hiresmed_jax.types import Array, Batch, Metrics, Params

_FOR_DISC, _FOR_GEN, _AUGMENT = range(3)  # what a step draws random numbers for


@flax.struct.dataclass
class State:
  """All that a resumed run needs, and only arrays."""

  step: Array  # i32[]
  gen: Params
  disc: Params
  stats: Params  # vectors of the discriminator's spectral norms
  gen_opt: optax.OptState  # of the packed parameters
  disc_opt: optax.OptState
  ema: Params  # gen, packed; {} without averaging
  skipped: Array  # i32[2], non-finite updates: in all, and in a row
  key: Array


def build(config: Any, *, channels: int, steps: int, dtype: Any = jnp.float32) -> Task:
  """Makes the task from the values of `routes.baselines.styleswin.settings`.

  `dtype` is that of the convolutions and of the attention; parameters and losses stay float32.
  """
  gen, disc = networks(config, channels=channels, dtype=dtype)
  txs = optimizers(config, steps)
  common: dict[str, Any] = {"gen": gen, "disc": disc, "channels": channels}
  common["style"] = config.net.style
  return Task(
    name="styleswin",
    phases=(Phase("styleswin", steps, config.batch_size),),
    init=functools.partial(_init, txs=txs, size=config.size, averages=bool(config.ema), **common),
    train_step=functools.partial(
      _train_step, txs=txs, loss=config.loss, decay=config.ema, **common
    ),
    eval_step=functools.partial(_eval_step, **common),
    eval_arrays=("images_m11", "weight"),
    summarise=_summarise,
    select=None,  # the last weights: no number of theirs says how good the images are
    shown={"generator": "gen", "discriminator": "disc"},
    newest=optim.SKIPPED,
    in_a_row=optim.SKIPPED[1],
  )


def networks(
  config: Any, *, channels: int, dtype: Any = jnp.float32
) -> tuple[Generator, Discriminator]:
  """The two networks of the route."""
  net, size = config.net, config.size
  gen = Generator(size, channels, net.multiplier, net.mapping, net.widest, dtype)
  return gen, Discriminator(size, net.critic_multiplier, net.widest, dtype)


def optimizers(
  config: Any, steps: int
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
  """Those of the generator and of the discriminator, of packed parameters."""

  def make(values: Any) -> optax.GradientTransformation:
    return optim.make_optimizer(**values, schedule=config.schedule, total_steps=steps)

  return make(config.gen_optimizer), make(config.disc_optimizer)


def averaged(state: State) -> Params:
  """The generator's parameters to use: their running average where the run keeps one."""
  return unpack(dict(state.ema), state.gen) if state.ema else state.gen


def _init(
  key: Array,
  *,
  gen: Generator,
  disc: Discriminator,
  txs: Any,
  size: int,
  channels: int,
  style: int,
  averages: bool,
) -> State:
  gen_key, disc_key, key = jax.random.split(key, 3)
  params = gen.init(gen_key, jnp.zeros((1, style)))["params"]
  critic = disc.init(disc_key, jnp.zeros((1, size, size, channels)))
  return State(
    step=jnp.zeros((), jnp.int32),
    gen=params,
    disc=critic["params"],
    stats=critic["batch_stats"],
    gen_opt=txs[0].init(pack(params)),
    disc_opt=txs[1].init(pack(critic["params"])),
    ema=pack(params) if averages else {},
    skipped=jnp.zeros((2,), jnp.int32),
    key=key,
  )


def _train_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  gen: Generator,
  disc: Discriminator,
  txs: Any,
  loss: Any,
  decay: float,
  channels: int,
  style: int,
) -> tuple[State, Metrics]:
  """One update of both players. batch: {"images_m11": f32[N, S, S, 1 or C]}."""
  del frozen
  images = to_channels(batch["images_m11"], channels)
  key = jax.random.fold_in(state.key, state.step)
  keys = [jax.random.fold_in(key, use) for use in (_FOR_DISC, _FOR_GEN, _AUGMENT)]
  latents = [jax.random.normal(own, (len(images), style)) for own in keys[:2]]

  def judged(params: Params, pixels: Array) -> tuple[Array, Params]:
    logits, moved = disc.apply(
      {"params": params, "batch_stats": state.stats}, pixels, train=True, mutable=["batch_stats"]
    )
    return logits, moved["batch_stats"]

  fake = jax.lax.stop_gradient(gen.apply({"params": state.gen}, latents[_FOR_DISC]))

  def disc_loss(params: Params) -> tuple[Array, tuple[Metrics, Params]]:
    real_logits, stats = judged(params, images)
    fake_logits, _ = judged(params, fake)
    found = jnp.mean(generative.logistic_discriminator(real_logits, fake_logits))
    scalars = {"discriminator": found}
    if loss.r1:
      # In few of the steps, and then as many times as strong.
      scalars["r1"] = jax.lax.cond(
        state.step % loss.r1_every == 0,
        lambda: jnp.mean(generative.r1(lambda x: judged(params, x)[0], images)) * loss.r1_every,
        lambda: jnp.zeros(()),
      )
      found += 0.5 * loss.r1 * scalars["r1"]
    if loss.consistency:
      pairs = ((images, real_logits), (fake, fake_logits))
      moved = [diff_augment(x, keys[_AUGMENT], policy=tuple(loss.augment)) for x, _ in pairs]
      gaps = [judged(params, x)[0] - pair[1] for x, pair in zip(moved, pairs, strict=True)]
      scalars["consistency"] = jnp.sum(jnp.mean(jnp.square(jnp.stack(gaps)), -1))
      found += loss.consistency * scalars["consistency"]
    return found, (scalars, stats)

  disc_grads, (scalars, stats) = jax.grad(disc_loss, has_aux=True)(state.disc)
  disc_grads = pack(disc_grads)
  critic, disc_opt = optim.update(txs[1], disc_grads, state.disc, state.disc_opt)

  def gen_loss(params: Params) -> Array:
    logits, _ = judged(critic, gen.apply({"params": params}, latents[_FOR_GEN]))
    return jnp.mean(generative.logistic_generator(logits))

  scalars["generator"], gen_grads = jax.value_and_grad(gen_loss)(state.gen)
  gen_grads = pack(gen_grads)
  finite = optim.all_finite((gen_grads, disc_grads))
  critic, disc_opt, stats = optim.select(
    finite, (critic, disc_opt, stats), (state.disc, state.disc_opt, state.stats)
  )
  params, gen_opt = optim.update(txs[0], gen_grads, state.gen, state.gen_opt, finite)
  ema = optim.ema_update(state.ema, pack(params), decay, state.step) if decay else {}
  skipped = optim.count_skipped(state.skipped, finite)
  scalars |= dict(zip(optim.SKIPPED, skipped)) | {"gradient_norm": optax.tree.norm(gen_grads)}
  new = dataclasses.replace(
    state, step=state.step + 1, gen=params, disc=critic, stats=stats, gen_opt=gen_opt,
    disc_opt=disc_opt, ema=ema, skipped=skipped,
  )  # fmt: skip
  return new, scalars


def _eval_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  gen: Generator,
  disc: Discriminator,
  channels: int,
  style: int,
) -> tuple[Mapping[str, Array], Array]:
  """(totals of logits of real and made images, the made ones f32[N, S, S, C]).

  Images are judged one by one, and those that are made are the same at every call: other images of
  the batch change nothing. batch: images_m11 f32[N, S, S, 1 or C]; weight f32[N], 0 on rows that
  only fill the batch up.
  """
  del frozen
  images = to_channels(batch["images_m11"], channels)
  latents = jax.random.normal(jax.random.key(0), (len(images), style))
  made = gen.apply({"params": averaged(state)}, latents)

  def logit(image: Array) -> Array:
    return disc.apply({"params": state.disc, "batch_stats": state.stats}, image[None])[0]

  weight = batch["weight"]
  totals = {"weight": jnp.sum(weight)}
  for name, pixels in (("real_logit", images), ("made_logit", made)):
    totals[name] = jnp.sum(jnp.where(weight > 0, jax.vmap(logit)(pixels) * weight, 0.0))
  return totals, made


def _summarise(totals: Mapping[str, Any]) -> dict[str, float]:
  """Means over images."""
  weight = float(totals["weight"])
  return {name: float(totals[name]) / weight for name in ("real_logit", "made_logit")}
