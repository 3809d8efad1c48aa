"""The layers under every block: convolution, depthwise convolution, group normalisation."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hiresmed_jax.ops import convolution
from hiresmed_jax.ops.depthwise import depthwise_conv
from hiresmed_jax.ops.groupnorm import group_count, group_norm
from hiresmed_jax.types import Array


def kernel_init(std: float | None) -> Initializer:
  """Normal with standard deviation `std`; None: variance 1 / fan-in, truncated normal."""
  return nn.initializers.lecun_normal() if std is None else nn.initializers.normal(std)


def inherited(module: nn.Module) -> dict[str, Any]:
  """What a block hands to every layer inside it: `dtype` and `kernel_init_std`."""
  return {name: getattr(module, name) for name in ("dtype", "kernel_init_std")}


class Conv(nn.Module):
  """size x size convolution with bias: [N,H,W,I] -> [N,ceil(H/stride),ceil(W/stride),features].

  Padding is (size - 1) // 2 on every side also when strided (Flax's SAME would pad one side only).
  Parameters float32, computed in `dtype`.
  """

  features: int
  size: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,H,W,I] -> [N,ceil(H/stride),ceil(W/stride),features] in `dtype`."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", kernel_init(self.kernel_init_std), shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    pad = (self.size - 1) // 2
    return convolution.conv(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      bias,
      stride=(self.stride, self.stride),
      padding=((pad, pad), (pad, pad)),
    )


class DepthwiseConv(nn.Module):
  """One size x size kernel per channel, with bias, zero padding. [N,H,W,C] -> [N,H,W,C]."""

  size: int
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,H,W,C] -> [N,H,W,C] in `dtype`."""
    shape = (self.size, self.size, 1, x.shape[-1])
    kernel = self.param("kernel", kernel_init(self.kernel_init_std), shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    out = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))
    return out + bias.astype(self.dtype)


class GroupNorm(nn.Module):
  """Group normalisation, 32 groups or the largest divisor of C below, eps 1e-6; SiLU if `silu`.

  [N,...,C] -> the same shape in `dtype`; statistics float32, per example.
  """

  dtype: DTypeLike = jnp.float32
  silu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,...,C] -> [N,...,C] in `dtype`."""
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    groups = group_count(channels)
    return group_norm(x.astype(self.dtype), scale, bias, groups=groups, silu=self.silu)
