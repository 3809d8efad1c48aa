"""What a training step is told, and what a generator's forward pass tells it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (prediction_m11, target_m11) -> f32[N]


class Made(NamedTuple):
  """What a generator's forward pass returns, in training."""

  recon: Tensor  # f32[N, C, H, W]
  features: Tensor  # what the last convolution reads
  code_loss: Tensor  # f32[]
  losses: dict[str, Tensor]  # f32[] each, without gradients
  latents: Tensor  # [N, h, w, D]
  indices: Tensor  # i64[N, h, w]


@dataclasses.dataclass(frozen=True)
class Rules:
  """How the pixels are graded, and when and how much the discriminator counts."""

  reconstruction: str  # "l1" or "mse"
  perceptual: Perceptual | None
  perceptual_weight: float
  gan_start: int  # the step from which the discriminator trains
  gan_weight: Callable[[int], float]  # of the generator's GAN loss, by step
  adaptive_cap: float | None  # None: the weight is not adaptive
  augment: Sequence[str] = ()
  ema: float = 0.0


@dataclasses.dataclass
class Revival:
  """Usage of the codes, and how often the unused ones are redrawn."""

  usage: Tensor  # f32[K], running share
  decay: float
  every: int
  threshold: float  # of an evenly used code's share
