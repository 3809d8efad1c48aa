"""HiResMed-VQGAN without its codebook: images to latents, codes to images; its discriminators."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.blocks import (
  HDFB,
  Activation,
  ChannelAttention,
  DetailEnhancement,
  Residual,
)
from hiresmed_jax.nets.layers import Conv, GroupNorm, Head, inherited
from hiresmed_jax.nets.resampling import Downsample, Upsample, Upsampling
from hiresmed_jax.ops.activation import leaky_relu
from hiresmed_jax.types import Array

Block = Literal["hdfb", "residual"]
ModuleType = TypeVar("ModuleType", bound=type[nn.Module])


def recomputed(module: ModuleType, remat: bool, *, static: tuple[int, ...] = ()) -> ModuleType:
  """`module`, computed again in the backward pass if `remat`.

  `static` are the positions, self = 0, of arguments that are plain Python values.
  """
  return nn.remat(module, static_argnums=static) if remat else module


class Stack(nn.Module):
  """Blocks in sequence, one per drop-path rate. [N,H,W,I] -> [N,H,W,features].

  `remat` keeps the inputs of the blocks alone. Raises ValueError for an unknown `block`.
  """

  features: int
  drop_path_rates: tuple[float, ...]
  block: Block = "hdfb"
  activation: Activation = "relu"
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    options = inherited(self)
    for index, rate in enumerate(self.drop_path_rates):
      name = f"block{index}"
      if self.block == "hdfb":
        hdfb = recomputed(HDFB, self.remat, static=(2,))
        x = hdfb(self.features, self.activation, rate, **options, name=name)(x, train)
      elif self.block == "residual":
        residual = recomputed(Residual, self.remat, static=(2,))
        x = residual(self.features, **options, name=name)(x, train)
      else:
        raise ValueError(f"unknown block {self.block!r}: hdfb or residual")
    return x


class EncoderStage(nn.Module):
  """Downsample by 2^steps, then `blocks`. [N,H,W,I] -> [N,H/2^steps,W/2^steps,features]."""

  steps: int
  blocks: Stack
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    if self.steps:
      down = recomputed(Downsample, self.remat)
      x = down(self.blocks.features, self.steps, **inherited(self), name="down")(x)
    return self.blocks(x, train)


class DecoderStage(nn.Module):
  """Upsample, `blocks`, channel attention. [N,H,W,I] -> [N,H*2^k,W*2^k,features[-1]].

  With `apart` -> what attention multiplies: (the same before it, its weights f32[N,1,1,C]).
  """

  features: tuple[int, ...]
  blocks: Stack
  upsampling: Upsampling = "transposed"
  se_ratio: int = 16
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool, *, apart: bool = False) -> Any:
    up = recomputed(Upsample, self.remat)
    x = up(self.features, self.upsampling, **inherited(self), name="up")(x)
    x = self.blocks(x, train)
    attention = ChannelAttention(self.se_ratio, self.kernel_init_std, name="attention")
    return attention(x, apart=apart)


class DecoderTail(nn.Module):
  """Detail enhancement, GN, SiLU: what the head reads. [N,H,W,C], gate f32[N,1,1,C] -> like x."""

  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array, gate: Array) -> Array:
    detail = recomputed(DetailEnhancement, self.remat)
    x = detail(**inherited(self), name="detail")(x, gate)
    return GroupNorm(self.dtype, "silu", name="norm")(x)


class VQGAN(nn.Module):
  """Encoder and decoder of HiResMed-VQGAN (the paper's section 2.2).

  Images are [N,H,W,in_channels] in [-1, 1], H and W multiples of the product of `strides` (else
  ValueError); latents and codes are f32[N,H/s,W/s,code_dim], s that product.

  Encoder: a 3x3 stride-2 stem, which is the first halving of stage 1; per stage the other halvings
  with a shortcut, then `encoder_blocks` blocks; `middle_blocks`; GN, SiLU, 1x1. Decoder: 1x1,
  `middle_blocks`, the stages mirrored with `decoder_blocks` blocks and channel attention each;
  detail enhancement; GN, SiLU, 3x3 head without tanh. Inside the last stage the channels pass
  `stem_channels` on the way to `full_resolution_channels`.

  `drop_path_rate` rises linearly from 0 with depth in the encoder, and falls to 0 in the decoder,
  whose last stage has none; `train=True` then needs the rng "drop_path". `kernel_init_std`: normal
  kernels of that deviation. Computation is in `dtype`; parameters, latents, head and images are
  float32. `remat` recomputes the blocks in the backward pass: same values and parameter names.
  """

  in_channels: int = 3
  out_channels: int = 3
  stem_channels: int = 64
  channels: tuple[int, ...] = (128, 256, 512)
  strides: tuple[int, ...] = (4, 4, 4)
  encoder_blocks: int = 2
  middle_blocks: int = 1
  decoder_blocks: int = 1
  full_resolution_channels: int = 32
  code_dim: int = 256
  block: Block = "hdfb"
  activation: Activation = "relu"
  drop_path_rate: float = 0.0
  upsampling: Upsampling = "transposed"
  se_ratio: int = 16
  kernel_init_std: float | None = None
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self) -> None:
    """Make the layers of both halves."""
    options = {**inherited(self), "remat": self.remat}
    plain = inherited(self)
    steps = _halvings(self.strides, self.channels)
    stages, last = len(self.channels), self.channels[-1]

    # Without a parent at first: the stage that runs the blocks owns them.
    def stack(features: int, rates: Sequence[float]) -> Stack:
      return Stack(features, tuple(rates), self.block, self.activation, **options, parent=None)

    n = self.encoder_blocks
    rates = encoder_drop_path(self.drop_path_rate, stages * n + self.middle_blocks)
    self.stem = Conv(self.stem_channels, 3, stride=2, **plain)
    self.encoder_stages = [
      EncoderStage(steps[i] - (i == 0), stack(c, rates[i * n : (i + 1) * n]), **options)
      for i, c in enumerate(self.channels)
    ]
    self.encoder_middle = stack(last, rates[stages * n :])
    self.latent_norm = GroupNorm(self.dtype, "silu")
    self.latent_conv = Conv(self.code_dim, 1, kernel_init_std=self.kernel_init_std)

    n = self.decoder_blocks
    rates = decoder_drop_path(self.drop_path_rate, self.middle_blocks + stages * n, n)
    self.code_conv = Conv(last, 1, **plain)
    self.decoder_middle = stack(last, rates[: self.middle_blocks])
    rates = rates[self.middle_blocks :]
    self.decoder_stages = [
      DecoderStage(
        features,
        stack(features[-1], rates[i * n : (i + 1) * n]),
        self.upsampling,
        self.se_ratio,
        **options,
      )
      for i, features in enumerate(self._decoder_features(steps))
    ]
    self.decoder_tail = DecoderTail(**options)
    self.output = Head(self.out_channels, self.kernel_init_std)

  def _decoder_features(self, steps: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Channels after each doubling, one tuple per decoder stage, coarsest first."""
    stages = [(self.channels[i - 1],) * steps[i] for i in reversed(range(1, len(self.channels)))]
    final = (self.stem_channels,) * (steps[0] - 1) + (self.full_resolution_channels,)
    return [*stages, final]

  def encode(self, images_m11: Array, train: bool = False) -> Array:
    """[N,H,W,in_channels] in [-1, 1] -> latents f32[N,H/s,W/s,code_dim], not normalised."""
    factor = math.prod(self.strides)
    _, height, width, channels = images_m11.shape
    if height % factor or width % factor or channels != self.in_channels:
      raise ValueError(
        f"images of shape {images_m11.shape}: height and width must be multiples of {factor}, "
        f"channels {self.in_channels}"
      )
    x = self.stem(images_m11)
    for stage in self.encoder_stages:
      x = stage(x, train)
    x = self.latent_norm(self.encoder_middle(x, train))
    return self.latent_conv(x.astype(jnp.float32))

  def decode_features(self, codes: Array, train: bool = False) -> Array:
    """[N,h,w,code_dim] -> what the last convolution reads, [N,h*s,w*s,full_resolution_channels].

    In `dtype`. Kept apart so that the adaptive GAN weight differentiates the head alone.
    """
    x = self.decoder_middle(self.code_conv(codes), train)
    *stages, last = self.decoder_stages
    for stage in stages:
      x = stage(x, train)
    return self.decoder_tail(*last(x, train, apart=True))

  def head(self, features: Array) -> Array:
    """The last 3x3 convolution, float32: features -> images_m11 f32[N,H,W,out_channels].

    Not bounded: values may leave [-1, 1].
    """
    return self.output(features)

  def decode(self, codes: Array, train: bool = False) -> Array:
    """Codes [N,h,w,code_dim] -> images_m11 f32[N,h*s,w*s,out_channels]."""
    return self.head(self.decode_features(codes, train))

  def __call__(self, images_m11: Array, train: bool = False) -> Array:
    """decode(encode(images)) without a quantiser; what `init` runs."""
    return self.decode(self.encode(images_m11, train), train)


def encoder_drop_path(rate: float, blocks: int) -> tuple[float, ...]:
  """Linear in depth, 0 to `rate`, over the encoder's blocks."""
  return tuple(rate * i / max(blocks - 1, 1) for i in range(blocks))


def decoder_drop_path(rate: float, blocks: int, last_stage: int) -> tuple[float, ...]:
  """Linear from `rate` towards 0; the `last_stage` blocks at full resolution have 0."""
  before = blocks - last_stage
  return tuple(rate * (1 - i / before) for i in range(before)) + (0.0,) * last_stage


def _halvings(strides: tuple[int, ...], channels: tuple[int, ...]) -> tuple[int, ...]:
  """log2 of each stage's stride; ValueError unless powers of two, one per channel count."""
  if len(strides) != len(channels) or any(s < 2 or s & (s - 1) for s in strides):
    raise ValueError(
      f"strides {strides} must be powers of two from 2, one for each of channels {channels}"
    )
  return tuple(s.bit_length() - 1 for s in strides)


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
        x = GroupNorm(self.dtype, "leaky_relu", name="norm")(x)
      else:
        x = leaky_relu(x)
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
