"""Resizing exactly as published feature networks were fed: one matrix per axis, made in float64.

Libraries of the same method differ by pixel centres, antialiasing and borders, by enough to move a
FID by several points. N images, H x W pixels, C channels.

- "bilinear": pixel centres at half, no antialiasing: torch.nn.functional.interpolate, pytorch-fid.
- "tf1": pixel centres at whole numbers, no antialiasing: the first TensorFlow, the original FID.
- "bicubic": Keys' kernel (a = -0.5), antialiased: Pillow, clean-fid.
"""

import functools

import jax.numpy as jnp
import numpy as np

from hiresmed_jax.types import Array

METHODS = ("bilinear", "tf1", "bicubic")


def resize(images: Array, height: int, width: int, method: str) -> Array:
  """[N, H, W, C] of any type -> f32[N, height, width, C]. Bicubic leaves the range a little.

  Raises:
    ValueError: unknown method.
  """
  rows = resize_matrix(images.shape[1], height, method)
  columns = resize_matrix(images.shape[2], width, method)
  images = images.astype(jnp.float32)
  # True float32 products: a matrix unit's short ones would be errors of some grey levels.
  images = jnp.einsum("pw,nhwc->nhpc", columns, images, precision="highest")
  return jnp.einsum("oh,nhpc->nopc", rows, images, precision="highest")


def to_channels(images: Array, channels: int) -> Array:
  """Repeats grey images: [N, H, W, 1] -> [N, H, W, channels]; those of `channels` stay as they are.

  Grey images come as one channel from the host, whatever the network takes.
  """
  if images.shape[-1] == channels:
    return images
  return jnp.repeat(images, channels, axis=-1)


@functools.lru_cache(maxsize=32)
def resize_matrix(before: int, after: int, method: str) -> np.ndarray:
  """f32[after, before], read-only, each row's sum 1. Raises ValueError: unknown method."""
  if method not in METHODS:
    raise ValueError(f"{method} is none of {', '.join(METHODS)}")
  scale = before / after
  if method == "bicubic":
    matrix = _antialiased(before, after, scale)
  else:
    half = 0.5 if method == "bilinear" else 0.0
    position = np.clip((np.arange(after) + half) * scale - half, 0.0, before - 1.0)
    low = np.floor(position).astype(int)
    share = position - low
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after), low), 1.0 - share)
    np.add.at(matrix, (np.arange(after), np.minimum(low + 1, before - 1)), share)
  matrix = matrix.astype(np.float32)
  matrix.flags.writeable = False
  return matrix


def _antialiased(before: int, after: int, scale: float) -> np.ndarray:
  """Keys' kernel, as wide as a step where the image shrinks, cut and renormalised at borders."""
  centres = (np.arange(after) + 0.5) * scale
  x = np.abs(np.arange(before) + 0.5 - centres[:, None]) / max(scale, 1.0)
  inner = 1.5 * x**3 - 2.5 * x**2 + 1.0
  outer = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
  weights = np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))
  return weights / weights.sum(axis=1, keepdims=True)
