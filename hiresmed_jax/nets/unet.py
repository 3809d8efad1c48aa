"""U-Net: down to features of large context, up again to logits for every pixel.

N images of H x W pixels, C channels, K classes. Convolutions keep the size (the published network
cropped), and each is followed by batch normalisation: 31,037,698 parameters from 3 channels to 2
classes at width 64.

Source: Ronneberger, Fischer and Brox, arXiv 1505.04597; Ioffe and Szegedy, arXiv 1502.03167.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.layers import BatchNorm, Logits
from hiresmed_jax.ops import convolution
from hiresmed_jax.ops.pool import max_pool
from hiresmed_jax.ops.upsample import depth_to_space
from hiresmed_jax.types import Array

EPSILON = 1e-5
MOMENTUM = 0.1  # share of the newest batch in the running statistics
kernel_init = nn.initializers.he_normal()


class UNet(nn.Module):
  """[N, H, W, C] -> logits f32[N, H, W, K]. H and W divide by 2 ** depth."""

  num_classes: int = 2  # K, the background included
  width: int = 64  # channels at full resolution; each level down has twice as many
  depth: int = 4  # how often the size is halved
  dtype: DTypeLike = jnp.float32  # of the convolutions

  @nn.compact
  def __call__(self, images_m11: Array, *, train: bool = False) -> Array:
    """Normalises by the batch, and moves the running statistics, where `train`.

    Raises:
      ValueError: sides that cannot be halved so often.
    """
    factor = 2**self.depth
    if images_m11.shape[1] % factor or images_m11.shape[2] % factor:
      raise ValueError(f"sides must divide by {factor}, not {images_m11.shape[1:3]}")

    def twice(x: Array, level: int, name: str) -> Array:
      for i in (1, 2):
        x = ConvNorm(self.width << level, self.dtype, name=f"{name}{level}_conv{i}")(x, train)
      return x

    beside = []
    x = twice(images_m11, 0, "down")
    for level in range(1, self.depth + 1):
      beside.append(x)
      x = twice(max_pool(x, window=2), level, "down")
    for level in reversed(range(self.depth)):
      x = Doubled(self.width << level, self.dtype, name=f"double{level}")(x)
      x = twice(jnp.concatenate([beside[level], x], -1), level, "up")
    return Logits(self.num_classes * (0.0,), kernel_init, self.dtype, name="logits")(x)


class ConvNorm(nn.Module):
  """3x3 convolution without bias, batch normalisation, ReLU: [N,H,W,I] -> [N,H,W,features]."""

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    kernel = self.param("kernel", kernel_init, (3, 3, x.shape[-1], self.features))
    x = convolution.conv(x.astype(self.dtype), kernel.astype(self.dtype), padding=((1, 1), (1, 1)))
    norm = BatchNorm(silu=False, epsilon=EPSILON, momentum=MOMENTUM, name="norm")
    return nn.relu(norm(x, train))


class Doubled(nn.Module):
  """Transposed convolution of size 2 and stride 2: [N,H,W,I] -> [N,2H,2W,features]."""

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", kernel_init, (2, 2, x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    # Windows do not overlap: each pixel becomes four by one matrix product.
    flat = kernel.transpose(2, 0, 1, 3).reshape(1, 1, x.shape[-1], -1)
    four = convolution.conv(x.astype(self.dtype), flat.astype(self.dtype))
    return depth_to_space(four) + bias.astype(self.dtype)
