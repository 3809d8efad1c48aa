"""Layers: convolutions, normalisations, logits, and parameters that an operation takes in.

[N,H,W,C]: N images of H x W pixels, C channels. Parameters are float32, computed in `dtype`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from hiresmed_jax.ops import batch_norm, convolution, norm
from hiresmed_jax.ops.activation import Act
from hiresmed_jax.ops.depthwise import depthwise_conv
from hiresmed_jax.ops.head import head
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
  Parameters float32, computed in `dtype`. Biases of others cost nothing here: `lacking`, f32[I],
  is added to the input first, of a 1x1 convolution only; `more`, [features] or [N,features], to
  the output.
  With `apart` -> (the output without its bias, the bias).
  """

  features: int
  size: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    lacking: Array | None = None,
    more: Array | None = None,
    apart: bool = False,
  ) -> Any:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel, bias = kernel_and_bias(self, shape, self.kernel_init_std)
    if lacking is not None:
      assert self.size == 1, "the border of a wider convolution would lack it too"
      bias += lacking @ kernel[0, 0]
    if more is not None:
      bias = bias + more
    pad = (self.size - 1) // 2
    out = convolution.conv(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      None if apart else bias,
      stride=(self.stride, self.stride),
      padding=((pad, pad), (pad, pad)),
    )
    return (out, bias) if apart else out


class DepthwiseConv(nn.Module):
  """One size x size kernel per channel, zero padding. [N,H,W,C] -> ([N,H,W,C], its bias f32[C]).

  The bias is not added: the convolution behind takes it as its own.
  """

  size: int
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    kernel, bias = kernel_and_bias(
      self, (self.size, self.size, 1, x.shape[-1]), self.kernel_init_std
    )
    return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype)), bias


class Head(nn.Module):
  """The last convolution, 3x3, float32 whatever it reads. [N,H,W,C] -> f32[N,H,W,features]."""

  features: int
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (3, 3, x.shape[-1], self.features)
    return head(x, *kernel_and_bias(self, shape, self.kernel_init_std))


class Weights(nn.Module):
  """Kernel and bias, f32, of a convolution that another one takes in."""

  shape: tuple[int, int, int, int]
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self) -> tuple[Array, Array]:
    return kernel_and_bias(self, self.shape, self.kernel_init_std)


def kernel_and_bias(
  module: Any, shape: tuple[int, ...], std: float | None = None
) -> tuple[Array, Array]:
  """Parameters of `module`, f32: a kernel by `kernel_init(std)`, and a bias of zeros."""
  kernel = module.param("kernel", kernel_init(std), shape, jnp.float32)
  return kernel, module.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32)


class GroupNorm(nn.Module):
  """Group normalisation, 32 groups or the largest divisor of C below, eps 1e-6; then `act`.

  [N,...,C] -> the same shape in `dtype`; statistics float32, per example.
  """

  dtype: DTypeLike = jnp.float32
  act: Act = "none"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale, bias = _scale_and_bias(self, x.shape[-1])
    groups = norm.group_count(x.shape[-1])
    return norm.group_norm(x.astype(self.dtype), scale, bias, groups=groups, act=self.act)


class Affine(nn.Module):
  """Scale and bias, f32[channels] each, of a normalisation that an operation takes in."""

  channels: int

  @nn.compact
  def __call__(self) -> tuple[Array, Array]:
    return _scale_and_bias(self, self.channels)


def norm_beside(module: Any, name: str, x: Array) -> tuple[Array, Array]:
  """(SiLU(GN(x)), x) in the type of `module`, in which the norm's parameters are called `name`."""
  scale, bias = Affine(x.shape[-1], name=name, parent=module)()
  groups = norm.group_count(x.shape[-1])
  return norm.group_norm_beside(x.astype(module.dtype), scale, bias, groups=groups, act="silu")


def _scale_and_bias(module: nn.Module, channels: int) -> tuple[Array, Array]:
  return (
    module.param("scale", nn.initializers.ones, (channels,), jnp.float32),
    module.param("bias", nn.initializers.zeros, (channels,), jnp.float32),
  )


class BatchNorm(nn.Module):
  """Batch normalisation, and SiLU if `silu`. [N,H,W,C] -> the same, in the type of x.

  `train` normalises by the batch and moves the running statistics in "batch_stats"; `momentum` is
  the share of the newest batch in them.
  """

  silu: bool
  epsilon: float
  momentum: float

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    channels = (x.shape[-1],)
    scale, bias = _scale_and_bias(self, x.shape[-1])
    mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
    var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
    if not train:
      gain = scale * jax.lax.rsqrt(var.value + self.epsilon)
      return batch_norm.affine(x, gain, bias - mean.value * gain, silu=self.silu)
    y, batch_mean, batch_var = batch_norm.batch_norm(
      x, scale, bias, eps=self.epsilon, silu=self.silu
    )
    if not self.is_initializing():
      count = x.size // x.shape[-1]
      # As PyTorch does: biased for normalising, unbiased for the running figure.
      batch_var = batch_var * (count / max(count - 1, 1))
      mean.value += self.momentum * (batch_mean - mean.value)
      var.value += self.momentum * (batch_var - var.value)
    return y


class Logits(nn.Module):
  """1x1 convolution, float32 bias that begins at `start`, F values: [N,H,W,C] -> f32[N,H,W,F]."""

  start: tuple[float, ...]
  init: Initializer
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (1, 1, x.shape[-1], len(self.start))
    kernel = self.param("kernel", self.init, shape, jnp.float32).astype(self.dtype)
    bias = self.param("bias", lambda _: jnp.asarray(self.start, jnp.float32))
    return convolution.conv(x.astype(self.dtype), kernel).astype(jnp.float32) + bias
