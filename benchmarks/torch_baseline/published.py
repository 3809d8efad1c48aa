"""`published_step`: the VQGAN as its two public recipes train it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.torch_baseline import discriminator, lpips, optim, vqgan
from benchmarks.torch_baseline.discriminator import PatchGAN
from benchmarks.torch_baseline.rules import Perceptual, Rules
from benchmarks.torch_baseline.training import Step, prepare
from hiresmed_jax.errors import UserError

LEARNING_RATE = 2.25e-5  # batch 5 x 4.5e-6
GAN_WEIGHT = 0.8
DISC_START = 10_000  # what both recipes say for one's own images,
LATE_DISC_START = 250_001  # and what `taming` says for ImageNet
FAULTS = {
  "attn_proj_off": "attention is added without its projection",
  "random_lpips_heads": "the heads of LPIPS are not loaded and stay random",
  "no_shuffle": "images come in one fixed order, every epoch (the caller's part: step.shuffle)",
  "early_disc_start": f"the discriminator starts at step {DISC_START:,}",
}


def published_step(
  recipe: str,
  *,
  channels: int,
  width: int = 128,
  levels: Sequence[int] = vqgan.LEVELS,
  learning_rate: float | None = None,
  steps: int,
  disc_start: int | None = None,
  perceptual: Perceptual | None = None,
  device: str | torch.device = "cpu",
  dtype: torch.dtype = torch.float32,
  channels_last: bool = True,
  compiled: bool | str = False,
  seed: int = 0,
  faults: Sequence[str] = (),
) -> Step:
  """The VQGAN's training step: L1 + LPIPS + codes + adaptive PatchGAN, Adam (0.5, 0.9).

  Three departures, all in its favour: the discriminator judges the reconstruction that the
  generator was trained on, without a second forward pass; its loss does not reach the generator;
  nothing of it is computed before it starts, where its weight is 0.

  Args:
    recipe: "taming", the fair one, or "dome272", which the paper started from.
    channels: of the images; sides are multiples of 16.
    width: channels of the first layers; 128 as published, less where a CPU must do.
    levels: widths by resolution, finest first, in `width`s; fewer than published shorten less.
    learning_rate: None for the published 2.25e-5.
    steps: length of the run, for the description alone: the rate is constant.
    disc_start: step from which both players feel the discriminator. None: 10,000, but 250,001 for
      "dome272" without the fault "early_disc_start".
    perceptual: (prediction_m11, target_m11) -> f32[N], of weight 1; without it there is no such
      term, and `Step.description` says so.
    faults: of FAULTS, for "dome272".

  Raises:
    UserError: an unknown recipe or fault, or a fault that cannot be had.
    ValueError: a width that is no multiple of 4.
  """
  _check(recipe, faults)
  prepare(device, seed)
  if "random_lpips_heads" in faults:
    if not isinstance(perceptual, lpips.LPIPS):
      raise UserError("random_lpips_heads needs the LPIPS of this folder as `perceptual`")
    perceptual = perceptual.with_random_heads()
  if isinstance(perceptual, nn.Module):
    perceptual = perceptual.to(device)
  if recipe == "taming":
    generator = vqgan.taming(channels, width, levels=levels)
  else:
    off = "attn_proj_off" in faults
    generator = vqgan.dome272(channels, width, levels=levels, attn_proj_off=off)
  disc = PatchGAN(channels, width // 2)
  discriminator.initialise(disc)
  place: dict[str, Any] = {"device": device}
  if channels_last:
    place["memory_format"] = torch.channels_last
  generator.to(**place)
  disc.to(**place)
  if disc_start is None:
    late = recipe == "dome272" and "early_disc_start" not in faults
    disc_start = LATE_DISC_START if late else DISC_START
  published = LEARNING_RATE if learning_rate is None else learning_rate
  rate = optim.schedule("constant", published, warmup=0, total=steps)
  updates = (
    optim.Updates(generator, rate, betas=(0.5, 0.9)),
    optim.Updates(disc, rate, betas=(0.5, 0.9)),
  )
  rules = Rules(
    reconstruction="l1",
    perceptual=perceptual,
    perceptual_weight=1.0,
    gan_start=disc_start,
    gan_weight=lambda step: GAN_WEIGHT,
    adaptive_cap=1e4,
  )
  return Step(
    generator,
    disc,
    updates,
    rules,
    channels=channels,
    device=device,
    dtype=dtype,
    channels_last=channels_last,
    compiled=compiled,
    total_steps=steps,
    shuffle="no_shuffle" not in faults,
  )


def _check(recipe: str, faults: Sequence[str]) -> None:
  if recipe not in ("taming", "dome272"):
    raise UserError(f"no published recipe is called {recipe!r}: taming or dome272")
  unknown = [fault for fault in faults if fault not in FAULTS]
  if unknown:
    raise UserError(f"no known fault is called {unknown[0]!r}: {', '.join(FAULTS)}")
  if faults and recipe != "dome272":
    raise UserError(f"{recipe} has none of dome272's faults: leave them out")
