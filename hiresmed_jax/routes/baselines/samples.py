"""A folder of images that a baseline makes from nothing, one PNG each, and a sheet of them.

S images in a batch, C channels. Every image has random numbers of its own, by its number, so that
neither the size of a batch nor the number of devices changes what is drawn.
"""

import pathlib
from collections.abc import Callable, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.ops.resize import resize
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.figures import image_grid
from hiresmed_jax.types import Array

_SHEET = (4, 6)  # rows and columns


def path_of(folder: pathlib.Path, number: int) -> pathlib.Path:
  """The file of an image."""
  return folder / f"sample_{number:06d}.png"


def write(
  folder: pathlib.Path,
  make: Callable[[Array], Array],
  *,
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
    make: keys [S], split over the devices -> images f32[S, h, w, C] in [-1, 1], split as well.
    count: how many.
    batch_size: S, over all processes.
    seed: of all images.
    size: (rows, columns) of the files; images are enlarged or reduced by bicubic interpolation.
    grey: whether the files have one channel.
    mesh: of all devices.
  """
  split = meshes.batch_sharding(mesh)

  def keys_of(numbers: Array) -> Array:
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)

  keys_of = jax.jit(keys_of, out_shardings=split)
  missing = [n for n in range(count) if not path_of(folder, n).is_file()]
  meshes.wait_for_all("samples are looked for")
  for start in range(0, len(missing), batch_size):
    numbers = missing[start : start + batch_size]
    padded = np.resize(np.asarray(numbers, np.int32), batch_size)
    for number, image in _rows(make(keys_of(_put(padded, split))), numbers):
      files.write(path_of(folder, number), _png(image, size, grey=grey))
  meshes.wait_for_all("samples are written")


def read(folder: pathlib.Path, numbers: Sequence[int]) -> list[np.ndarray]:
  """The images of these numbers, uint8[H, W] or RGB uint8[H, W, 3]."""
  files_of = (str(path_of(folder, number)) for number in numbers)
  images = [np.asarray(cv2.imread(path, cv2.IMREAD_UNCHANGED)) for path in files_of]
  return [image if image.ndim == 2 else image[..., ::-1] for image in images]


def sheet(path: pathlib.Path, folder: pathlib.Path, count: int, about: str) -> None:
  """Writes a PNG of the first images of a folder of `count`; `about` says how they were made."""
  rows, columns = _SHEET
  images = read(folder, range(min(count, rows * columns)))
  image_grid(
    path,
    [images[start : start + columns] for start in range(0, len(images), columns)],
    cell=256,
    footer=f"SYNTHETIC: {about}",
  )


def normal(keys: Array, use: int | Array, shape: Sequence[int]) -> Array:
  """Normal numbers for one use of the keys [S] of images: f32[S, *shape]."""
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


def _png(image: np.ndarray, size: Sequence[int], *, grey: bool) -> bytes:
  """The file of an image f32[h, w, C] in [-1, 1]."""
  rows, columns = size
  if image.shape[:2] != (rows, columns):
    image = np.asarray(resize(jnp.asarray(image)[None], rows, columns, "bicubic")[0])
  shown = image * 127.5 + 127.5
  if grey:
    shown = shown.mean(axis=-1, keepdims=True)
  levels = np.rint(np.clip(shown, 0, 255)).astype(np.uint8)
  return cv2.imencode(".png", levels[..., ::-1])[1].tobytes()
