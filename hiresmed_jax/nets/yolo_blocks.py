"""The blocks of YOLO11: convolution with batch normalisation, and what is built of it.

Built from published figures (Khanam and Hussain, arXiv 2410.17725; layer tables). Maps are
[N, H, W, C]; `train` normalises by the batch and moves the running statistics, which live in the
collection "batch_stats". Parameters are float32, convolutions compute in `dtype`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.blocks import BatchNorm
from hiresmed_jax.ops import convolution
from hiresmed_jax.ops.depthwise import depthwise_conv
from hiresmed_jax.ops.pool import max_pool
from hiresmed_jax.types import Array

EPSILON = 1e-3
MOMENTUM = 0.03  # share of the newest batch in the running statistics
# Uniform with a third of the variance that keeps a signal's: normalisation makes up for it, but it
# sets how far a step of a given learning rate turns a kernel.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ConvNorm(nn.Module):
  """Convolution without bias, batch normalisation, SiLU: [N,H,W,I] -> [N,H/stride,W/stride,F].

  `depthwise`: one kernel per channel, stride 1; `features` is the number of channels then.
  """

  features: int
  size: int = 1
  stride: int = 1
  depthwise: bool = False
  silu: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    inputs = 1 if self.depthwise else x.shape[-1]
    shape = (self.size, self.size, inputs, self.features)
    kernel = self.param("kernel", kernel_init, shape, jnp.float32).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.depthwise:
      x = depthwise_conv(x, kernel)
    else:
      pad = (self.size - 1) // 2
      steps = (self.stride, self.stride)
      x = convolution.conv(x, kernel, stride=steps, padding=((pad, pad), (pad, pad)))
    norm = BatchNorm(self.silu, EPSILON, MOMENTUM, name="norm")
    return norm(x, train)


class Bottleneck(nn.Module):
  """Two 3x3 convolutions, `hidden` channels between them, added to the input."""

  hidden: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N,H,W,C] -> [N,H,W,C]."""
    y = ConvNorm(self.hidden, 3, dtype=self.dtype, name="conv1")(x, train)
    return x + ConvNorm(x.shape[-1], 3, dtype=self.dtype, name="conv2")(y, train)


class C3k(nn.Module):
  """Two bottlenecks on half of the channels, the other half passes by. [N,H,W,C] -> the same."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    half = x.shape[-1] // 2
    y = ConvNorm(half, dtype=self.dtype, name="conv1")(x, train)
    around = ConvNorm(half, dtype=self.dtype, name="conv2")(x, train)
    for i in range(2):
      y = Bottleneck(half, dtype=self.dtype, name=f"block{i}")(y, train)
    y = jnp.concatenate([y, around], -1)
    return ConvNorm(x.shape[-1], dtype=self.dtype, name="conv3")(y, train)


class C3k2(nn.Module):
  """Splits in two, works on one half, joins all: [N,H,W,I] -> [N,H,W,features].

  Each half has `features * share` channels. `deep`: the blocks are C3k, not single bottlenecks.
  """

  features: int
  share: float = 0.5
  deep: bool = False
  repeats: int = 1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    hidden = int(self.features * self.share)
    x = ConvNorm(2 * hidden, dtype=self.dtype, name="conv1")(x, train)
    parts = [x[..., :hidden], x[..., hidden:]]
    for i in range(self.repeats):
      if self.deep:
        parts.append(C3k(self.dtype, name=f"block{i}")(parts[-1], train))
      else:
        parts.append(Bottleneck(hidden // 2, self.dtype, name=f"block{i}")(parts[-1], train))
    return ConvNorm(self.features, dtype=self.dtype, name="conv2")(
      jnp.concatenate(parts, -1), train
    )


class PyramidPool(nn.Module):
  """Maxima over 5, 9 and 13 pixels beside the input (SPPF). [N,H,W,C] -> the same."""

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    parts = [ConvNorm(x.shape[-1] // 2, dtype=self.dtype, name="conv1")(x, train)]
    for _ in range(3):
      parts.append(max_pool(parts[-1], window=5, stride=1, pad=2))
    return ConvNorm(x.shape[-1], dtype=self.dtype, name="conv2")(jnp.concatenate(parts, -1), train)


class PartialAttention(nn.Module):
  """Self-attention on half of the channels (C2PSA). [N,H,W,C] -> the same."""

  repeats: int = 1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    half = x.shape[-1] // 2
    x = ConvNorm(2 * half, dtype=self.dtype, name="conv1")(x, train)
    around, x = x[..., :half], x[..., half:]
    for i in range(self.repeats):
      x = x + Attention(self.dtype, name=f"block{i}_attention")(x, train)
      y = ConvNorm(2 * half, dtype=self.dtype, name=f"block{i}_wide")(x, train)
      x = x + ConvNorm(half, silu=False, dtype=self.dtype, name=f"block{i}_narrow")(y, train)
    x = jnp.concatenate([around, x], -1)
    return ConvNorm(2 * half, dtype=self.dtype, name="conv2")(x, train)


class Attention(nn.Module):
  """Every position looks at every other; keys half as wide as values. [N,H,W,C] -> the same.

  The softmax is float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    channels = x.shape[-1]
    heads = max(1, channels // 64)
    width = channels // heads
    key = width // 2
    conv = functools.partial(ConvNorm, silu=False, dtype=self.dtype)
    qkv = conv(channels + 2 * heads * key, name="qkv")(x, train)
    qkv = qkv.reshape(x.shape[0], -1, heads, 2 * key + width)
    q, k, v = qkv[..., :key], qkv[..., key : 2 * key], qkv[..., 2 * key :]
    scores = jnp.einsum("nphc,nqhc->nhpq", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * key**-0.5, axis=-1).astype(self.dtype)
    attended = jnp.einsum("nhpq,nqhc->nphc", weights, v).reshape(x.shape)
    place = conv(channels, 3, depthwise=True, name="position")(v.reshape(x.shape), train)
    return conv(channels, name="projection")(attended + place, train)
