"""Samples of a trained SinGAN, made level by level from coarse to fine.

One program serves all lesions of one window size. It makes one image at a time, so that the bytes
do not depend on how many are made or on which device. Source: Shaham et al. 2019, section 2.

L lesions, S side of the window, C channels of the image; the last of C + 1 is the soft mask.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hiresmed_jax.nets.singan import Generator
from hiresmed_jax.ops.pyramid import Pyramid, to_level
from hiresmed_jax.types import Array


class Generators(NamedTuple):
  """The trained generators of lesions of one window size.

  Attributes:
    levels: {"params", "batch_stats"} of a `Generator` for each level, coarse first; all arrays
      have a leading axis of L.
    amplitudes: f32[L, levels], of the noise at each level.
    fixed: f32[L, h, w, 1], noise of the coarsest level that reproduces the training image.
  """

  levels: tuple[Any, ...]
  amplitudes: Array
  fixed: Array


@functools.partial(jax.jit, static_argnames=("pyramid", "widths", "start"))
def sample(
  generators: Generators,
  index: Array,
  key: Array,
  *,
  pyramid: Pyramid,
  widths: tuple[int, ...],
  start: int,
) -> Array:
  """A new image of one lesion: f32[S, S, C + 1], in about [-1, 1].

  Args:
    generators: of L lesions.
    index: int32, of the lesion.
    key: of the noise.
    pyramid: the levels they were trained at.
    widths: hidden channels of the generator at each level.
    start: coarser levels reproduce the training image, this level and finer ones get new noise.
      0 makes everything new; 1 keeps the coarse layout.
  """
  one = jax.tree.map(lambda a: a[index], generators)
  channels = int(one.levels[0]["params"]["body"]["kernel0"].shape[-2])
  image = jnp.zeros((1, *pyramid.sizes[0], channels))
  for level, (size, width) in enumerate(zip(pyramid.sizes, widths, strict=True)):
    if level:
      image = to_level(image, level, pyramid)
    if level >= start:
      # The coarsest level has one noise for all channels, the others have one for each.
      shape = (1, *size, channels if level else 1)
      noise = jax.random.normal(jax.random.fold_in(key, level), shape)
    else:
      noise = jnp.zeros((1, *size, 1)) if level else one.fixed[None]
    noisy = one.amplitudes[level] * noise + image
    # For one image the compiler's own convolution is fast enough and compiles much faster.
    net = Generator(channels, width, way="vendor")
    image = net.apply(one.levels[level], noisy, image, train=False)
  return image[0]


def widths_of(levels: Sequence[Any]) -> tuple[int, ...]:
  """Hidden channels of each level's generator, from its weights."""
  return tuple(int(level["params"]["body"]["kernel0"].shape[-1]) for level in levels)
