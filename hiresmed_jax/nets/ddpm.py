"""The U-Net of DDPM: estimates the noise in images, given how noisy they are.

Of 128 channels, images of 3: 35,746,307 parameters for 32 x 32 pixels (multipliers 1, 2, 2, 2),
71,436,803 for 128 x 128 (1, 1, 2, 2, 4), 113,673,219 for 256 x 256 (1, 1, 2, 2, 4, 4).
Kernels begin with variance 1 / fan-in; the last one of each block and of the network at 0.

N images of H x W pixels, C channels, E values of an embedding. Source: Ho, Jain and Abbeel, arXiv
2006.11239, appendix B.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.layers import Conv, GroupNorm, Head, inherited, kernel_and_bias, norm_beside
from hiresmed_jax.ops import convolution
from hiresmed_jax.ops.upsample import nearest_conv
from hiresmed_jax.types import Array

_PERIOD = 10_000.0  # the longest of the embedding, over 2 pi, in levels


class DenoisingUNet(nn.Module):
  """Noisy images [N,H,W,C] and their levels [N] -> the noise f32[N,H,W,C].

  H and W divide by 2 ** (levels - 1). In training, draws from the rng collection "dropout".
  """

  width: int = 128
  multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # of the width; the size is halved between them
  blocks: int = 2  # of a level on the way down; one more on the way up
  attention: tuple[int, ...] = (16,)  # at feature maps of so many rows
  dropout: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: Array, levels: Array, *, train: bool = False) -> Array:
    widths = [self.width * multiplier for multiplier in self.multipliers]
    embedding = embed(levels, self.width)
    for name in ("embed1", "embed2"):
      embedding = nn.silu(nn.Dense(4 * self.width, name=name)(embedding))

    def block(x: Array, features: int, name: str) -> Array:
      x = Residual(features, self.dropout, self.dtype, name=name)(x, embedding, train)
      if x.shape[1] in self.attention:
        x = Attention(self.dtype, name=f"{name}_attention")(x)
      return x

    x = Conv(self.width, 3, dtype=self.dtype, name="input")(images)
    beside = [x]
    for level, features in enumerate(widths):
      if level:
        x = Halved(self.dtype, name=f"halve{level}")(x)
        beside.append(x)
      for number in range(self.blocks):
        x = block(x, features, f"down{level}_{number}")
        beside.append(x)
    x = Residual(widths[-1], self.dropout, self.dtype, name="middle1")(x, embedding, train)
    x = Attention(self.dtype, name="middle_attention")(x)
    x = Residual(widths[-1], self.dropout, self.dtype, name="middle2")(x, embedding, train)
    for level, features in reversed(list(enumerate(widths))):
      for number in range(self.blocks + 1):
        x = block(jnp.concatenate([x, beside.pop()], -1), features, f"up{level}_{number}")
      if level:
        x = Doubled(self.dtype, name=f"double{level}")(x)
    x = GroupNorm(self.dtype, "silu", name="norm")(x)
    return Head(images.shape[-1], kernel_init_std=0.0, name="output")(x)


class Residual(nn.Module):
  """[N,H,W,I] and an embedding f32[N,E] -> [N,H,W,features].

  GN -> SiLU -> 3x3, + a linear function of the embedding, GN -> SiLU -> dropout -> 3x3; + the input
  (1x1 when the channels change).
  """

  features: int
  dropout: float
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, embedding: Array, train: bool) -> Array:
    h, x = norm_beside(self, "norm1", x)
    level = nn.Dense(self.features, dtype=self.dtype, name="embed")(embedding)
    h = Conv(self.features, 3, dtype=self.dtype, name="conv1")(h, more=level)
    h = GroupNorm(self.dtype, "silu", name="norm2")(h)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    h = Conv(self.features, 3, dtype=self.dtype, kernel_init_std=0.0, name="conv2")(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, dtype=self.dtype, name="skip")(x)
    return x + h


class Attention(nn.Module):
  """Every position looks at every other one, one head. [N,H,W,C] -> the same."""

  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = 0.0  # of the last layer

  @nn.compact
  def __call__(self, x: Array) -> Array:
    n, height, width, channels = x.shape
    h = GroupNorm(self.dtype, name="norm")(x)
    h = Conv(3 * channels, 1, dtype=self.dtype, name="query_key_value")(h)
    parts = jnp.split(h.reshape(n, height * width, 1, 3 * channels), 3, axis=-1)
    h = jax.nn.dot_product_attention(*parts).reshape(x.shape)
    return x + Conv(channels, 1, **inherited(self), name="output")(h)


class Halved(nn.Module):
  """3x3 convolution of stride 2, zeros beyond the last rows: [N,H,W,C] -> [N,H/2,W/2,C]."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel, bias = kernel_and_bias(self, (3, 3, x.shape[-1], x.shape[-1]))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return convolution.conv(x, kernel, bias, stride=(2, 2), padding=((0, 1), (0, 1)))


class Doubled(nn.Module):
  """Every pixel four times, then a 3x3 convolution: [N,H,W,C] -> [N,2H,2W,C]."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel, bias = kernel_and_bias(self, (3, 3, x.shape[-1], x.shape[-1]))
    return nearest_conv(x.astype(self.dtype), kernel, bias)


def embed(levels: Array, size: int) -> Array:
  """Sines, then cosines, of the levels [N] at rates from 1 to 1 / 10,000: f32[N, size]."""
  half = size // 2
  rates = jnp.exp(jnp.arange(half) * (-math.log(_PERIOD) / (half - 1)))
  angles = levels.astype(jnp.float32)[:, None] * rates
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
