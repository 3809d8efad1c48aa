"""YOLO11: a feature pyramid and a head that predicts box and class at every position.

Levels have strides 8, 16, 32 (and 4 with `p2`); A positions over all levels, row by row, level by
level; B bins a side. Source: Khanam and Hussain, arXiv 2410.17725; Li et al., arXiv 2006.04388
(distances as distributions).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.layers import BatchNorm, Logits
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


BINS = 16
# Constructor arguments of the published sizes, and of "p", which is not: what two cores train.
SIZES: dict[str, Mapping[str, Any]] = {
  "p": {"width": 0.125, "most": 1024, "deep": False},
  "n": {"width": 0.25, "most": 1024, "deep": False},
  "s": {"width": 0.5, "most": 1024, "deep": False},
  "m": {"width": 1.0, "most": 512, "deep": True},
}


class Level(NamedTuple):
  """Output of the head on one level, float32."""

  boxes: Array  # [N, H, W, 4 B] logits of the distances left, up, right, down, in strides
  classes: Array  # [N, H, W, K] logits


class Yolo11(nn.Module):
  """[N, H, W, 1 or 3] in [0, 1] -> one `Level` for each stride, finest first.

  H and W divide by 32, else ValueError.
  """

  num_classes: int = 1  # K
  width: float = 0.25  # share of the channels that are listed in `_channels`
  most: int = 1024  # bound of the channels, before `width` counts
  deep: bool = False  # C3k blocks in every stage, not in the deep ones alone
  repeats: int = 1  # blocks of a stage
  p2: bool = False  # one more level, of stride 4, for objects of few pixels
  # By how much each bin of a distance begins less likely than the nearer one before it, natural
  # logarithm. As published, 0: every box begins 15 strides wide, and does not overlap a lesion of
  # few pixels enough to be given to it. 1: it begins 1.2 strides wide.
  near: float = 0.0
  dtype: DTypeLike = jnp.float32  # of the convolutions

  @property
  def strides(self) -> tuple[int, ...]:
    """Pixels between the positions of each level."""
    return (4, 8, 16, 32) if self.p2 else (8, 16, 32)

  @nn.compact
  def __call__(self, images_01: Array, *, train: bool = False) -> list[Level]:
    if images_01.shape[1] % 32 or images_01.shape[2] % 32:
      raise ValueError(f"sides must divide by 32, not {images_01.shape[1:3]}")

    def down(x: Array, channels: int, name: str) -> Array:
      return ConvNorm(self._channels(channels), 3, 2, dtype=self.dtype, name=name)(x, train)

    def stage(x: Array, channels: int, name: str, deep: bool = False, share: float = 0.5) -> Array:
      features, deep = self._channels(channels), deep or self.deep
      return C3k2(features, share, deep, self.repeats, self.dtype, name=name)(x, train)

    def up(x: Array, beside: Array) -> Array:
      return jnp.concatenate([_twice(x), beside], -1)

    # Down: the deeper, the more channels.
    x = down(down(images_01, 64, "down1"), 128, "down2")
    p2 = stage(x, 256, "stage2", share=0.25)
    p3 = stage(down(p2, 256, "down3"), 512, "stage3", share=0.25)
    p4 = stage(down(p3, 512, "down4"), 512, "stage4", deep=True)
    p5 = stage(down(p4, 1024, "down5"), 1024, "stage5", deep=True)
    p5 = PyramidPool(self.dtype, name="pool")(p5, train)
    p5 = PartialAttention(self.repeats, self.dtype, name="attention")(p5, train)
    # Up again, and once more down: every level learns of all others.
    up4 = stage(up(p5, p4), 512, "up4")
    maps = [stage(up(up4, p3), 256, "up3")]
    if self.p2:
      maps.insert(0, stage(up(maps[0], p2), 128, "up2"))
      finer = down(maps[0], 128, "again3")
      maps[1] = stage(jnp.concatenate([finer, maps[1]], -1), 256, "out3")
    finer = down(maps[-1], 256, "again4")
    maps.append(stage(jnp.concatenate([finer, up4], -1), 512, "out4"))
    finer = down(maps[-1], 512, "again5")
    maps.append(stage(jnp.concatenate([finer, p5], -1), 1024, "out5", deep=True))
    # The head's width follows the level of stride 8, with a level of stride 4 too.
    width = maps[-3].shape[-1]
    box_width, class_width = max(width // 4, 4 * BINS), max(width, min(self.num_classes, 100))
    head = functools.partial(
      Head, self.num_classes, box_width, class_width, near=self.near, dtype=self.dtype
    )
    return [
      head(stride=stride, name=f"head{stride}")(features, train)
      for features, stride in zip(maps, self.strides, strict=True)
    ]

  def _channels(self, channels: int) -> int:
    return math.ceil(min(channels, self.most) * self.width / 8) * 8


class Head(nn.Module):
  """Box and class logits of one level: [N,H,W,C] -> Level."""

  num_classes: int
  box_width: int
  class_width: int
  stride: int
  near: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Level:
    box = x
    for i in (1, 2):
      box = ConvNorm(self.box_width, 3, dtype=self.dtype, name=f"box{i}")(box, train)
    # Each position starts as seldom an object as in a picture of 640 px that has five.
    rare = math.log(5 / self.num_classes / (640 / self.stride) ** 2)
    begin = tuple(2.0 - self.near * step for step in range(BINS))
    boxes = Logits(4 * begin, kernel_init, self.dtype, name="box")(box)
    for i in (1, 2):
      channels = x.shape[-1]
      x = ConvNorm(channels, 3, depthwise=True, dtype=self.dtype, name=f"class{i}_depthwise")(
        x, train
      )
      x = ConvNorm(self.class_width, dtype=self.dtype, name=f"class{i}")(x, train)
    begin = self.num_classes * (rare,)
    return Level(boxes, Logits(begin, kernel_init, self.dtype, name="class")(x))


class Flat(NamedTuple):
  """All levels behind one another, float32."""

  bins: Array  # [N, A, 4, B] logits of the distances left, up, right, down, in strides
  classes: Array  # [N, A, K] logits
  centres: Array  # [A, 2] x, y in pixels
  strides: Array  # [A] pixels


def flatten(levels: Sequence[Level], strides: Sequence[int]) -> Flat:
  """Joins the levels; a position's centre is the middle of its cell."""
  bins = [level.boxes.reshape(level.boxes.shape[0], -1, 4, BINS) for level in levels]
  classes = [
    level.classes.reshape(level.classes.shape[0], -1, level.classes.shape[-1]) for level in levels
  ]
  centres, steps = [], []
  for level, stride in zip(levels, strides, strict=True):
    rows, columns = (jnp.arange(n) + 0.5 for n in level.boxes.shape[1:3])
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    centres.append(stride * jnp.stack([x, y], -1).reshape(-1, 2))
    steps.append(jnp.full(x.size, stride, jnp.float32))
  return Flat(
    jnp.concatenate(bins, 1),
    jnp.concatenate(classes, 1),
    jnp.concatenate(centres),
    jnp.concatenate(steps),
  )


def boxes_of(flat: Flat) -> Array:
  """Boxes xyxy in pixels f32[N, A, 4]: each side at the mean of its distribution of distances."""
  steps = jnp.arange(BINS, dtype=jnp.float32)
  distances = jax.nn.softmax(flat.bins, -1) @ steps * flat.strides[:, None]
  return jnp.concatenate([flat.centres - distances[..., :2], flat.centres + distances[..., 2:]], -1)


def decode(levels: Sequence[Level], strides: Sequence[int]) -> tuple[Array, Array]:
  """Raw maps -> (boxes xyxy in pixels f32[N, A, 4], class logits f32[N, A, K])."""
  flat = flatten(levels, strides)
  return boxes_of(flat), flat.classes


def _twice(x: Array) -> Array:
  """[N, H, W, C] -> [N, 2 H, 2 W, C], every pixel four times."""
  n, rows, columns, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (n, rows, 2, columns, 2, channels))
  return x.reshape(n, 2 * rows, 2 * columns, channels)
