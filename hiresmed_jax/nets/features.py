"""Frozen feature networks: VGG16, AlexNet and SqueezeNet 1.1 for LPIPS, ResNet-50 for distances.

They have no training mode; parameters come from published files (convert/), and layers are called
as in those. A trunk of LPIPS takes images_m11 [N,H,W,1 or 3] in [-1, 1], grey repeated to three
channels, and returns the activations ("taps") after the ReLUs that LPIPS reads, finest first, in
the compute dtype.

`dtype` computes the convolutions, `precision` the float32 ones. The default, true float32 products,
makes a distance independent of a device's shortcuts: for metrics. precision=None leaves float32
products to the device (TF32 on an A100 or later): for losses. bfloat16 is the fastest, with a
rougher gradient: of blurred CT slices its cosine with the float32 gradient was 0.94 for AlexNet and
0.88 for SqueezeNet, where TF32's (emulated) was 0.99 and 0.96; distances stay within 0.3 %.

Sources: Simonyan and Zisserman, arXiv 1409.1556 (configuration D); Krizhevsky, arXiv 1404.5997
("one weird trick"); Iandola et al., arXiv 1602.07360 (version 1.1); input scaling and taps: Zhang
et al., arXiv 1801.03924, version 0.1; He et al., arXiv 1512.03385; Mei et al., Radiology: AI 4(5),
2022 (RadImageNet).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from hiresmed_jax.ops.pool import max_pool
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.types import Array, Params

# LPIPS' own rounding of ImageNet's channel means and deviations, in units of [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# (features, kernel size, stride, padding) of conv1 .. conv5; a pool precedes conv2 and conv3.
ALEXNET_LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
# (squeeze, expand) of fire2 .. fire9.
SQUEEZENET_FIRES = (
  (16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)
)  # fmt: skip
SQUEEZENET_POOLED = (2, 4, 6)  # a pool precedes these fires,
SQUEEZENET_TAPPED = (3, 5, 6, 7, 8, 9)  # and LPIPS reads after these.


class FeatureNet(NamedTuple):
  """A frozen network that turns images into the vectors whose distributions are compared.

  `features(weights, images [N,H,W,1 or 3], intensities 0 .. 255 of any type) -> f32[N, tap]`, pure,
  to be jitted; it resizes and scales by itself. A grey channel is repeated.
  """

  name: str
  tap: int
  resize: str
  features: Callable[[Params, Array], Array]
  weights: Params


class VGG16Features(nn.Module):
  """Taps relu1_2, 2_2, 3_3, 4_3, 5_3: 64, 128, 256, 512, 512 channels at H/1 .. H/16 (floor).

  14,714,688 parameters. Raises ValueError for images below 16 px a side.
  """

  dtype: DTypeLike = jnp.float32
  precision: jax.lax.PrecisionLike = "highest"

  @nn.compact
  def __call__(self, images_m11: Array) -> tuple[Array, ...]:
    """[N,H,W,1 or 3] -> five taps [N,h,w,c]."""
    conv = functools.partial(_conv_relu, dtype=self.dtype, precision=self.precision)
    x = _scaled(images_m11, minimum=16, dtype=self.dtype)
    taps = []
    for stage, widths in enumerate(VGG16_STAGES, 1):
      if stage > 1:
        x = max_pool(x, window=2)
      for layer, features in enumerate(widths, 1):
        x = conv(x, features, 3, pad=1, name=f"conv{stage}_{layer}")
      taps.append(x)
    return tuple(taps)


class AlexNetFeatures(nn.Module):
  """Taps relu1 .. relu5: 64, 192, 384, 256, 256 channels at about H/4, H/8, then H/16.

  2,469,696 parameters. Raises ValueError for images below 31 px a side.
  """

  dtype: DTypeLike = jnp.float32
  precision: jax.lax.PrecisionLike = "highest"

  @nn.compact
  def __call__(self, images_m11: Array) -> tuple[Array, ...]:
    """[N,H,W,1 or 3] -> five taps [N,h,w,c]."""
    conv = functools.partial(_conv_relu, dtype=self.dtype, precision=self.precision)
    x = _scaled(images_m11, minimum=31, dtype=self.dtype)
    taps = []
    for layer, (features, size, stride, pad) in enumerate(ALEXNET_LAYERS, 1):
      if layer in (2, 3):
        x = max_pool(x, window=3)
      x = conv(x, features, size, stride=stride, pad=pad, name=f"conv{layer}")
      taps.append(x)
    return tuple(taps)


class SqueezeNetFeatures(nn.Module):
  """Taps after conv1 and fire 3, 5, 6, 7, 8, 9: 64, 128, 256, 384, 384, 512, 512 channels.

  At about H/2, H/4, H/8, then H/16; its pools round up (a last window may overhang the border).
  722,496 parameters. Raises ValueError for images below 17 px a side.
  """

  dtype: DTypeLike = jnp.float32
  precision: jax.lax.PrecisionLike = "highest"

  @nn.compact
  def __call__(self, images_m11: Array) -> tuple[Array, ...]:
    """[N,H,W,1 or 3] -> seven taps [N,h,w,c]."""
    conv = functools.partial(_conv_relu, dtype=self.dtype, precision=self.precision)
    x = _scaled(images_m11, minimum=17, dtype=self.dtype)
    x = conv(x, 64, 3, stride=2, pad=0, name="conv1")
    taps = [x]
    for number, (squeeze, expand) in enumerate(SQUEEZENET_FIRES, 2):
      if number in SQUEEZENET_POOLED:
        x = max_pool(x, window=3, round_up=True)
      x = Fire(squeeze, expand, self.dtype, self.precision, name=f"fire{number}")(x)
      if number in SQUEEZENET_TAPPED:
        taps.append(x)
    return tuple(taps)


class Fire(nn.Module):
  """1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

  squeeze: int
  expand: int
  dtype: DTypeLike
  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,H,W,C] -> [N,H,W,2 expand]."""
    conv = functools.partial(_conv_relu, dtype=self.dtype, precision=self.precision)
    x = conv(x, self.squeeze, 1, pad=0, name="squeeze")
    one = conv(x, self.expand, 1, pad=0, name="expand1x1")
    three = conv(x, self.expand, 3, pad=1, name="expand3x3")
    return jnp.concatenate([one, three], axis=-1)


def _scaled(images_m11: Array, *, minimum: int, dtype: DTypeLike) -> Array:
  height, width, channels = images_m11.shape[1:]
  if channels not in (1, 3):
    raise ValueError(f"images need 1 or 3 channels, these have {channels}")
  if min(height, width) < minimum:
    raise ValueError(f"images need {minimum} px a side for these taps, these are {height}x{width}")
  images = to_channels(images_m11.astype(jnp.float32), 3)
  return ((images - SHIFT) / SCALE).astype(dtype)


def _conv_relu(
  x: Array,
  features: int,
  size: int,
  *,
  stride: int = 1,
  pad: int,
  dtype: DTypeLike,
  precision: jax.lax.PrecisionLike,
  name: str,
) -> Array:
  conv = nn.Conv(
    features,
    (size, size),
    strides=(stride, stride),
    padding=((pad, pad), (pad, pad)),
    dtype=dtype,
    # bfloat16 asked for exactly would be multiplied as float32.
    precision=precision if jnp.dtype(dtype) == jnp.float32 else None,
    name=name,
  )
  return nn.relu(conv(x))


STAGES = {"layer1": (64, 3), "layer2": (128, 4), "layer3": (256, 6), "layer4": (512, 3)}
CHANNELS = 2048


class ResNet50Features(nn.Module):
  """ResNet-50 of RadImageNet: means over positions of the last stage, f32[N, 2048].

  `early_stride`: stages halve the resolution in their first 1x1 convolution (Keras, and the port of
  its file that MONAI loads), not in the 3x3 one (torchvision; RadImageNet's own PyTorch file).
  23,508,032 parameters, batch norms counted, no head.
  """

  early_stride: bool = False
  precision: jax.lax.PrecisionLike = "highest"

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """f32[N, H, W, 3], scaled as the weights were trained -> f32[N, 2048]. H, W >= 32."""
    epsilon = 1.001e-5 if self.early_stride else 1e-5
    pad = ((3, 3), (3, 3))
    x = nn.Conv(64, (7, 7), 2, pad, use_bias=False, precision=self.precision, name="conv1")(images)
    x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=epsilon, name="bn1")(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, (width, blocks) in STAGES.items():
      for block in range(blocks):
        stride = 2 if block == 0 and stage != "layer1" else 1
        strides = (stride, 1) if self.early_stride else (1, stride)
        name = f"{stage}_{block}"
        x = Bottleneck(width, strides, block == 0, epsilon, self.precision, name=name)(x)
    return x.mean(axis=(1, 2))


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 with four times the width, and a way around them: [N,H,W,I] -> [N,h,w,4 width].

  `strides` are those of the first two convolutions; `projected`: the way around has a convolution.
  """

  width: int
  strides: tuple[int, int]
  projected: bool
  epsilon: float
  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    first, second = self.strides
    around = x
    if self.projected:
      around = self._conv(x, "downsample", 4 * self.width, 1, first * second)
    x = nn.relu(self._conv(x, "1", self.width, 1, first))
    x = nn.relu(self._conv(x, "2", self.width, 3, second))
    return nn.relu(around + self._conv(x, "3", 4 * self.width, 1, 1))

  def _conv(self, x: Array, name: str, features: int, size: int, stride: int) -> Array:
    pad = ((size // 2, size // 2),) * 2
    x = nn.Conv(
      features,
      (size, size),
      stride,
      pad,
      use_bias=False,
      precision=self.precision,
      name=f"conv{name}",
    )(x)
    return nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name=f"bn{name}")(x)
