"""Images from noise, by a trained network: one PNG each.

S images in a batch. Every image has random numbers of its own, by its number, so that neither the
size of a batch nor the number of devices changes what is drawn.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.nets.ddpm import DenoisingUNet
from hiresmed_jax.ops import diffusion
from hiresmed_jax.ops.resize import resize
from hiresmed_jax.ops.upsample import depth_to_space
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.types import Array, Params


def path_of(folder: pathlib.Path, number: int) -> pathlib.Path:
  """The file of an image."""
  return folder / f"sample_{number:06d}.png"


def write(
  folder: pathlib.Path,
  variables: Params,
  *,
  net: DenoisingUNet,
  plan: diffusion.Step,
  shape: Sequence[int],
  patch: int,
  count: int,
  batch_size: int,
  seed: int,
  size: Sequence[int],
  grey: bool,
  mesh: jax.sharding.Mesh,
) -> None:
  """Writes `count` images as 8-bit PNG; those that are there already are left as they are.

  Args:
    folder: of the files.
    variables: {"params"} of the network, on all devices of the mesh.
    net: estimates the noise.
    plan: the steps.
    shape: (rows, columns, channels) of what the network sees.
    patch: side of the pixels that are channels of one position in it.
    count: how many.
    batch_size: over all processes.
    seed: of all images.
    size: (rows, columns) of the files; images are enlarged or reduced by bicubic interpolation.
    grey: whether the files have one channel.
    mesh: of all devices.
  """
  split = meshes.batch_sharding(mesh)

  def begin(numbers: Array) -> tuple[Array, Array]:
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)
    return _normal(keys, len(plan.level), shape), keys

  def advance(variables: Params, noisy: Array, keys: Array, number: Array, step: Any) -> Array:
    at = jnp.full(noisy.shape[:1], step.level)
    eps = net.apply(variables, noisy, at)
    return diffusion.less_noise(noisy, eps, _normal(keys, number, shape), step)

  begin = jax.jit(begin, out_shardings=(split, split))
  # One step a call: on a CPU, a convolution in a loop takes eight times as long; and between two
  # calls a signal is heard.
  advance = jax.jit(advance, donate_argnums=1, out_shardings=split)
  missing = [n for n in range(count) if not path_of(folder, n).is_file()]
  meshes.wait_for_all("samples are looked for")
  batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
  with Progress(len(batches) * len(plan.level), "samples") as progress:
    for numbers in batches:
      padded = np.resize(np.asarray(numbers, np.int32), batch_size)
      noisy, keys = begin(_put(padded, split))
      for number in range(len(plan.level)):
        step = diffusion.Step(*(part[number] for part in plan))
        noisy = jax.block_until_ready(advance(variables, noisy, keys, np.int32(number), step))
        progress.advance()
      for number, image in _rows(noisy, numbers):
        files.write(path_of(folder, number), _png(image, patch, size, grey=grey))
  meshes.wait_for_all("samples are written")


def read(folder: pathlib.Path, numbers: Sequence[int]) -> list[np.ndarray]:
  """The images of these numbers, uint8[H, W] or RGB uint8[H, W, 3]."""
  files_of = (str(path_of(folder, number)) for number in numbers)
  images = [np.asarray(cv2.imread(path, cv2.IMREAD_UNCHANGED)) for path in files_of]
  return [image if image.ndim == 2 else image[..., ::-1] for image in images]


def _normal(keys: Array, use: Any, shape: Sequence[int]) -> Array:
  """Noise for a use of the random numbers of every image: f32[S, *shape]."""
  return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, use), tuple(shape)))(keys)


def _put(numbers: np.ndarray, split: jax.sharding.NamedSharding) -> Array:
  """Numbers that every process holds whole, each device its share."""
  return jax.make_array_from_callback(numbers.shape, split, lambda index: numbers[index])


def _rows(images: Array, numbers: Sequence[int]) -> list[tuple[int, np.ndarray]]:
  """(number, image) of the rows on this process's devices, without those that fill the batch up."""
  found = []
  for shard in images.addressable_shards:
    first = shard.index[0].start or 0
    own = numbers[first : first + len(shard.data)]
    found += list(zip(own, np.asarray(shard.data), strict=False))
  return found


def _png(image: np.ndarray, patch: int, size: Sequence[int], *, grey: bool) -> bytes:
  """The file of an image f32[h, w, p p C] in [-1, 1]."""
  pixels = depth_to_space(jnp.asarray(image)[None], patch)
  rows, columns = size
  if pixels.shape[1:3] != (rows, columns):
    pixels = resize(pixels, rows, columns, "bicubic")
  shown = np.asarray(pixels[0] * 127.5 + 127.5)
  if grey:
    shown = shown.mean(axis=-1, keepdims=True)
  levels = np.rint(np.clip(shown, 0, 255)).astype(np.uint8)
  return cv2.imencode(".png", levels[..., ::-1])[1].tobytes()
