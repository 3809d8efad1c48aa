"""Route `background`: HiResMed-VQGAN with a cosine codebook, a perceptual distance and three PatchGANs.

N images in a batch, H x W pixels, h x w latent positions, C image channels, D code width, K codes.
One forward pass of the generator serves both players: its reconstruction is graded by the losses and by the
discriminator, the two gradients with respect to the pixels are added, and one backward pass takes the sum.
Source: Tang et al. 2025, section 2.2; Esser et al. 2021 (VQGAN).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import adversarial, codebook, reconstruction
from hiresmed_jax.metrics import image
from hiresmed_jax.nets.discriminator import MultiScaleDiscriminator
from hiresmed_jax.nets.vqgan import VQGAN
from hiresmed_jax.ops import quantize
from hiresmed_jax.ops.diffaugment import diff_augment
from hiresmed_jax.runtime import optim
from hiresmed_jax.tasks.task import Phase, Task
from hiresmed_jax.types import Array, Batch, Metrics, Params

_DROP_PATH, _AUGMENT, _REVIVE = range(3)  # what a step draws random numbers for


@flax.struct.dataclass
class State:
  """All that a resumed run needs. `counts`: how often each code was used, in this epoch and in the one before."""

  step: Array  # i32[]
  gen: Params  # {"net": ..., "codebook": f32[K, D]}
  disc: Params
  gen_opt: optax.OptState
  disc_opt: optax.OptState
  ema: Params  # like gen, or {} without averaging
  usage: Array  # f32[K], running share of each code
  counts: Array  # f32[2, K]
  skipped: Array  # i32[2]: non-finite updates in all, and in a row
  key: Array


def build(
  config: Any,
  *,
  channels: int,
  size: tuple[int, int],
  steps: int,
  steps_per_epoch: int,
  dtype: jnp.dtype,
  distance: Callable[[Params, Array, Array], Array] | None = None,
  distance_params: Params | None = None,
) -> Task:
  """Makes the task from the values of `presets.background`.

  Args:
    channels: of the images that the network sees; grey batches are repeated on the device.
    size: height and width of a training image, for the shapes of the parameters.
    steps: length of the run; the GAN's start and warm-up are shares of it.
    steps_per_epoch: after so many steps the code counts begin anew.
    dtype: of the convolutions; parameters, losses and quantiser stay float32.
    distance: perceptual distance (params, prediction_m11, target_m11) -> f32[N]; None leaves the term out.
    distance_params: its weights.
  """
  nets = _networks(config, channels=channels, dtype=dtype)
  optimizer = functools.partial(optim.make_optimizer, **config.optimizer, total_steps=steps)
  gen_tx, disc_tx = optimizer(), optimizer()
  init = functools.partial(
    _init, nets=nets, txs=(gen_tx, disc_tx), config=config, shape=(1, *size, channels)
  )
  step = functools.partial(
    _train_step,
    nets=nets,
    txs=(gen_tx, disc_tx),
    config=config,
    distance=distance,
    channels=channels,
    gan_steps=(round(config.gan.start * steps), max(1, round(config.gan.warmup * steps))),
    steps_per_epoch=steps_per_epoch,
  )
  evaluate = functools.partial(_eval_step, net=nets[0], channels=channels)
  warm = functools.partial(_warm_start, net=nets[0], config=config, channels=channels)
  return Task(
    name="background",
    phases=(Phase("background", steps, config.batch_size),),
    frozen={} if distance_params is None else distance_params,
    init=init,
    warm_start=warm if config.codebook.init == "kmeans" else None,
    train_step=step,
    eval_step=evaluate,
    summarise=summarise,
    select=("l1", -1),
  )


def _networks(config: Any, *, channels: int, dtype: jnp.dtype) -> tuple[VQGAN, Any]:
  values = config.net.to_dict()
  values["kernel_init_std"] = values["kernel_init_std"] or None
  net = VQGAN(in_channels=channels, out_channels=channels, dtype=dtype, **values)
  if not config.gan.weight:
    return net, None
  gan = config.gan
  return net, MultiScaleDiscriminator(scales=gan.scales, features=tuple(gan.features), dtype=dtype)


def _init(key: Array, *, nets: Any, txs: Any, config: Any, shape: tuple[int, ...]) -> State:
  net, disc = nets
  gen_key, disc_key, code_key, key = jax.random.split(key, 4)
  images = jnp.zeros(shape, jnp.float32)
  num_codes, width = config.codebook.num_codes, config.net.code_dim
  codes = quantize.normalize(jax.random.normal(code_key, (num_codes, width)))
  gen = {"net": net.init(gen_key, images, train=False)["params"], "codebook": codes}
  disc_params = disc.init(disc_key, images)["params"] if disc else {}
  return State(
    step=jnp.zeros((), jnp.int32),
    gen=gen,
    disc=disc_params,
    gen_opt=txs[0].init(gen),
    disc_opt=txs[1].init(disc_params),
    ema=jax.tree.map(jnp.copy, gen) if config.ema else {},
    usage=jnp.full((num_codes,), 1.0 / num_codes),
    counts=jnp.zeros((2, num_codes)),
    skipped=jnp.zeros((2,), jnp.int32),
    key=key,
  )


def _warm_start(
  state: State, images_m11: Array, frozen: Params, *, net: VQGAN, config: Any, channels: int
) -> State:
  """The codebook becomes the k-means centres of the first batches' latents."""
  del frozen
  images = _to_channels(images_m11, channels)
  latents = net.apply({"params": state.gen["net"]}, images, train=False, method="encode")
  codes = quantize.kmeans(
    latents.reshape(-1, latents.shape[-1]),
    jax.random.fold_in(state.key, -1),
    num_codes=config.codebook.num_codes,
    iterations=10,
  )
  ema = {**state.ema, "codebook": codes} if config.ema else {}
  return state.replace(gen={**state.gen, "codebook": codes}, ema=ema)


def _train_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  nets: Any,
  txs: Any,
  config: Any,
  distance: Callable[[Params, Array, Array], Array] | None,
  channels: int,
  gan_steps: tuple[int, int],
  steps_per_epoch: int,
) -> tuple[State, Metrics]:
  """One update of both players. batch: {"images_m11": f32[N, H, W, 1 or C]}."""
  net, disc = nets
  images = _to_channels(batch["images_m11"], channels)
  keys = [
    jax.random.fold_in(jax.random.fold_in(state.key, state.step), use)
    for use in (_DROP_PATH, _AUGMENT, _REVIVE)
  ]

  # Forward once; keep the way back.
  forward = functools.partial(_forward, net=net, images=images, key=keys[_DROP_PATH], config=config)
  (outputs, backward, aux) = jax.vjp(forward, state.gen, has_aux=True)
  recon, _ = outputs
  grade = functools.partial(_grade, target=images, frozen=frozen, config=config, distance=distance)
  (_, scalars), pixel_grad = jax.value_and_grad(grade, has_aux=True)(recon)
  scalars |= aux["losses"]

  # The discriminator's view of the same reconstruction.
  disc_grads: Any = {}
  if disc is not None:
    start, warmup = gan_steps
    weight = config.gan.weight * jnp.clip((state.step - start + 1) / warmup - 1.0, 0.0, 1.0)
    fooled, disc_grads, gan_scalars = _play(
      disc, state.disc, recon, images, keys[_AUGMENT], policy=tuple(config.gan.augment)
    )
    if config.gan.adaptive:
      weight *= _adaptive(net, state.gen, aux["features"], pixel_grad, fooled, config.gan.adaptive_cap)
    pixel_grad = pixel_grad + weight * fooled
    scalars |= gan_scalars | {"gan_weight": weight}

  (gen_grads,) = backward((pixel_grad, jnp.ones(())))
  finite = optim.all_finite((gen_grads, disc_grads))
  gen, gen_opt = _update(txs[0], gen_grads, state.gen, state.gen_opt, finite)
  disc_params, disc_opt = state.disc, state.disc_opt
  if disc is not None:
    trains = finite & (state.step >= gan_steps[0])
    disc_params, disc_opt = _update(txs[1], disc_grads, disc_params, disc_opt, trains)
  ema = optim.ema_update(state.ema, gen, config.ema, state.step) if config.ema else {}

  # Codes that nothing uses are drawn anew from this batch's latents.
  counts = quantize.code_counts(aux["indices"], state.usage.shape[0])
  usage = quantize.update_usage(state.usage, counts, config.codebook.usage_decay)
  gen, gen_opt, ema, usage, revived = _revive(
    state.step, gen, gen_opt, ema, usage, aux["latents"], keys[_REVIVE], config.codebook, finite
  )
  epoch_counts = _add_counts(state.counts, counts, state.step, steps_per_epoch)
  skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
  scalars |= _code_scalars(epoch_counts) | {
    "revived": revived,
    "skipped": skipped[0],
    "skipped_in_a_row": skipped[1],
    "gradient_norm": optax.tree.norm(gen_grads),
  }
  new = State(
    step=state.step + 1,
    gen=gen,
    disc=disc_params,
    gen_opt=gen_opt,
    disc_opt=disc_opt,
    ema=ema,
    usage=usage,
    counts=epoch_counts,
    skipped=skipped,
    key=state.key,
  )
  return new, scalars


def _to_channels(images_m11: Array, channels: int) -> Array:
  """Grey travels as one channel from the host and becomes `channels` equal ones here."""
  if images_m11.shape[-1] == channels:
    return images_m11
  return jnp.repeat(images_m11, channels, axis=-1)


def _forward(gen: Params, *, net: VQGAN, images: Array, key: Array, config: Any) -> Any:
  """-> ((reconstruction f32[N, H, W, C], code loss f32[]), what else the step needs)."""
  variables, rngs = {"params": gen["net"]}, {"drop_path": key}
  apply = functools.partial(net.apply, variables, rngs=rngs)
  latents = apply(images, train=True, method="encode")
  codes = quantize.quantize(latents, gen["codebook"])
  features = apply(codes.codes, train=True, method="decode_features")
  recon = apply(features, method="head")
  weights = config.loss
  losses = {
    "commitment": jnp.mean(codebook.commitment(codes.unit_latents, codes.unit_codes)),
    "codebook": jnp.mean(codebook.codebook(codes.unit_latents, codes.unit_codes)),
  }
  code_loss = weights.commitment * losses["commitment"] + weights.codebook * losses["codebook"]
  if weights.entropy:
    total, weight = codebook.entropy(
      codes.unit_latents, gen["codebook"], temperature=weights.entropy_temperature
    )
    losses["entropy"] = total / weight
    code_loss += weights.entropy * losses["entropy"]
  aux = {"losses": losses, "features": features, "indices": codes.indices, "latents": latents}
  return (recon, code_loss), jax.lax.stop_gradient(aux)


def _grade(
  recon: Array, *, target: Array, frozen: Params, config: Any, distance: Any
) -> tuple[Array, Metrics]:
  """Reconstruction + perceptual loss, f32[]."""
  error = {"l1": reconstruction.l1, "mse": reconstruction.mse}[config.loss.reconstruction]
  scalars = {"reconstruction": jnp.mean(error(recon, target))}
  total = scalars["reconstruction"]
  if distance is not None:
    scalars["perceptual"] = jnp.mean(distance(frozen, recon, target))
    total += config.perceptual.weight * scalars["perceptual"]
  return total, scalars


def _play(
  disc: MultiScaleDiscriminator,
  params: Params,
  recon: Array,
  images: Array,
  key: Array,
  *,
  policy: tuple[str, ...],
) -> tuple[Array, Params, Metrics]:
  """-> (d generator loss / d reconstruction, gradients of the discriminator, scalars)."""
  see = functools.partial(diff_augment, key=key, policy=policy) if policy else lambda x: x

  def fool(pixels: Array) -> Array:
    return jnp.mean(adversarial.hinge_generator(disc.apply({"params": params}, see(pixels))))

  def tell_apart(params: Params) -> Array:
    logits = [disc.apply({"params": params}, see(x)) for x in (images, recon)]
    return jnp.mean(adversarial.hinge_discriminator(*logits))

  gen_loss, pixel_grad = jax.value_and_grad(fool)(recon)
  disc_loss, disc_grads = jax.value_and_grad(tell_apart)(params)
  return pixel_grad, disc_grads, {"gan_generator": gen_loss, "gan_discriminator": disc_loss}


def _adaptive(
  net: VQGAN, gen: Params, features: Array, graded: Array, fooled: Array, cap: float
) -> Array:
  """The GAN weight that balances both gradients at the last convolution, from a backward pass of that one alone."""

  def head(params: Params) -> Array:
    return net.apply({"params": {**gen["net"], "head": params}}, features, method="head")

  _, backward = jax.vjp(head, gen["net"]["head"])
  return adversarial.adaptive_weight(
    backward(graded)[0]["kernel"], backward(fooled)[0]["kernel"], cap=cap
  )


def _update(tx: Any, grads: Any, params: Any, opt_state: Any, accept: Array) -> tuple[Any, Any]:
  """One optimiser update, or nothing at all where `accept` is false."""
  safe = optim.select(accept, grads, jax.tree.map(jnp.zeros_like, grads))
  updates, new_state = tx.update(safe, opt_state, params)
  new_params = optax.apply_updates(params, updates)
  return optim.select(accept, new_params, params), optim.select(accept, new_state, opt_state)


def _revive(
  step: Array,
  gen: Any,
  gen_opt: Any,
  ema: Any,
  usage: Array,
  latents: Array,
  key: Array,
  config: Any,
  finite: Array,
) -> tuple[Any, Any, Any, Array, Array]:
  """Every `revive_every` steps: new rows for dead codes, with clean moments and average, and a fresh usage."""
  num_codes = usage.shape[0]
  now = finite & ((step + 1) % config.revive_every == 0)
  threshold = jnp.where(now, config.revive_threshold / num_codes, -1.0)
  flat = latents.reshape(-1, latents.shape[-1])
  codes, revived = quantize.revive(gen["codebook"], usage, flat, key, threshold=threshold)
  gen = {**gen, "codebook": codes}
  gen_opt = optim.zero_rows(gen_opt, "codebook", revived)
  if ema:
    ema = {**ema, "codebook": jnp.where(revived[:, None], codes, ema["codebook"])}
  usage = jnp.where(revived, 1.0 / num_codes, usage)
  return gen, gen_opt, ema, usage, jnp.sum(revived)


def _add_counts(both: Array, counts: Array, step: Array, steps_per_epoch: int) -> Array:
  """f32[2, K]: at the first step of an epoch the running counts become those of the epoch before."""
  first = step % steps_per_epoch == 0
  running, before = jnp.where(first, 0.0, both[0]), jnp.where(first, both[0], both[1])
  return jnp.stack([running + counts, before])


def _code_scalars(both: Array) -> Metrics:
  """Usage and perplexity of the last whole epoch; of what there is in the first one."""
  counts = jnp.where(jnp.sum(both[1]) > 0, both[1], both[0])
  return {
    "code_usage": jnp.mean((counts > 0).astype(jnp.float32)),
    "code_perplexity": quantize.perplexity(counts),
  }


def reconstruct(params: Params, images_m11: Array, *, net: VQGAN) -> tuple[Array, Array]:
  """-> (reconstruction in [-1, 1] f32[N, H, W, C], code indices i32[N, h, w])."""
  latents = net.apply({"params": params["net"]}, images_m11, train=False, method="encode")
  codes = quantize.quantize(latents, params["codebook"])
  pictures = net.apply({"params": params["net"]}, codes.codes, train=False, method="decode")
  return jnp.clip(pictures, -1.0, 1.0), codes.indices


def _eval_step(
  state: State, batch: Batch, frozen: Params, *, net: VQGAN, channels: int
) -> tuple[Mapping[str, Array], Array]:
  """Totals over the batch, of the averaged weights where there are any. batch["weight"] f32[N] is 0 on padding."""
  del frozen
  params = state.ema or state.gen
  images = _to_channels(batch["images_m11"], channels)
  pictures, indices = reconstruct(params, images, net=net)
  weight = batch["weight"]
  per_position = jnp.broadcast_to(weight[:, None, None], indices.shape)
  totals = {
    "weight": jnp.sum(weight),
    # Both in the [0, 1] scale, in which papers report them.
    "psnr": jnp.sum(weight * image.psnr(pictures, images, data_range=2.0)),
    "l1": jnp.sum(weight * reconstruction.l1(pictures, images)) / 2.0,
    "counts": jnp.zeros(params["codebook"].shape[0]).at[indices].add(per_position),
  }
  return totals, pictures


def summarise(totals: Mapping[str, Any]) -> dict[str, float]:
  """psnr in dB, l1 in [0, 1] intensity units, share of codes in use and their perplexity on these images."""
  weight = float(totals["weight"])
  return {
    "psnr": float(totals["psnr"]) / weight,
    "l1": float(totals["l1"]) / weight,
    "code_usage": float((totals["counts"] > 0).mean()),
    "code_perplexity": float(quantize.perplexity(totals["counts"])),
  }
