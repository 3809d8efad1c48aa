"""The blocks of HiResMed-VQGAN.

[N,H,W,C]: N images of H x W pixels, C channels. Parameters are float32, computed in `dtype`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.nets.layers import (
  Affine,
  Conv,
  DepthwiseConv,
  GroupNorm,
  Weights,
  inherited,
  norm_beside,
)
from hiresmed_jax.ops import activation as activations
from hiresmed_jax.ops import convolution, norm, norm_chain
from hiresmed_jax.ops.gated_norm import gated_norm_beside
from hiresmed_jax.types import Array

Activation = Literal["relu", "gelu"]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "relu": activations.relu,
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
    if not train or self.rate == 0.0:
      return x
    shape = (x.shape[0], *(1 for _ in x.shape[1:]))
    kept = jax.random.bernoulli(self.make_rng("drop_path"), 1.0 - self.rate, shape)
    return x * (kept / (1.0 - self.rate)).astype(x.dtype)


class MSConvFE(nn.Module):
  """Multi-scale convolutional feed-forward extraction (the paper's Eq. 12). [N,H,W,C] -> the same.

  X + DropPath(1x1(DW5x5(act(3x3(GN(X)))))). GELU is the exact one. 10 C^2 + 30 C parameters. With
  `before`, scale and bias of a normalisation, X is SiLU(GN(x)): one operation with the norm here.
  """

  activation: Activation = "relu"
  drop_path_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool, before: norm_chain.Affine | None = None) -> Array:
    features = x.shape[-1]
    options = inherited(self)
    own, groups = Affine(features, name="norm")(), norm.group_count(features)
    x = x.astype(self.dtype)
    if before is None:
      h, x = norm.group_norm_beside(x, *own, groups=groups)
    else:
      x, h = norm_chain.norm_silu_norm(x, before, own, groups=groups)
    h = _ACTIVATIONS[self.activation](Conv(features, 3, **options, name="conv")(h))
    h, bias = DepthwiseConv(5, **options, name="depthwise")(h)
    h = Conv(features, 1, **options, name="pointwise")(h, lacking=bias)
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
    options = inherited(self)
    h, x = norm_beside(self, "norm1", x)
    h = Conv(self.features, 3, **options, name="conv")(h)
    norm2 = Affine(self.features, name="norm2")()
    h = MSConvFE(self.activation, self.drop_path_rate, **options, name="msconvfe")(h, train, norm2)
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
    del train
    options = inherited(self)
    h, x = norm_beside(self, "norm1", x)
    h = Conv(self.features, 3, **options, name="conv1")(h)
    h = GroupNorm(self.dtype, "silu", name="norm2")(h)
    h = Conv(self.features, 3, **options, name="conv2")(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, **options, name="skip")(x)
    return x + h


class ChannelAttention(nn.Module):
  """Squeeze-and-excitation (Hu et al. 2018): weigh channels by a function of their means.

  [N,H,W,C] -> the same. Mean over positions -> C / ratio (at least 1) -> ReLU -> C -> sigmoid, all
  in float32, times the input. With `apart` -> (the input, what multiplies it, f32[N,1,1,C]).
  """

  ratio: int = 16
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, *, apart: bool = False) -> Any:
    features = x.shape[-1]
    h = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
    h = Conv(
      max(features // self.ratio, 1), 1, kernel_init_std=self.kernel_init_std, name="squeeze"
    )(h)
    h = Conv(features, 1, kernel_init_std=self.kernel_init_std, name="excite")(jax.nn.relu(h))
    weights = jax.nn.sigmoid(h)
    return (x, weights) if apart else x * weights.astype(x.dtype)


class DetailEnhancement(nn.Module):
  """The decoder's last step at full resolution (the paper's section 2.2). [N,H,W,C] -> the same.

  Of h = SiLU(GN(X)): a depthwise-separable branch 1x1(DW3x3(h)) and a residual-convolution branch
  X + 3x3(h), added. Both read h, so they are one 3x3 convolution. X is the input times `gate`,
  f32[N,1,1,C], of the attention before it, if any. 10 C^2 + 14 C parameters.
  """

  dtype: DTypeLike = jnp.float32
  kernel_init_std: float | None = None

  @nn.compact
  def __call__(self, x: Array, gate: Array | None = None) -> Array:
    c, std = x.shape[-1], self.kernel_init_std
    if gate is None:
      gate = jnp.ones((x.shape[0], 1, 1, c))
    scale, bias = Affine(c, name="norm")()
    h, x = gated_norm_beside(
      x.astype(self.dtype), gate[:, 0, 0], scale, bias, groups=norm.group_count(c)
    )
    depthwise, lacking = Weights((3, 3, 1, c), std, name="depthwise")()
    pointwise, bias = Weights((1, 1, c, c), std, name="pointwise")()
    kernel, own = Weights((3, 3, c, c), std, name="conv")()
    kernel += depthwise.swapaxes(2, 3) * pointwise
    bias += own + lacking @ pointwise[0, 0]
    return x + convolution.conv(h, kernel.astype(self.dtype), bias, padding=((1, 1), (1, 1)))
