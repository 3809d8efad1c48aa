"""The published VQGAN without its codebook, and its discriminator.

For three channels: 72,141,699 parameters with 1,024 codes of 256; the discriminator has 2,765,633.
[N,H,W,C]: N images of H x W pixels, C channels. Source: Esser et al., arXiv 2012.09841; Isola et
al., arXiv 1611.07004 (the discriminator).
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.blocks import Residual
from hiresmed_jax.nets.ddpm import Attention, Halved
from hiresmed_jax.nets.layers import Conv, GroupNorm, Head
from hiresmed_jax.nets.vqgan import recomputed
from hiresmed_jax.ops import convolution
from hiresmed_jax.ops.activation import leaky_relu
from hiresmed_jax.ops.batch_norm import batch_norm
from hiresmed_jax.types import Array

_INIT_STD = 0.02
# Of `VQGAN`, beside its dtype.
ARGUMENTS = (
  *("in_channels", "out_channels", "channels", "encoder_blocks", "decoder_blocks", "code_dim"),
  "remat",
)


class Half(nn.Module):
  """What both halves of the network share.

  `channels` are those of the levels, finest first; there is attention at the coarsest one.
  """

  channels: tuple[int, ...]
  blocks: int  # of a level
  code_dim: int
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def level(self, x: Array, level: int, name: str) -> Array:
    """The blocks of a level."""
    for number in range(self.blocks):
      x = self.residual(x, level, f"{name}{level}_{number}")
      if level == len(self.channels) - 1:
        x = self.attention(x, f"{name}{level}_{number}_attention")
    return x

  def middle(self, x: Array) -> Array:
    """A residual block, attention, a residual block, at the coarsest level."""
    x = self.attention(self.residual(x, -1, "middle1"), "middle_attention")
    return self.residual(x, -1, "middle2")

  def residual(self, x: Array, level: int, name: str) -> Array:
    """One residual block."""
    block = recomputed(Residual, self.remat, static=(2,))
    return block(self.channels[level], self.dtype, name=name)(x, True)

  def attention(self, x: Array, name: str) -> Array:
    """Attention over all positions."""
    return recomputed(Attention, self.remat)(self.dtype, kernel_init_std=None, name=name)(x)


class Encoder(Half):
  """Images [N,H,W,C] -> latents f32[N,H/s,W/s,code_dim], s = 2^(levels - 1)."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = Conv(self.channels[0], 3, dtype=self.dtype, name="input")(x)
    for level in range(len(self.channels)):
      if level:
        x = Halved(self.dtype, name=f"halve{level}")(x)
      x = self.level(x, level, "down")
    x = GroupNorm(self.dtype, "silu", name="norm")(self.middle(x))
    x = Conv(self.code_dim, 3, dtype=self.dtype, name="output")(x)
    return Conv(self.code_dim, 1, name="latent")(x.astype(jnp.float32))


class Decoder(Half):
  """Codes [N,h,w,code_dim] -> what the last convolution reads, [N,h*s,w*s,channels[0]]."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = Conv(self.code_dim, 1, dtype=self.dtype, name="code")(x)
    x = self.middle(Conv(self.channels[-1], 3, dtype=self.dtype, name="input")(x))
    for level in reversed(range(len(self.channels))):
      x = self.level(x, level, "up")
      if level:
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        x = Conv(self.channels[level], 3, dtype=self.dtype, name=f"double{level}")(x)
    return GroupNorm(self.dtype, "silu", name="norm")(x)


class VQGAN(nn.Module):
  """Encoder and decoder, with the methods of `nets.vqgan.VQGAN`.

  Images are [N,H,W,in_channels] in [-1, 1], H and W multiples of 2^(levels - 1); reconstructions
  are not bounded.
  """

  in_channels: int = 3
  out_channels: int = 3
  channels: tuple[int, ...] = (128, 128, 256, 256, 512)
  encoder_blocks: int = 2
  decoder_blocks: int = 3
  code_dim: int = 256
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self) -> None:
    """Make both halves."""
    last = (self.code_dim, self.dtype, self.remat)
    self.encoder = Encoder(self.channels, self.encoder_blocks, *last)
    self.decoder = Decoder(self.channels, self.decoder_blocks, *last)
    self.output = Head(self.out_channels)

  def encode(self, images_m11: Array, train: bool = False) -> Array:
    """Images -> latents f32[N,h,w,code_dim]; training changes nothing."""
    return self.encoder(images_m11)

  def decode_features(self, codes: Array, train: bool = False) -> Array:
    """Codes -> what the last convolution reads."""
    return self.decoder(codes)

  def head(self, features: Array) -> Array:
    """The last 3x3 convolution, float32."""
    return self.output(features)

  def decode(self, codes: Array, train: bool = False) -> Array:
    """Codes -> images_m11 f32[N,H,W,out_channels]."""
    return self.head(self.decode_features(codes, train))

  def __call__(self, images_m11: Array, train: bool = False) -> Array:
    """decode(encode(images)) without a quantiser; what `init` runs."""
    return self.decode(self.encode(images_m11, train), train)


class PatchGAN(nn.Module):
  """One logit for each 70 x 70 pixels: [N,H,W,C] -> (f32[N,H/8 - 2,W/8 - 2,1],), as of one scale.

  4x4 convolutions of stride 2, the last two of stride 1; batch normalisation but after the first,
  by the batch's own statistics always; LeakyReLU 0.2. Kernels N(0, 0.02), scales N(1, 0.02).
  """

  features: tuple[int, ...] = (64, 128, 256, 512)
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images_m11: Array) -> tuple[Array, ...]:
    first, *others = self.features
    normal = nn.initializers.normal(_INIT_STD)
    options = {"dtype": self.dtype, "kernel_init_std": _INIT_STD}
    x = leaky_relu(Conv(first, 4, stride=2, **options, name="layer0")(images_m11))
    for index, features in enumerate(others, 1):
      stride = 1 if index == len(others) else 2
      kernel = self.param(f"kernel{index}", normal, (4, 4, x.shape[-1], features), jnp.float32)
      scale = self.param(f"scale{index}", lambda *a: 1.0 + normal(*a), (features,), jnp.float32)
      shift = self.param(f"shift{index}", nn.initializers.zeros, (features,), jnp.float32)
      pad = ((1, 1), (1, 1))
      x = convolution.conv(x, kernel.astype(self.dtype), stride=(stride, stride), padding=pad)
      x = leaky_relu(batch_norm(x, scale, shift, eps=1e-5, silu=False)[0])
    return (Conv(1, 4, **options, name="head")(x).astype(jnp.float32),)
