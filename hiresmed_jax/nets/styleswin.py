"""StyleSwin: a generator of windowed attention, and a discriminator that sees wavelets.

Images of 3 channels: the generator has 48,929,512 parameters for 256 pixels at channel multiplier 2
and 40,862,990 for 1,024 at 1; the discriminator 26,211,585 and 27,736,641, at multiplier 2.

N images of H x W pixels, C channels, P positions, S values of a style. Source: Zhang et al., arXiv
2112.10762; Karras et al., arXiv 1912.04958; Gal et al., arXiv 2102.06108.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from hiresmed_jax.ops import activation, convolution, norm
from hiresmed_jax.ops.upsample import bilinear
from hiresmed_jax.types import Array

START = 4  # rows of the first feature map
WINDOW = 8  # rows of a window of attention, where the feature map has so many
BLOCKS = 2  # of a level
_SLOW = 0.01  # share of the learning rate that the mapping trains with
_SLOPE = 0.2
_TINY = 1e-8
_BEYOND = -100.0  # score of a position beyond the border of the image
_PERIOD = 10_000.0
_GROUP = 4  # images of which the discriminator sees the spread
_init = nn.initializers.truncated_normal(0.02)


def channels(size: int, multiplier: int) -> int:
  """Channels of a feature map of so many rows, from 4 to 1,024."""
  return 512 if size <= 32 else 16_384 // size * multiplier


class Generator(nn.Module):
  """Normal numbers [N,S] -> images f32[N,size,size,channels], of any range."""

  size: int = 256
  channels: int = 3
  multiplier: int = 2
  mapping: int = 8  # layers that make a style
  widest: int = 512  # channels at most; the published one
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, latents: Array) -> Array:
    style = latents * jax.lax.rsqrt(jnp.mean(jnp.square(latents), -1, keepdims=True) + _TINY)
    for number in range(self.mapping):
      layer = Equalised(style.shape[-1], rate=_SLOW, name=f"mapping{number}")
      style = leaky(layer(style))
    levels = round(math.log2(self.size // START))
    widths = [min(channels(START << n, self.multiplier), self.widest) for n in range(levels + 1)]
    first = self.param("input", nn.initializers.normal(1.0), (START, START, widths[0]))
    x = jnp.broadcast_to(first, (latents.shape[0], *first.shape)).astype(self.dtype)
    image: Any = 0.0
    for level, width in enumerate(widths):
      for number in range(BLOCKS):
        x = Block(max(width // 32, 4), name=f"block{level}_{number}")(x, style)
      if level < levels:
        x = Doubled(widths[level + 1], self.dtype, name=f"double{level}")(x)
        image = blurred(image, up=True) if level else image
      # Both biases are published.
      colour = nn.Dense(self.channels, kernel_init=_init, name=f"colour{level}")
      more = self.param(f"bias{level}", nn.initializers.zeros, (self.channels,))
      image = image + colour(x.astype(jnp.float32)) + more
    return image


class Block(nn.Module):
  """Attention in windows, then a network of each position; a style scales both. [N,H,W,C].

  Half of the heads look at windows that are shifted by half a window.
  """

  heads: int

  @nn.compact
  def __call__(self, x: Array, style: Array) -> Array:
    width, window = x.shape[-1], min(WINDOW, x.shape[1])
    shift = window // 2 if x.shape[1] > window else 0
    h, x = Styled(name="style1")(x, style)
    h = Linear(3 * width, name="query_key_value")(h)
    parts = h.reshape(*h.shape[:-1], 3, 2, width // 2)
    halves = []
    for number, by in enumerate((0, shift)):
      attention = Attention(self.heads // 2, window, by, name=f"attention{number}")
      halves.append(attention(parts[..., number, :]))
    h = jnp.concatenate(halves, -1)
    x = x + Linear(width, name="projection")(h)
    h, x = Styled(name="style2")(x, style)
    h = activation.gelu(Linear(4 * width, name="wider")(h))
    return x + Linear(width, name="narrower")(h)


class Attention(nn.Module):
  """Queries, keys and values [N,H,W,3,C] -> [N,H,W,C], in windows that are moved by `shift`."""

  heads: int
  window: int
  shift: int

  @nn.compact
  def __call__(self, parts: Array) -> Array:
    n, height, width, _, channels = parts.shape
    side, heads = self.window, self.heads
    table = self.param("places", _init, ((2 * side - 1) ** 2, heads))
    bias = table[_places(side)].transpose(2, 0, 1)[None]  # [1,heads,P,P]
    if self.shift:
      parts = jnp.roll(parts, (-self.shift, -self.shift), (1, 2))
    grid = (height // side, width // side)
    cut = parts.reshape(n, grid[0], side, grid[1], side, 3, heads, channels // heads)
    cut = cut.transpose(5, 0, 1, 3, 2, 4, 6, 7).reshape(3, -1, side * side, *cut.shape[-2:])
    if self.shift:
      apart = _apart((height, width), side, self.shift)  # [windows,P,P]
      bias = jnp.tile(bias + apart[:, None], (n, 1, 1, 1))
    query, key, value = cut
    found = jax.nn.dot_product_attention(query, key, value, bias.astype(cut.dtype))
    found = found.reshape(n, *grid, side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    found = found.reshape(n, height, width, channels)
    return jnp.roll(found, (self.shift, self.shift), (1, 2)) if self.shift else found


class Styled(nn.Module):
  """Every channel of an image to mean 0, variance 1; then scale and shift by the style.

  -> (that, x), both like x [N,H,W,C]; statistics float32.
  """

  @nn.compact
  def __call__(self, x: Array, style: Array) -> tuple[Array, Array]:
    width = x.shape[-1]
    scale, shift = jnp.split(Equalised(2 * width, start=(1.0, 0.0), name="of")(style), 2, -1)
    return norm.group_norm_beside(x, scale, shift, groups=width, eps=1e-5)


class Linear(nn.Module):
  """Of each position: [N,H,W,I] -> [N,H,W,features] in the type of x."""

  features: int
  bias: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", _init, (x.shape[-1], self.features)).astype(x.dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
    return convolution.conv(x, kernel[None, None], bias)


class Equalised(nn.Module):
  """Linear, its kernel of variance 1 and scaled when used: [..., I] -> f32[..., features]."""

  features: int
  rate: float = 1.0  # of learning
  start: tuple[float, ...] = (0.0,)  # of the bias, each for an equal share of it

  @nn.compact
  def __call__(self, x: Array) -> Array:
    inputs = x.shape[-1]
    kernel = self.param("kernel", nn.initializers.normal(1.0 / self.rate), (inputs, self.features))
    begin = np.repeat(np.asarray(self.start, np.float32), self.features // len(self.start))
    bias = self.param("bias", lambda _: jnp.asarray(begin))
    return x @ (kernel * (self.rate / math.sqrt(inputs))) + bias * self.rate


class Doubled(nn.Module):
  """Bilinear, normalised, linear; and where each position is. [N,H,W,I] -> [N,2H,2W,features]."""

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    height, width = x.shape[1:3]
    x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(bilinear(x))
    share = self.param("share", nn.initializers.zeros, (1,))
    x = Linear(self.features, bias=False, name="linear")(x)
    return x + (share * where(2 * height, 2 * width, self.features)).astype(self.dtype)


class Discriminator(nn.Module):
  """Images f32[N,size,size,C] -> logits f32[N]. Kernels have spectral norm 1.

  In training moves the vectors of the norms, in "batch_stats".
  """

  size: int = 256
  multiplier: int = 2
  widest: int = 512
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: Array, *, train: bool = False) -> Array:
    def width(size: int) -> int:
      return min(channels(size, self.multiplier), self.widest)

    def conv(x: Array, features: int, size: int, name: str, *, halve: bool = False) -> Array:
      if halve:
        x = blurred(x, pad=(2, 2))
      stride, pad = (2, "VALID") if halve else (1, "SAME")
      inner = nn.Conv(
        features, (size, size), stride, pad, use_bias=False, dtype=self.dtype, name=f"{name}_conv"
      )
      return self._active(inner, x, features, name, train)

    waves, x = haar(images), None
    rows = self.size // 2  # of the feature maps
    now = width(self.size)
    while True:
      seen = conv(waves, now, 1, f"colour{rows}")
      x = seen if x is None else x + seen
      if rows == START:
        break
      x = conv(x, now, 3, f"same{rows}")
      rows //= 2
      now = width(rows)
      x = conv(x, now, 3, f"halve{rows}", halve=True)
      waves = haar(blurred(unhaar(waves), pad=(1, 1))[:, ::2, ::2])
    return self._decide(conv, x, now, train)

  def _active(self, layer: nn.Module, x: Array, features: int, name: str, train: bool) -> Array:
    """A layer of spectral norm 1, a bias, leaky ReLU."""
    x = nn.SpectralNorm(layer, name=f"{name}_norm")(x, update_stats=train)
    return leaky(x + self.param(f"{name}_bias", nn.initializers.zeros, (features,)))

  def _decide(self, conv: Callable[..., Array], x: Any, features: int, train: bool) -> Array:
    x = conv(with_spread(x.astype(jnp.float32)), features, 3, "last")
    # As published: rows and columns after the channels.
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1).astype(jnp.float32)
    x = self._active(nn.Dense(features, name="linear1"), x, features, "linear1", train)
    out = nn.SpectralNorm(nn.Dense(1, name="linear2"), name="linear2_norm")
    return out(x, update_stats=train)[:, 0]


def leaky(x: Array) -> Array:
  """Leaky ReLU that keeps the variance."""
  return jax.nn.leaky_relu(x, _SLOPE) * math.sqrt(2.0)


def blurred(x: Array, *, up: bool = False, pad: tuple[int, int] = (2, 2)) -> Array:
  """Each channel through the kernel 1, 3, 3, 1 on both axes; `up`: enlarged by two as well.

  [N,H,W,C] -> [N,H + sum(pad) - 3,...], or [N,2H,2W,C].
  """
  if up:
    x, pad = jax.lax.pad(4.0 * x, jnp.zeros((), x.dtype), _DOUBLED), (2, 1)
  return _blurred(pad, x)


_DOUBLED = ((0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0))  # a zero behind each row and each column


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blurred(pad: tuple[int, int], x: Array) -> Array:
  """By sums of slices: a convolution channel by channel takes four times as long on the CPU."""
  out = jnp.pad(x.astype(jnp.float32), ((0, 0), pad, pad, (0, 0)))
  for axis in (1, 2):
    size = out.shape[axis] - 3
    taps = [jax.lax.slice_in_dim(out, k, k + size, axis=axis) for k in range(4)]
    out = 0.125 * (taps[0] + taps[3]) + 0.375 * (taps[1] + taps[2])
  return out.astype(x.dtype)


def _blurred_back(pad: tuple[int, int], _: None, grad: Array) -> tuple[Array]:
  return (_blurred((3 - pad[0], 3 - pad[1]), grad),)  # the kernel is symmetric


_blurred.defvjp(lambda pad, x: (_blurred(pad, x), None), _blurred_back)


_HAAR = np.array([[1, 1, 1, 1], [-1, -1, 1, 1], [-1, 1, -1, 1], [1, -1, -1, 1]]) / 2.0


def haar(x: Array) -> Array:
  """Haar wavelets of 2 x 2 pixels: [N,H,W,C] -> [N,H/2,W/2,4 C], means first. It keeps norms."""
  n, height, width, channels = x.shape
  tiles = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
  tiles = tiles.reshape(n, height // 2, width // 2, 4, channels)
  waves = jnp.einsum("wp,nhkpc->nhkwc", jnp.asarray(_HAAR, x.dtype), tiles)
  return waves.reshape(n, height // 2, width // 2, 4 * channels)


def unhaar(waves: Array) -> Array:
  """Undoes `haar`."""
  n, height, width, channels = waves.shape
  tiles = waves.reshape(n, height, width, 4, channels // 4)
  tiles = jnp.einsum("wp,nhkwc->nhkpc", jnp.asarray(_HAAR, waves.dtype), tiles)
  tiles = tiles.reshape(n, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
  return tiles.reshape(n, 2 * height, 2 * width, channels // 4)


def with_spread(x: Array) -> Array:
  """One more channel, the mean spread of groups of images: [N,H,W,C] -> [N,H,W,C + 1].

  A group has four images, or the next smaller number that divides N.
  """
  n, height, width, channels = x.shape
  group = max(size for size in range(1, _GROUP + 1) if n % size == 0)
  rows = x.reshape(group, n // group, height, width, channels)
  spread = jnp.mean(jnp.sqrt(jnp.var(rows, 0) + _TINY), (1, 2, 3))
  spread = jnp.broadcast_to(jnp.tile(spread, group)[:, None, None, None], (n, height, width, 1))
  return jnp.concatenate([x, spread], -1)


def where(rows: int, columns: int, features: int) -> Array:
  """Sines and cosines of columns, then of rows, counted from 1: f32[rows, columns, features]."""
  quarter = features // 4
  rates = _PERIOD ** (-np.arange(quarter) / (quarter - 1))

  def along(count: int) -> np.ndarray:
    angles = np.arange(1, count + 1)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)

  shape = (rows, columns, 2 * quarter)
  parts = jnp.asarray(along(columns))[None], jnp.asarray(along(rows))[:, None]
  return jnp.concatenate([jnp.broadcast_to(part, shape) for part in parts], -1)


def _places(side: int) -> np.ndarray:
  """Row of the table of places for each pair of positions in a window: int[P,P]."""
  at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(2, -1)
  rows, columns = at[:, :, None] - at[:, None] + side - 1
  return rows * (2 * side - 1) + columns


def _apart(size: tuple[int, int], side: int, shift: int) -> Array:
  """0 for pairs of positions that are neighbours in the image, else -100: f32[windows,P,P]."""
  parts = [
    (np.arange(length) >= length - side).astype(int) + (np.arange(length) >= length - shift)
    for length in size
  ]
  label = 3 * parts[0][:, None] + parts[1]
  cut = label.reshape(size[0] // side, side, size[1] // side, side).transpose(0, 2, 1, 3)
  flat = jnp.asarray(cut.reshape(-1, side * side))
  return jnp.where(flat[:, :, None] == flat[:, None], 0.0, _BEYOND)
