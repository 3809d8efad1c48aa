"""The two networks of one SinGAN level: five unpadded 3x3 convolutions each.

N images, H x W pixels, C channels (the image's own, and one for the soft mask). Intensities in
[-1, 1]. Source: Shaham et al. 2019 (SinGAN), section 2 and its code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from hiresmed_jax.ops.pool import maximum
from hiresmed_jax.ops.valid_conv import Way, valid_conv
from hiresmed_jax.types import Array

LAYERS = 5
BORDER = LAYERS  # pixels that unpadded 3x3 convolutions take off each side
_INIT_STD = 0.02
_MOMENTUM = 0.1  # share of the newest image in the running statistics
_EPS = 1e-5


def width(level: int, *, least: int = 32, most: int = 128) -> int:
  """Channels of the hidden layers at a level: doubled after every fourth."""
  return min(least * 2 ** (level // 4), most)


class Generator(nn.Module):
  """What a level adds to the enlarged image of the level below.

  Parameters float32, computed in `dtype`, returned in float32. The collection "batch_stats" holds
  the running statistics, which a finished level is used with.
  """

  channels: int
  width: int
  dtype: DTypeLike = jnp.float32
  way: Way = "auto"

  @nn.compact
  def __call__(self, noisy: Array, below: Array, train: bool) -> Array:
    """tanh(net(noisy)) + below, zeros around `noisy` once.

    Args:
      noisy: f32[N, H, W, C], amplitude * noise + below.
      below: f32[N, H, W, C], the level below at this level's size; zeros at the coarsest.
      train: normalise by each image's own statistics; else by the running ones.

    Returns:
      f32[N, H, W, C].
    """
    border = (BORDER, BORDER)
    x = jnp.pad(noisy, ((0, 0), border, border, (0, 0))).astype(self.dtype)
    x = Body(self.width, self.channels, self.dtype, self.way, name="body")(x, train)
    return jnp.tanh(x.astype(jnp.float32)) + below


class Critic(nn.Module):
  """Scores each 11 px window of an image, higher = more real; no padding, no running statistics."""

  width: int
  dtype: DTypeLike = jnp.float32
  way: Way = "auto"

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """f32[N, H, W, C] -> f32[N, H - 10, W - 10, 1]."""
    x = images.astype(self.dtype)
    body = Body(self.width, 1, self.dtype, self.way, running=False, name="body")
    return body(x, True).astype(jnp.float32)


class Body(nn.Module):
  """Four times convolution, normalisation, LeakyReLU 0.2; then a convolution."""

  width: int
  features: int
  dtype: DTypeLike = jnp.float32
  way: Way = "auto"
  running: bool = True

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[N, H, W, I] -> [N, H - 10, W - 10, features] in `dtype`."""
    for index in range(LAYERS):
      last = index == LAYERS - 1
      features = self.features if last else self.width
      shape = (3, 3, x.shape[-1], features)
      kernel = self.param(f"kernel{index}", nn.initializers.normal(_INIT_STD), shape, jnp.float32)
      bias = self.param(f"bias{index}", nn.initializers.zeros, (features,), jnp.float32)
      x = valid_conv(x, kernel.astype(self.dtype), way=self.way)
      if last:
        return x + bias.astype(self.dtype)
      x = ImageNorm(self.dtype, self.running, name=f"norm{index}")(x, bias, train)
      x = jax.nn.leaky_relu(x, 0.2)
    raise AssertionError("the last layer returns")


class ImageNorm(nn.Module):
  """Batch normalisation of a batch of one: every image by its own mean and variance.

  The running statistics take in the images of a batch one after the other, momentum 0.1, variance
  over n - 1 pixels.
  """

  dtype: DTypeLike = jnp.float32
  running: bool = True

  @nn.compact
  def __call__(self, x: Array, bias: Array, train: bool) -> Array:
    """[N, H, W, C] -> the same, normalised.

    `bias` f32[C] is that of the convolution before, not yet added: an image's own mean takes it
    away again, so that it matters to the running mean alone.
    """
    features = x.shape[-1:]
    scale = self.param("scale", _near_one, features, jnp.float32)
    shift = self.param("shift", nn.initializers.zeros, features, jnp.float32)
    if self.running:
      means = self.variable("batch_stats", "mean", jnp.zeros, features)
      variances = self.variable("batch_stats", "var", jnp.ones, features)
    if train:
      wide = x.astype(jnp.float32)
      mean = jnp.mean(wide, (1, 2))
      variance = maximum(jnp.mean(jnp.square(wide), (1, 2)) - jnp.square(mean), 0.0)
      if self.running and self.is_mutable_collection("batch_stats") and not self.is_initializing():
        pixels = x.shape[1] * x.shape[2]
        means.value = _taken_in(means.value, mean + bias)
        variances.value = _taken_in(variances.value, variance * pixels / (pixels - 1))
    else:
      mean, variance = (means.value - bias)[None], variances.value[None]
    factor = scale * jax.lax.rsqrt(variance + _EPS)
    factor, offset = factor[:, None, None], (shift - mean * factor)[:, None, None]
    return x * factor.astype(self.dtype) + offset.astype(self.dtype)


def _near_one(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
  return 1.0 + _INIT_STD * jax.random.normal(key, shape, dtype)


def _taken_in(running: Array, of_images: Array) -> Array:
  for one in jax.lax.stop_gradient(of_images):
    running = (1.0 - _MOMENTUM) * running + _MOMENTUM * one
  return running
