"""Down and up by powers of two, each with a linear shortcut past its convolutions."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.layers import Conv, inherited, kernel_init
from hiresmed_jax.ops import activation, convolution, upsample
from hiresmed_jax.types import Array

Upsampling = Literal["transposed", "resize", "subpixel"]


class Downsample(nn.Module):
  """Halve `steps` times: (SiLU -> 3x3 stride-2 convolution) x steps, + (average pool -> 1x1).

  [N,H,W,I] -> [N,H/2^steps,W/2^steps,features]. The paper's "convolutional blocks with residual
  connections to perform downsampling" (section 2.2).
  """

  features: int
  steps: int
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    options = inherited(self)
    # Not nn.avg_pool: on the CPU the gradient of its window sum takes over ten times as long.
    n, height, width, inputs = x.shape
    size = 2**self.steps
    tiles = x.reshape(n, height // size, size, width // size, size, inputs)
    pooled = Conv(self.features, 1, **options, name="shortcut")
    shortcut, bias = pooled(tiles.mean((2, 4)), apart=True)
    for step in range(self.steps):
      down = Conv(self.features, 3, stride=2, **options, name=f"down{step}")
      x = down(activation.silu(x), more=bias if step == self.steps - 1 else None)
    return shortcut + x


def bilinear_kernel_init(std: float | None) -> Callable[..., Array]:
  """[4,4,I,O]: bilinear interpolation by two of one random I x O channel matrix.

  Every output phase then has the same sum, so that a constant stays constant; independent taps
  would print a checkerboard. The matrix has variance std^2, or 1 / I where `std` is None.
  """

  def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    matrix = kernel_init(std)(key, (1, 1, *shape[2:]), dtype)
    weights = jnp.array([0.25, 0.75, 0.75, 0.25], dtype)
    return weights[:, None, None, None] * weights[None, :, None, None] * matrix

  return init


def shared_phase_init(std: float | None) -> Callable[..., Array]:
  """[3,3,I,4*O]: the same kernel for the four phases, so that sub-pixel output starts smooth."""

  def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    one = kernel_init(std)(key, (*shape[:-1], shape[-1] // 4), dtype)
    return jnp.tile(one, (1, 1, 1, 4))

  return init


class UpConv(nn.Module):
  """One learnt doubling: [N,H,W,I] -> [N,2H,2W,features]. Borders repeat the border pixel.

  With `apart` -> (the same without the bias, the bias f32[features]).

  transposed: 4x4 stride-2 transposed convolution, bilinear start (also under `kernel_init_std`,
  which then scales its channel matrix). resize: nearest, then 3x3 convolution. subpixel: 3x3
  convolution to 4 x features, then depth to space. With each, a constant input gives a constant
  output at the start, borders included; with resize it does so after any training.
  """

  features: int
  method: Upsampling = "transposed"
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, *, apart: bool = False) -> Any:
    inputs, std = x.shape[-1], self.kernel_init_std
    if self.method == "transposed":
      init, shape = bilinear_kernel_init(std), (4, 4, inputs, self.features)
    elif self.method == "resize":
      init, shape = kernel_init(std), (3, 3, inputs, self.features)
    elif self.method == "subpixel":
      init, shape = shared_phase_init(std), (3, 3, inputs, 4 * self.features)
    else:
      raise ValueError(f"unknown upsampling {self.method!r}: transposed, resize or subpixel")
    kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    x, own = x.astype(self.dtype), None if apart else bias
    if self.method == "subpixel":
      four = None if apart else jnp.tile(bias, 4)
      out = upsample.depth_to_space(convolution.conv(upsample.edge_pad(x), kernel, four))
    elif self.method == "resize":
      out = upsample.transposed_conv(x, upsample.nearest_kernel(kernel), own)
    else:
      out = upsample.transposed_conv(x, kernel, own)
    return (out, bias) if apart else out


class Upsample(nn.Module):
  """Double once per entry of `features`: (SiLU -> UpConv) each, + (1x1 -> bilinear).

  [N,H,W,I] -> [N,H*2^k,W*2^k,features[-1]], k = len(features). The paper's "deconvolution blocks
  with skip connections" (section 2.2).
  """

  features: tuple[int, ...]
  method: Upsampling = "transposed"
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    options = inherited(self)
    h = x
    for step, features in enumerate(self.features):
      last = step == len(self.features) - 1
      up = UpConv(features, self.method, **options, name=f"up{step}")
      h = up(activation.silu(h), apart=last)
    # A constant passes the bilinear shortcut as it is, so the last bias is added before it.
    h, bias = h
    shortcut = Conv(self.features[-1], 1, **options, name="shortcut")(x, more=bias)
    for _ in self.features:
      shortcut = upsample.bilinear(shortcut)
    return shortcut + h
