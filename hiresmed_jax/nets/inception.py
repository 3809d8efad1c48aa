"""The network of the Frechet Inception Distance: Inception v3 as its graph of 2015-12-05 has it.

Three departures from the usual Inception v3: average pools leave the padding out of the mean; the
pool of the last block takes maxima; there are 1,008 classes. Frozen: it has no training mode, and
its parameters come from a published file (convert/inception.py). Layers are called as in the files
of torchvision and pytorch-fid. 23,850,960 parameters with its head, 21,785,568 without.

Sources: Szegedy et al., arXiv 1512.00567; Heusel et al., arXiv 1706.08500.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

SIZE = 299  # pixels a side of the input
EPSILON = 1e-3  # of the batch norms
TAPS = (64, 192, 768, 2048, 1008)  # lengths of the feature vectors; 1,008: the classes' logits
MIXED_5_POOLED = {"b": 32, "c": 64, "d": 64}
MIXED_6_WIDTHS = {"b": 128, "c": 160, "d": 160, "e": 192}


class InceptionFeatures(nn.Module):
  """Means over positions of what a block of `tap` channels gives: f32[N, tap].

  `tap` is 64, 192, 768 or 2,048 (FID's own), or 1,008 for logits; layers beyond it do not exist.
  `precision` is that of the convolutions: true float32 products make a feature independent of a
  device's shortcuts.
  """

  tap: int = 2048
  precision: jax.lax.PrecisionLike = "highest"

  @nn.compact
  def __call__(self, images_m11: Array) -> Array:
    """f32[N, 299, 299, 3] in about [-1, 1] -> f32[N, tap]. Raises ValueError: an unknown tap."""
    if self.tap not in TAPS:
      raise ValueError(
        f"the Inception network has no tap of {self.tap}: {', '.join(map(str, TAPS))}"
      )

    precision = self.precision
    x = ConvNorm(32, (3, 3), 2, "VALID", precision, name="Conv2d_1a_3x3")(images_m11)
    x = ConvNorm(32, (3, 3), 1, "VALID", precision, name="Conv2d_2a_3x3")(x)
    x = ConvNorm(64, (3, 3), 1, "SAME", precision, name="Conv2d_2b_3x3")(x)
    x = nn.max_pool(x, (3, 3), (2, 2))
    if self.tap == 64:
      return x.mean(axis=(1, 2))
    x = ConvNorm(80, (1, 1), 1, "SAME", precision, name="Conv2d_3b_1x1")(x)
    x = ConvNorm(192, (3, 3), 1, "VALID", precision, name="Conv2d_4a_3x3")(x)
    x = nn.max_pool(x, (3, 3), (2, 2))
    if self.tap == 192:
      return x.mean(axis=(1, 2))
    for letter, pooled in MIXED_5_POOLED.items():
      x = Mixed5(pooled, precision, name=f"Mixed_5{letter}")(x)
    x = Mixed6a(precision, name="Mixed_6a")(x)
    for letter, width in MIXED_6_WIDTHS.items():
      x = Mixed6(width, precision, name=f"Mixed_6{letter}")(x)
    if self.tap == 768:
      return x.mean(axis=(1, 2))
    x = Mixed7a(precision, name="Mixed_7a")(x)
    x = Mixed7(False, precision, name="Mixed_7b")(x)
    x = Mixed7(True, precision, name="Mixed_7c")(x)
    x = x.mean(axis=(1, 2))
    return x if self.tap == 2048 else nn.Dense(1008, precision=precision, name="fc")(x)


class ConvNorm(nn.Module):
  """Convolution without bias, batch norm with stored statistics, ReLU."""

  features: int
  size: tuple[int, int]
  stride: int = 1
  padding: str = "SAME"
  precision: jax.lax.PrecisionLike = "highest"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, I] -> [N, h, w, features]."""
    x = nn.Conv(
      self.features,
      self.size,
      strides=self.stride,
      padding=self.padding,
      use_bias=False,
      precision=self.precision,
      name="conv",
    )(x)
    return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="bn")(x))


class Mixed5(nn.Module):
  """1x1, 5x5, twice 3x3 and a pool, side by side at 35 x 35."""

  pooled: int
  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, I] -> [N, H, W, 224 + pooled]."""
    chain = functools.partial(_chain, self.precision)
    branches = [
      chain(x, ("branch1x1", 64, 1, 1)),
      chain(x, ("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 5)),
      chain(
        x,
        ("branch3x3dbl_1", 64, 1, 1),
        ("branch3x3dbl_2", 96, 3, 3),
        ("branch3x3dbl_3", 96, 3, 3),
      ),
      chain(_average(x), ("branch_pool", self.pooled, 1, 1)),
    ]
    return jnp.concatenate(branches, axis=-1)


class Mixed6a(nn.Module):
  """Halves the resolution: [N, 35, 35, 288] -> [N, 17, 17, 768]."""

  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    chain = functools.partial(_chain, self.precision)
    deep = chain(x, ("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3))
    branches = [
      chain(x, ("branch3x3", 384, 3, 3), halve=True),
      chain(deep, ("branch3x3dbl_3", 96, 3, 3), halve=True),
      nn.max_pool(x, (3, 3), (2, 2)),
    ]
    return jnp.concatenate(branches, axis=-1)


class Mixed6(nn.Module):
  """1x1, and 7x7 as rows and columns once and twice, and a pool, side by side at 17 x 17."""

  width: int
  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, I] -> [N, H, W, 768]."""
    chain, width = functools.partial(_chain, self.precision), self.width
    branches = [
      chain(x, ("branch1x1", 192, 1, 1)),
      chain(
        x, ("branch7x7_1", width, 1, 1), ("branch7x7_2", width, 1, 7), ("branch7x7_3", 192, 7, 1)
      ),
      chain(
        x,
        ("branch7x7dbl_1", width, 1, 1),
        ("branch7x7dbl_2", width, 7, 1),
        ("branch7x7dbl_3", width, 1, 7),
        ("branch7x7dbl_4", width, 7, 1),
        ("branch7x7dbl_5", 192, 1, 7),
      ),
      chain(_average(x), ("branch_pool", 192, 1, 1)),
    ]
    return jnp.concatenate(branches, axis=-1)


class Mixed7a(nn.Module):
  """Halves the resolution: [N, 17, 17, 768] -> [N, 8, 8, 1280]."""

  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    chain = functools.partial(_chain, self.precision)
    three = chain(x, ("branch3x3_1", 192, 1, 1))
    seven = chain(
      x,
      ("branch7x7x3_1", 192, 1, 1),
      ("branch7x7x3_2", 192, 1, 7),
      ("branch7x7x3_3", 192, 7, 1),
    )
    branches = [
      chain(three, ("branch3x3_2", 320, 3, 3), halve=True),
      chain(seven, ("branch7x7x3_4", 192, 3, 3), halve=True),
      nn.max_pool(x, (3, 3), (2, 2)),
    ]
    return jnp.concatenate(branches, axis=-1)


class Mixed7(nn.Module):
  """1x1, two branches that end in a row beside a column, and a pool, side by side at 8 x 8."""

  maximum: bool  # the pool's kind: a mean in the first of the two, a maximum in the last
  precision: jax.lax.PrecisionLike

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, I] -> [N, H, W, 2048]."""
    chain = functools.partial(_chain, self.precision)
    three = chain(x, ("branch3x3_1", 384, 1, 1))
    deep = chain(x, ("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 3))
    pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.maximum else _average(x)
    branches = [
      chain(x, ("branch1x1", 320, 1, 1)),
      chain(three, ("branch3x3_2a", 384, 1, 3)),
      chain(three, ("branch3x3_2b", 384, 3, 1)),
      chain(deep, ("branch3x3dbl_3a", 384, 1, 3)),
      chain(deep, ("branch3x3dbl_3b", 384, 3, 1)),
      chain(pooled, ("branch_pool", 192, 1, 1)),
    ]
    return jnp.concatenate(branches, axis=-1)


def _chain(
  precision: jax.lax.PrecisionLike,
  x: Array,
  *layers: tuple[str, int, int, int],
  halve: bool = False,
) -> Array:
  """Layers (name, features, kernel's height, its width), one after another."""
  stride, padding = (2, "VALID") if halve else (1, "SAME")
  for name, features, height, width in layers:
    x = ConvNorm(features, (height, width), stride, padding, precision, name=name)(x)
  return x


def _average(x: Array) -> Array:
  """3 x 3 means; at the border of the pixels that there are."""
  return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
