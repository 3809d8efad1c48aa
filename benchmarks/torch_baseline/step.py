"""The two baselines, ready to train: `hiresmed_step` and `published_step`.

Both take images_m11 [N,C,H,W] in [-1, 1]; see `training.Step` for what they return.
"""

from typing import Any

import ml_collections
import numpy as np
import torch
from torch import Tensor

from benchmarks.torch_baseline import convert, discriminator, optim, quantizer
from benchmarks.torch_baseline.autoencoder import Autoencoder
from benchmarks.torch_baseline.discriminator import MultiScaleDiscriminator
from benchmarks.torch_baseline.hiresmed import VQGAN
from benchmarks.torch_baseline.published import FAULTS, published_step
from benchmarks.torch_baseline.rules import Perceptual, Revival, Rules
from benchmarks.torch_baseline.training import Step, prepare

__all__ = ["FAULTS", "Step", "hiresmed_step", "linen", "published_step"]


def hiresmed_step(
  config: Any,
  *,
  channels: int,
  size: int | tuple[int, int],
  steps: int,
  params: Any = None,
  codebook: Any = None,
  disc_params: Any = None,
  perceptual: Perceptual | None = None,
  revival: bool = False,
  remat: bool = False,
  device: str | torch.device = "cpu",
  dtype: torch.dtype = torch.float32,
  channels_last: bool = True,
  compiled: bool | str = False,
  seed: int = 0,
) -> Step:
  """HiResMed-VQGAN's training step (hiresmed_jax.routes.background.task) in PyTorch.

  Args:
    config: the nested values of `routes.background.settings`.
    channels: of the images that the network sees.
    size: rows and columns of an image; they must be multiples of the strides' product.
    steps: length of the run, of which the GAN's start and the warm-ups are shares.
    params, codebook, disc_params: Linen parameters of the network and of the discriminator, and
      f32[K, D], to start from; None draws them from the same distributions (`config.codebook.init`
      "kmeans" then takes the first batch).
    perceptual: (prediction_m11, target_m11) -> f32[N]; with None, the weights that
      `config.perceptual.net` names are read from the cache folder.
    revival: redraw unused codes as the config says.
    remat: recompute blocks on the way back, instead of what the config says: slower, less memory.
    dtype: bfloat16 computes under autocast.
    compiled: through torch.compile; a string is its mode.

  Raises:
    UserError: no weights of the perceptual network.
    ValueError: a size that does not fit the strides.
  """
  config = ml_collections.ConfigDict(config)
  sides = (size, size) if isinstance(size, int) else tuple(size)
  factor = int(np.prod(config.net.strides))
  if any(side % factor for side in sides):
    raise ValueError(f"images of {sides[0]} x {sides[1]}: both must be multiples of {factor}")
  prepare(device, seed)
  generator = _generator(config, channels, params, codebook, remat)
  disc = _discriminator(config, channels, disc_params) if config.gan.weight else None
  place: dict[str, Any] = {"device": device}
  if channels_last:
    place["memory_format"] = torch.channels_last
  generator.to(**place)
  if disc is not None:
    disc.to(**place)
  if perceptual is None and config.perceptual.net:
    perceptual = _perceptual(config, device)
  # As in ours: the schedule of the discriminator spans the steps in which it trains.
  trained = steps - round(config.gan.start * steps) or steps
  num_codes, values = config.codebook.num_codes, config.codebook
  even = torch.full((num_codes,), 1.0 / num_codes, device=device)
  revive = Revival(even, values.usage_decay, values.revive_every, values.revive_threshold)

  def warm_start(images: Tensor) -> None:
    with torch.no_grad():
      latents = generator.encode(images).flatten(0, -2)
      generator.codebook.copy_(quantizer.kmeans(latents, num_codes))

  return Step(
    generator,
    disc,
    (_updates(config, generator, steps), _updates(config, disc, trained) if disc else None),
    _rules(config, perceptual, steps),
    channels=channels,
    device=device,
    dtype=dtype,
    channels_last=channels_last,
    compiled=compiled,
    revival=revive if revival else None,
    warm_start=warm_start if codebook is None and values.init == "kmeans" else None,
    total_steps=steps,
  )


def linen(step: Step) -> dict[str, Any]:
  """Weights of `hiresmed_step` as {"net", "codebook", "disc"}, Linen's names, NumPy arrays."""
  generator, disc = step.generator, step.discriminator
  net: Any = generator.net
  return {
    "net": convert.linen_params(dict(net.named_parameters()), net),
    "codebook": generator.codebook.detach().cpu().numpy().copy(),
    "disc": {} if disc is None else convert.linen_params(dict(disc.named_parameters()), disc),
  }


def _generator(config: Any, channels: int, params: Any, codebook: Any, remat: bool) -> Autoencoder:
  values = config.net.to_dict() | {"remat": remat}
  values["kernel_init_std"] = values["kernel_init_std"] or None
  del values["skeleton"]  # of this one
  net = VQGAN(in_channels=channels, out_channels=channels, **values)
  generator = Autoencoder(net, config.codebook.num_codes, config.net.code_dim, config.loss)
  if params is not None:
    net.load_state_dict(convert.state_dict(params, net))
  if codebook is not None:
    with torch.no_grad():
      generator.codebook.copy_(torch.tensor(np.asarray(codebook)))
  return generator


def _discriminator(config: Any, channels: int, params: Any) -> MultiScaleDiscriminator:
  disc = MultiScaleDiscriminator(channels, config.gan.scales, tuple(config.gan.features))
  discriminator.initialise(disc)
  if params is not None:
    disc.load_state_dict(convert.state_dict(params, disc))
  return disc


def _updates(config: Any, module: torch.nn.Module, steps: int) -> optim.Updates:
  values = config.optimizer
  n = values.accumulate
  rate = optim.schedule(
    values.schedule,
    values.learning_rate,
    warmup=round(values.warmup * steps) // n,
    total=steps // n,
  )
  return optim.Updates(
    module,
    rate,
    betas=(values.b1, values.b2),
    eps=values.eps,
    weight_decay=values.weight_decay,
    clip=values.clip,
    accumulate=n,
  )


def _rules(config: Any, perceptual: Perceptual | None, steps: int) -> Rules:
  gan = config.gan
  start, warmup = round(gan.start * steps), max(1, round(gan.warmup * steps))

  def weight(step: int) -> float:
    return gan.weight * min(max((step - start - warmup + 1) / warmup, 0.0), 1.0)

  return Rules(
    reconstruction=config.loss.reconstruction,
    perceptual=perceptual,
    perceptual_weight=config.perceptual.weight,
    gan_start=start,
    gan_weight=weight,
    adaptive_cap=gan.adaptive_cap if gan.adaptive else None,
    augment=tuple(gan.augment),
    ema=config.ema,
  )


def _perceptual(config: Any, device: str | torch.device) -> Perceptual:
  from benchmarks.torch_baseline import lpips

  dtype = torch.bfloat16 if config.perceptual.bfloat16 else torch.float32
  return lpips.load(config.perceptual.net, dtype=dtype).to(device)
