"""Three PatchGANs that look at the image, its half and its quarter."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.blocks import Conv, GroupNorm
from hiresmed_jax.types import Array

_INIT_STD = 0.02


class PatchDiscriminator(nn.Module):
  """4x4 stride-2 convolutions, GroupNorm, LeakyReLU 0.2, 4x4 head (the paper's section 2.2).

  [N,H,W,C] -> logits f32[N,H/2^k - 1,W/2^k - 1,1], k = len(features). Every convolution but the
  last but one is followed by LeakyReLU alone; the last hidden one is normalised first. N(0, 0.02).
  """

  features: tuple[int, ...] = (64, 128)
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    options: dict[str, Any] = {"dtype": self.dtype, "kernel_init_std": _INIT_STD}
    for index, features in enumerate(self.features):
      x = Conv(features, 4, stride=2, **options, name=f"layer{index}")(x)
      if index == len(self.features) - 1:
        x = GroupNorm(self.dtype, name="norm")(x)
      x = jax.nn.leaky_relu(x, 0.2)
    return Conv(1, 4, **options, name="head")(x).astype(jnp.float32)


class MultiScaleDiscriminator(nn.Module):
  """One PatchDiscriminator per scale, own weights. images_m11 [N,H,W,C] -> tuple of f32 logits.

  Scale s sees the image average-pooled s times by 2: local details, medium-scale structures and
  the global layout (the paper's section 2.2).
  """

  scales: int = 3
  features: tuple[int, ...] = (64, 128)
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images_m11: Array) -> tuple[Array, ...]:
    logits = []
    for scale in range(self.scales):
      if scale:
        images_m11 = nn.avg_pool(images_m11, (2, 2), strides=(2, 2))
      net = PatchDiscriminator(self.features, self.dtype, name=f"scale{scale}")
      logits.append(net(images_m11))
    return tuple(logits)
