"""The blocks of HiResMed-VQGAN: HDFB and its MSConvFE, the residual block it is compared with,
channel attention, stochastic depth and the decoder's last detail enhancement."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.layers import Conv, DepthwiseConv, GroupNorm, inherited
from hiresmed_jax.types import Array

Activation = Literal["relu", "gelu"]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "relu": jax.nn.relu,
  # Its derivative is cheap beside the full-resolution tensors that it would have stored.
  "gelu": jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
}


class DropPath(nn.Module):
  """Stochastic depth: in training, an example's branch is zeroed with probability `rate`.

  [N,...] -> [N,...]. Kept examples are divided by 1 - rate, so that the expectation does not
  change (Huang et al. 2016). Draws from the rng collection "drop_path"; needs none at rate 0.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N,...] -> [N,...]."""
    if not train or self.rate == 0.0:
      return x
    shape = (x.shape[0], *(1 for _ in x.shape[1:]))
    kept = jax.random.bernoulli(self.make_rng("drop_path"), 1.0 - self.rate, shape)
    return x * (kept / (1.0 - self.rate)).astype(x.dtype)


class MSConvFE(nn.Module):
  """Multi-scale convolutional feed-forward extraction (the paper's Eq. 12). [N,H,W,C] -> the same.

  X + DropPath(1x1(DW5x5(act(3x3(GN(X)))))). GELU is the exact one. 10 C^2 + 30 C parameters.
  """

  activation: Activation = "relu"
  drop_path_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N,H,W,C] -> [N,H,W,C]."""
    features = x.shape[-1]
    options = inherited(self)
    h = GroupNorm(self.dtype, name="norm")(x)
    h = _ACTIVATIONS[self.activation](Conv(features, 3, **options, name="conv")(h))
    h = DepthwiseConv(5, **options, name="depthwise")(h)
    h = Conv(features, 1, **options, name="pointwise")(h)
    return x + DropPath(self.drop_path_rate, name="drop_path")(h, train)


class HDFB(nn.Module):
  """Hierarchical dual-path fusion block (the paper's Eqs. 2-8). [N,H,W,I] -> [N,H,W,features].

  GN -> SiLU -> 3x3 -> GN -> SiLU -> MSConvFE, + the input (through a 1x1 convolution when the
  channels change). The paper's text has the 3x3 convolution that its Eq. 5 leaves out.
  19 C^2 + 35 C parameters at equal channels.
  """

  features: int
  activation: Activation = "relu"
  drop_path_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N,H,W,I] -> [N,H,W,features]."""
    options = inherited(self)
    h = GroupNorm(self.dtype, silu=True, name="norm1")(x)
    h = Conv(self.features, 3, **options, name="conv")(h)
    h = GroupNorm(self.dtype, silu=True, name="norm2")(h)
    h = MSConvFE(self.activation, self.drop_path_rate, **options, name="msconvfe")(h, train)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, **options, name="skip")(x)
    return x + h


class Residual(nn.Module):
  """The block of VQGAN (Esser et al. 2021) that HDFB replaces. [N,H,W,I] -> [N,H,W,features].

  GN -> SiLU -> 3x3 -> GN -> SiLU -> 3x3, + the input (1x1 when the channels change).
  18 C^2 + 6 C parameters at equal channels. `train` changes nothing: it has no stochastic depth.
  """

  features: int
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N,H,W,I] -> [N,H,W,features]."""
    del train
    options = inherited(self)
    h = GroupNorm(self.dtype, silu=True, name="norm1")(x)
    h = Conv(self.features, 3, **options, name="conv1")(h)
    h = GroupNorm(self.dtype, silu=True, name="norm2")(h)
    h = Conv(self.features, 3, **options, name="conv2")(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, **options, name="skip")(x)
    return x + h


class ChannelAttention(nn.Module):
  """Squeeze-and-excitation (Hu et al. 2018): weigh channels by a function of their means.

  [N,H,W,C] -> the same. Mean over positions -> C / ratio (at least 1) -> ReLU -> C -> sigmoid, all
  in float32 (N x C numbers), times the input.
  """

  ratio: int = 16
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,H,W,C] -> [N,H,W,C]."""
    features = x.shape[-1]
    h = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
    h = Conv(
      max(features // self.ratio, 1), 1, kernel_init_std=self.kernel_init_std, name="squeeze"
    )(h)
    h = Conv(features, 1, kernel_init_std=self.kernel_init_std, name="excite")(jax.nn.relu(h))
    return x * jax.nn.sigmoid(h).astype(x.dtype)


class DetailEnhancement(nn.Module):
  """The decoder's last step at full resolution (the paper's section 2.2). [N,H,W,C] -> the same.

  Of h = SiLU(GN(X)): a depthwise-separable branch 1x1(DW3x3(h)) and a residual-convolution branch
  X + 3x3(h), added. 10 C^2 + 14 C parameters.
  """

  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N,H,W,C] -> [N,H,W,C]."""
    features = x.shape[-1]
    options = inherited(self)
    h = GroupNorm(self.dtype, silu=True, name="norm")(x)
    separable = DepthwiseConv(3, **options, name="depthwise")(h)
    separable = Conv(features, 1, **options, name="pointwise")(separable)
    return separable + (x + Conv(features, 3, **options, name="conv")(h))
