"""ResNet-50 as feature network, in the two layouts in which RadImageNet's weights are published.

Frozen: no training mode; parameters come from a published file (convert/resnet.py). Layers are
called as torchvision calls them. The layouts differ in where a stage halves the resolution: in the
3x3 convolution (torchvision; RadImageNet's own PyTorch file) or in the first 1x1 one (Keras, and
the port of its file that MONAI loads). 23,508,032 parameters, batch norms counted, no head.

Source: He et al., arXiv 1512.03385; Mei et al., Radiology: AI 4(5), 2022 (RadImageNet).
"""

import flax.linen as nn
import jax

from hiresmed_jax.types import Array

STAGES = {"layer1": (64, 3), "layer2": (128, 4), "layer3": (256, 6), "layer4": (512, 3)}
CHANNELS = 2048


class ResNet50Features(nn.Module):
  """Means over positions of the last stage: f32[N, 2048].

  `early_stride`: stages halve the resolution in their first 1x1 convolution (Keras' layout).
  `precision` is that of the convolutions.
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
