"""Blocks in sequence, and the encoder's and decoder's stages made of them."""

from typing import Literal, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.blocks import HDFB, Activation, ChannelAttention, DetailEnhancement, Residual
from hiresmed_jax.nets.layers import GroupNorm, inherited
from hiresmed_jax.nets.resampling import Downsample, Upsample, Upsampling
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
    """[N,H,W,I] -> [N,H,W,features]."""
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
    """[N,H,W,I] -> [N,H/2^steps,W/2^steps,features]."""
    if self.steps:
      down = recomputed(Downsample, self.remat)
      x = down(self.blocks.features, self.steps, **inherited(self), name="down")(x)
    return self.blocks(x, train)


class DecoderStage(nn.Module):
  """Upsample, `blocks`, channel attention. [N,H,W,I] -> [N,H*2^k,W*2^k,features[-1]]."""

  features: tuple[int, ...]
  blocks: Stack
  upsampling: Upsampling = "transposed"
  se_ratio: int = 16
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N,H,W,I] -> [N,2^k H,2^k W,features[-1]]."""
    up = recomputed(Upsample, self.remat)
    x = up(self.features, self.upsampling, **inherited(self), name="up")(x)
    x = self.blocks(x, train)
    return ChannelAttention(self.se_ratio, self.kernel_init_std, name="attention")(x)


class DecoderTail(nn.Module):
  """Detail enhancement, GN, SiLU: what the head reads. [N,H,W,C] -> the same."""

  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,H,W,C] -> [N,H,W,C]."""
    detail = recomputed(DetailEnhancement, self.remat)
    x = detail(**inherited(self), name="detail")(x)
    return GroupNorm(self.dtype, silu=True, name="norm")(x)
