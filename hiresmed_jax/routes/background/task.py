"""Route `background`: HiResMed-VQGAN, its codebook and three PatchGANs, one step at a time.

N images in a batch, H x W pixels, h x w latent positions, C image channels, D code width, K codes.
Source: Tang et al. 2025, section 2.2; Esser et al. 2021 (VQGAN).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.metrics import image
from hiresmed_jax.nets import taming
from hiresmed_jax.nets.vqgan import VQGAN, MultiScaleDiscriminator
from hiresmed_jax.ops import quantize
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes.background import losses
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.runtime.optim import pack, unpack
from hiresmed_jax.types import Array, Batch, Metrics, Params

_DROP_PATH, _AUGMENT, _REVIVE = range(3)  # what a step draws random numbers for
_APART = ("codebook",)  # its rows are revived one by one


@flax.struct.dataclass
class State:
  """All that a resumed run needs, and only arrays."""

  step: Array  # i32[]
  gen: Params  # {"net": ..., "codebook": f32[K, D]}
  disc: Params
  gen_opt: optax.OptState  # of the packed parameters
  disc_opt: optax.OptState
  ema: Params  # gen, packed; {} without averaging
  usage: Array  # f32[K], running share of each code
  counts: Array  # f32[2, K], how often each code was used, in this epoch and in the one before
  skipped: Array  # i32[2], non-finite updates: in all, and in a row
  key: Array


def build(
  config: Any,
  *,
  channels: int,
  size: tuple[int, int],
  steps: int,
  steps_per_epoch: int,
  dtype: Any = jnp.float32,
  distance: losses.Distance | None = None,
  distance_params: Params | None = None,
) -> Task:
  """Makes the task from the values of `routes.background.settings`.

  Args:
    config: nested values, read here and never handed to a network.
    channels: of the images that the network sees; grey batches are repeated on the device.
    size: height and width of a training image, for the shapes of the parameters.
    steps: length of the run; the GAN's start and the warm-ups are shares of it.
    steps_per_epoch: after so many steps the code counts begin anew.
    dtype: of the convolutions; parameters, losses and quantiser stay float32.
    distance: perceptual distance (weights, prediction_m11, target_m11) -> f32[N], or None.
    distance_params: its weights.
  """
  net, disc = networks(config, channels=channels, dtype=dtype)
  txs = optimizers(config, steps)
  gan_steps = (round(config.gan.start * steps), max(1, round(config.gan.warmup * steps)))
  common: dict[str, Any] = {"net": net, "channels": channels}
  step = functools.partial(
    _train_step,
    **common,
    disc=disc,
    txs=txs,
    config=config,
    distance=distance,
    gan_steps=gan_steps,
    steps_per_epoch=steps_per_epoch,
  )
  shape = (1, *size, channels)
  warm = functools.partial(_warm_start, **common, num_codes=config.codebook.num_codes)
  return Task(
    name="background",
    phases=(Phase("background", steps, config.batch_size),),
    frozen={} if distance_params is None else distance_params,
    init=functools.partial(_init, net=net, disc=disc, txs=txs, config=config, shape=shape),
    warm_start=warm if config.codebook.init == "kmeans" else None,
    train_step=step,
    eval_step=functools.partial(_eval_step, **common, cosine=config.codebook.distance == "cosine"),
    eval_arrays=("images_m11", "weight", "valid"),
    summarise=summarise,
    select=("l1", -1),
    shown={
      "reconstruction": "rec",
      "perceptual": "lpips",
      "gan_weight": "gan",
      "code_usage": "codes",
    },
    newest=(*optim.SKIPPED, "code_usage", "code_perplexity"),
    in_a_row=optim.SKIPPED[1],
  )


def networks(config: Any, *, channels: int, dtype: Any) -> tuple[nn.Module, nn.Module | None]:
  """The two networks of the route; no discriminator where gan.weight is 0."""
  values = config.net.to_dict() | {"in_channels": channels, "out_channels": channels}
  values["kernel_init_std"] = values["kernel_init_std"] or None
  net: nn.Module
  if values.pop("skeleton") == "taming":
    net = taming.VQGAN(dtype=dtype, **{name: values[name] for name in taming.ARGUMENTS})
  else:
    net = VQGAN(dtype=dtype, **values)
  gan = config.gan
  if not gan.weight:
    return net, None
  features = tuple(gan.features)
  if gan.network == "taming":
    return net, taming.PatchGAN(features, dtype)
  return net, MultiScaleDiscriminator(scales=gan.scales, features=features, dtype=dtype)


def optimizers(
  config: Any, steps: int
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
  """Those of the generator and of the discriminator, of packed parameters.

  Each schedule spans the steps in which its network trains, and its warm-up is a share of them: the
  discriminator, which begins later, ends at the same rate as the generator.
  """
  values = config.optimizer.to_dict()
  warmup = values.pop("warmup")

  def make(own: int) -> optax.GradientTransformation:
    return optim.make_optimizer(**values, warmup_steps=round(warmup * own), total_steps=own)

  return make(steps), make(steps - round(config.gan.start * steps) or steps)


def reconstruct(
  params: Params, images_m11: Array, *, net: nn.Module, cosine: bool = True
) -> tuple[Array, Array]:
  """-> (reconstruction in [-1, 1] f32[N, H, W, C], code indices i32[N, h, w])."""
  latents = net.apply({"params": params["net"]}, images_m11, train=False, method="encode")
  codes = quantize.quantize(latents, params["codebook"], cosine=cosine)
  pictures = net.apply({"params": params["net"]}, codes.codes, train=False, method="decode")
  return jnp.clip(pictures, -1.0, 1.0), codes.indices


def averaged(state: State) -> Params:
  """The generator's parameters to use: their running average where the run keeps one."""
  return unpack(dict(state.ema), state.gen, apart=_APART) if state.ema else state.gen


def summarise(totals: Mapping[str, Any]) -> dict[str, float]:
  """Means over images: psnr in dB, l1 in [0, 1] intensity units; and how many codes they used."""
  weight = float(totals["weight"])
  return {
    "psnr": float(totals["psnr"]) / weight,
    "l1": float(totals["l1"]) / weight,
    "code_usage": float((totals["counts"] > 0).mean()),
    "code_perplexity": float(quantize.perplexity(totals["counts"])),
  }


def _init(
  key: Array, *, net: nn.Module, disc: Any, txs: Any, config: Any, shape: tuple[int, ...]
) -> State:
  gen_key, disc_key, code_key, key = jax.random.split(key, 4)
  images = jnp.zeros(shape, jnp.float32)
  num_codes, width = config.codebook.num_codes, config.net.code_dim
  if config.codebook.distance == "cosine":
    codes = quantize.normalize(jax.random.normal(code_key, (num_codes, width)))
  else:
    bound = 1.0 / num_codes
    codes = jax.random.uniform(code_key, (num_codes, width), minval=-bound, maxval=bound)
  gen = {"net": net.init(gen_key, images, train=False)["params"], "codebook": codes}
  disc_params = disc.init(disc_key, images)["params"] if disc else {}
  return State(
    step=jnp.zeros((), jnp.int32),
    gen=gen,
    disc=disc_params,
    gen_opt=txs[0].init(_pack(gen)),
    disc_opt=txs[1].init(_pack(disc_params)),
    ema=_pack(gen) if config.ema else {},
    usage=jnp.full((num_codes,), 1.0 / num_codes),
    counts=jnp.zeros((2, num_codes)),
    skipped=jnp.zeros((2,), jnp.int32),
    key=key,
  )


def _warm_start(
  state: State,
  batches: Sequence[Batch],
  frozen: Params,
  *,
  net: nn.Module,
  channels: int,
  num_codes: int,
) -> State:
  """The codebook becomes the k-means centres of the first batches' latents."""
  del frozen
  # One image that is not finite would spoil every centre; training leaves its batch out.
  images = jnp.concatenate([batch["images_m11"] for batch in batches])
  images = jnp.nan_to_num(to_channels(images, channels), nan=-1.0)
  latents = net.apply({"params": state.gen["net"]}, images, train=False, method="encode")
  flat = latents.reshape(-1, latents.shape[-1])
  key = jax.random.fold_in(state.key, jnp.iinfo(jnp.int32).max)
  codes = quantize.kmeans(flat, key, num_codes=num_codes, iterations=10)
  ema = {**state.ema, "codebook": jnp.copy(codes)} if state.ema else {}
  return dataclasses.replace(state, gen={**state.gen, "codebook": codes}, ema=ema)


def _train_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  net: nn.Module,
  channels: int,
  disc: nn.Module | None,
  txs: Any,
  config: Any,
  distance: losses.Distance | None,
  gan_steps: tuple[int, int],
  steps_per_epoch: int,
) -> tuple[State, Metrics]:
  """One update of both players. batch: {"images_m11": f32[N, H, W, 1 or C]}."""
  images = to_channels(batch["images_m11"], channels)
  key = jax.random.fold_in(state.key, state.step)
  keys = [jax.random.fold_in(key, use) for use in (_DROP_PATH, _AUGMENT, _REVIVE)]

  # Forward once, and keep the way back; then the loss of the pixels and its gradient.
  (recon, _), backward, aux = jax.vjp(
    functools.partial(
      losses.forward,
      net=net,
      images=images,
      key=keys[_DROP_PATH],
      config=config.loss,
      cosine=config.codebook.distance == "cosine",
    ),
    state.gen,
    has_aux=True,
  )
  pixel_loss = functools.partial(
    losses.reconstruction_loss,
    target=images,
    kind=config.loss.reconstruction,
    distance=distance,
    weights=frozen,
    distance_weight=config.perceptual.weight,
  )
  (_, scalars), pixel_grad = jax.value_and_grad(pixel_loss, has_aux=True)(recon)
  scalars |= aux["losses"]

  # The discriminator sees the same reconstruction.
  disc_grads: Any = {}
  start, warmup = gan_steps
  if disc is not None:
    gan_grad, disc_grads, gan_scalars = losses.gan_gradients(
      disc, state.disc, recon, images, keys[_AUGMENT], policy=tuple(config.gan.augment)
    )
    # It trains alone for a while: the gradient of an untrained one would only ruin the decoder.
    weight = config.gan.weight * jnp.clip((state.step - start - warmup + 1) / warmup, 0.0, 1.0)
    if config.gan.adaptive:
      cap = config.gan.adaptive_cap
      weight *= losses.adaptive_weight(
        net, state.gen["net"], aux["features"], pixel_grad, gan_grad, cap=cap
      )
    pixel_grad += weight * gan_grad
    scalars |= gan_scalars | {"gan_weight": weight}

  (gen_grads,) = backward((pixel_grad, jnp.ones(())))
  gen_grads, disc_grads = _pack(gen_grads), _pack(disc_grads)
  finite = optim.all_finite((gen_grads, disc_grads))
  gen, gen_opt = optim.update(txs[0], gen_grads, state.gen, state.gen_opt, finite, apart=_APART)
  disc_params, disc_opt = state.disc, state.disc_opt
  if disc is not None:
    trains = finite & (state.step >= start)
    disc_params, disc_opt = optim.update(
      txs[1], disc_grads, disc_params, disc_opt, trains, apart=_APART
    )
  ema = optim.ema_update(state.ema, _pack(gen), config.ema, state.step) if config.ema else {}

  # Latents that are not finite choose a code all the same; that is no use of it.
  counts = finite * quantize.code_counts(aux["indices"], config.codebook.num_codes)
  usage = quantize.update_usage(
    state.usage, counts / aux["indices"].size, config.codebook.usage_decay
  )
  usage = optim.select(finite, usage, state.usage)
  gen, gen_opt, ema, usage, revived = _revive(
    finite & ((state.step + 1) % config.codebook.revive_every == 0),
    gen,
    gen_opt,
    ema,
    usage,
    aux["latents"],
    keys[_REVIVE],
    threshold=config.codebook.revive_threshold,
  )
  both = quantize.add_counts(state.counts, counts, state.step, steps_per_epoch)
  skipped = optim.count_skipped(state.skipped, finite)
  scalars |= quantize.usage_of(both) | dict(zip(optim.SKIPPED, skipped))
  scalars |= {"revived": revived, "gradient_norm": optax.tree.norm(gen_grads)}
  new = dataclasses.replace(
    state, step=state.step + 1, gen=gen, disc=disc_params, gen_opt=gen_opt, disc_opt=disc_opt,
    ema=ema, usage=usage, counts=both, skipped=skipped,
  )  # fmt: skip
  return new, scalars


def _revive(
  now: Array,
  gen: Any,
  gen_opt: Any,
  ema: Any,
  usage: Array,
  latents: Array,
  key: Array,
  *,
  threshold: float,
) -> tuple[Any, Any, Any, Array, Array]:
  """New rows for dead codes, with clean moments and average, and a usage to start from.

  Plain cosine quantisation of 128 real images kept 3 of 256 codes in use. Codes below `threshold`
  times an evenly used code's share are redrawn from the latents [..., D] of the global batch. Where
  bool[] `now` is False nothing changes, without a branch.

  Returns:
    (gen, gen_opt, ema, usage, number of redrawn codes i32[]).
  """
  num_codes = usage.shape[0]
  floor = jnp.where(now, threshold / num_codes, -1.0)
  flat = latents.reshape(-1, latents.shape[-1])
  codes, revived = quantize.revive(gen["codebook"], usage, flat, key, threshold=floor)
  if ema:
    ema = {**ema, "codebook": jnp.where(revived[:, None], codes, ema["codebook"])}
  usage = jnp.where(revived, 1.0 / num_codes, usage)
  gen_opt = optim.zero_rows(gen_opt, "codebook", revived)
  return {**gen, "codebook": codes}, gen_opt, ema, usage, jnp.sum(revived)


def _eval_step(
  state: State, batch: Batch, frozen: Params, *, net: nn.Module, channels: int, cosine: bool
) -> tuple[Mapping[str, Array], Array]:
  """Totals over the batch, with the averaged weights where there are any.

  batch: images_m11 f32[N, H, W, 1 or C]; weight f32[N], 0 on rows that only fill the batch up;
  valid bool[N, H, W], false on the padding of an image, which would flatter the numbers.
  """
  del frozen
  params = averaged(state)
  images = to_channels(batch["images_m11"], channels)
  pictures, indices = reconstruct(params, images, net=net, cosine=cosine)
  weight, valid = batch["weight"], batch["valid"]
  per_position = jnp.broadcast_to(weight[:, None, None], indices.shape)
  totals = {
    "weight": jnp.sum(weight),
    # Of images in [0, 1], as papers do: l1 is halved; psnr does not depend on the scale.
    "psnr": _total(image.psnr(pictures, images, data_range=2.0, where=valid), weight),
    "l1": _total(image.l1(pictures, images, where=valid), weight) / 2.0,
    "counts": jnp.zeros(params["codebook"].shape[0]).at[indices].add(per_position),
  }
  return totals, pictures


def _total(values: Array, weight: Array) -> Array:
  """Rows of weight 0 may hold anything, an infinite psnr too."""
  return jnp.sum(jnp.where(weight > 0, values * weight, 0.0))


def _pack(params: Any) -> dict[str, Array]:
  return pack(params, apart=_APART)
