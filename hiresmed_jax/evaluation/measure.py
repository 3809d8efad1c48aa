"""Every image of a set through every metric, in bounded memory, split over the devices.

N images, H x W pixels, C channels, in [0, 1]. Each image is judged by itself, so that neither the
batch that it falls into nor the number of devices counts.
"""

import collections
import functools
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.evaluation import lesions, networks
from hiresmed_jax.evaluation.pictures import Entry, Picture, at_most
from hiresmed_jax.metrics import image, ssim
from hiresmed_jax.runtime import compilation
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.types import Array

_PIXELS = 1 << 20  # of a device's share of a batch
_MOST = 16  # images of it

_T = TypeVar("_T")


class Item(NamedTuple):
  """One row of a batch: whose it is, and its arrays by name."""

  entry: int
  arrays: dict[str, np.ndarray]


def in_batches(
  items: Iterable[tuple[Hashable, _T]], size: Any
) -> Iterator[tuple[Hashable, list[_T]]]:
  """Gathers items by key; yields (key, `size(key)` items), and at the end what is left.

  At most one batch of each key waits; the order within a key is that of `items`.
  """
  waiting: dict[Hashable, list[_T]] = collections.defaultdict(list)
  for key, item in items:
    waiting[key].append(item)
    if len(waiting[key]) == size(key):
      yield key, waiting.pop(key)
  yield from waiting.items()


def batch_size(pixels: int, devices: int, count: int) -> int:
  """Images of a batch: what a device's memory bears, no more than `count` asks for."""
  share = max(1, min(_MOST, _PIXELS // max(pixels, 1), -(-count // devices)))
  return share * devices


def on_devices(rows: Sequence[Item], size: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """The arrays of a batch, stacked and split over all devices; filled up with its last row."""
  filled = [*rows, *[rows[-1]] * (size - len(rows))]
  stacked = {name: np.stack([row.arrays[name] for row in filled]) for name in filled[0].arrays}
  return dict(meshes.put_batch(stacked, meshes.batch_sharding(mesh)))


_LEAST = 32  # pixels a side that LPIPS' trunks need


class Tools(NamedTuple):
  """Compiled once, used for every set.

  Attributes:
    networks: with their weights on the host.
    weights: on the devices.
    pixels: (image, reference, mask) -> numbers f32[N] by name.
    lpips: network -> (weights, image, reference) -> f32[N].
    features: (weights, image 0 .. 255) -> f32[N, D].
    fidelity: of lesions, see lesions.py.
    mesh: of devices.
  """

  networks: networks.Networks
  weights: Mapping[str, Any]
  pixels: Callable[..., Any]
  lpips: Mapping[str, Callable[..., Any]]
  features: Callable[..., Any] | None
  fidelity: Callable[..., Any]
  mesh: jax.sharding.Mesh


class Measured(NamedTuple):
  """What was found of a set.

  Attributes:
    numbers: metric -> f64[N], NaN where it cannot be had.
    features: f32[N, D]; NaN rows for images that were not read; None without a network.
    lesions: name -> f64[L]: of `lesions.fidelity`, "lpips_<net>", and "image", the entry's index.
    failed: index of an entry -> why it was not read.
    unpaired: why images have no reference -> how many.
    shapes: how many sizes there were.
  """

  numbers: dict[str, np.ndarray]
  features: np.ndarray | None
  lesions: dict[str, np.ndarray]
  failed: dict[int, str]
  unpaired: dict[str, int]
  shapes: int


def tools(found: networks.Networks, mesh: jax.sharding.Mesh) -> Tools:
  """Puts the weights on the devices of a mesh; nothing is compiled before it is used."""
  jit = functools.partial(jax.jit, compiler_options=compilation.options())
  replicated = meshes.replicated(mesh)
  weights = networks.placed(found, lambda w: jax.device_put(w, replicated))

  def perceptual(distance: Any) -> Callable[..., Any]:
    return lambda weights, images, references: distance(
      weights, 2.0 * images - 1.0, 2.0 * references - 1.0
    )

  return Tools(
    networks=found,
    weights=weights,
    pixels=jit(pixel_metrics),
    lpips={name: jit(perceptual(distance)) for name, (distance, _) in found.lpips.items()},
    features=jit(found.features.net.features) if found.features else None,
    fidelity=jit(lesions.fidelity),
    mesh=mesh,
  )


def pixel_metrics(images: Array, references: Array, masks: Array) -> dict[str, Array]:
  """All that needs no network: f32[N] by name.

  Args:
    images: f32[N, H, W, C].
    references: the same.
    masks: bool[N, H, W], the lesions. Outside counts pixels whose whole SSIM window lies off them
      or not: a window reaches 5 px into what is beside its pixel.

  Returns:
    psnr, l1; ssim, ssim_outside, ssim_inside from 11 px a side on; ms_ssim from 176.
  """
  found = {
    "psnr": image.psnr(images, references, data_range=1.0),
    "l1": image.l1(images, references),
  }
  if min(images.shape[1:3]) >= ssim.WINDOW:
    similarity = ssim.ssim_map(images, references, data_range=1.0).mean(axis=-1)
    found["ssim"] = similarity.mean(axis=(1, 2))
    found["ssim_outside"] = jnp.mean(similarity, axis=(1, 2), where=~masks)
    found["ssim_inside"] = jnp.mean(similarity, axis=(1, 2), where=masks)
  if min(images.shape[1:3]) >= ssim.MINIMUM_MS:
    found["ms_ssim"] = ssim.ms_ssim(images, references, data_range=1.0)
  return found


def measure(
  entries: Sequence[Entry],
  tool: Tools,
  *,
  name: str,
  paired: bool = True,
  same_lesions: bool = False,
  longest: int | None = None,
  workers: int | None = None,
) -> Measured:
  """Measures a set.

  Args:
    entries: its images.
    tool: of `tools`.
    name: for the progress.
    paired: whether references count; otherwise features and the visibility of lesions alone.
    same_lesions: whether a reference shows the lesions of its image.
    longest: side in pixels to which larger images are reduced before features are taken.
    workers: threads that read.
  """
  count = len(entries)
  numbers: dict[str, np.ndarray] = {}
  rows: list[dict[str, float]] = []
  features: np.ndarray | None = None
  failed: dict[int, str] = {}
  unpaired: dict[str, int] = {}
  shapes: set[tuple[int, ...]] = set()
  devices = tool.mesh.size

  def one(pair: tuple[int, Entry]) -> tuple[int, Picture | str, Any]:
    index, entry = pair
    try:
      picture = entry.load()
    except Unreadable as error:
      return index, str(error), None
    feed = None
    if tool.networks.features is not None:
      feed = tool.networks.features.feed(at_most(picture.image, longest))
    return index, picture, feed

  def items(progress: Progress) -> Iterator[tuple[Hashable, Item]]:
    threads = workers or min(8, os.cpu_count() or 1)
    for index, picture, feed in ordered_map(one, enumerate(entries), workers=threads):
      progress.advance()
      if isinstance(picture, str):
        failed[index] = picture
        progress.print(f"{name}: {entries[index].key} {picture}")  # names go to the terminal only
        continue
      shapes.add(picture.image.shape)
      if feed is not None:
        yield ("features", feed.shape), Item(index, {"image": feed})
      if not paired:
        pass
      elif picture.reference is None:
        unpaired[picture.no_reference] = unpaired.get(picture.no_reference, 0) + 1
      else:
        yield (
          ("pairs", picture.image.shape),
          Item(
            index,
            {"image": picture.image, "reference": picture.reference, "mask": _mask(picture)},
          ),
        )
      if not (paired and same_lesions):
        picture = picture._replace(reference=None)
      for window in lesions.windows(picture):
        yield ("lesions", window["image"].shape), Item(index, window)

  def size(key: Any) -> int:
    return batch_size(int(np.prod(key[1][:2])), devices, count)

  with Progress(count, f"evaluate {name}", unit="image") as progress:
    for key, batch in in_batches(items(progress), size):
      kind = key[0]  # type: ignore[index]
      arrays = on_devices(batch, size(key), tool.mesh)
      indices = [item.entry for item in batch]
      if kind == "features":
        found = np.asarray(_features(tool, arrays))[: len(batch)]
        if features is None:
          features = np.full((count, found.shape[1]), np.nan, np.float32)
        features[indices] = found
        continue
      found = jax.device_get(_pairs(tool, arrays) if kind == "pairs" else _lesions(tool, arrays))
      if kind == "pairs":
        for metric, values in found.items():
          column = numbers.setdefault(metric, np.full(count, np.nan))
          column[indices] = values[: len(batch)]
      else:
        for row, index in enumerate(indices):
          rows.append({"image": index, **{k: float(v[row]) for k, v in found.items()}})
  if "psnr" in numbers:
    numbers["psnr_paper"] = numbers["psnr"] + image.PAPER_OFFSET_DB
  rows.sort(key=lambda row: row["image"])
  names = dict.fromkeys(key for row in rows for key in row)
  table = {key: np.array([row.get(key, np.nan) for row in rows]) for key in names}
  return Measured(numbers, features, table, failed, unpaired, len(shapes))


def _features(tool: Tools, arrays: Mapping[str, Any]) -> Any:
  assert tool.features is not None
  return tool.features(tool.weights["features"], arrays["image"])


def _pairs(tool: Tools, arrays: Mapping[str, Any]) -> dict[str, Any]:
  found = dict(tool.pixels(arrays["image"], arrays["reference"], arrays["mask"]))
  if min(arrays["image"].shape[1:3]) >= _LEAST:
    for net, distance in tool.lpips.items():
      weights = tool.weights["lpips"][net]
      found[f"lpips_{net}"] = distance(weights, arrays["image"], arrays["reference"])
  return found


def _lesions(tool: Tools, arrays: Mapping[str, Any]) -> dict[str, Any]:
  images, references, masks = arrays["image"], arrays["reference"], arrays["mask"]
  found = dict(tool.fidelity(images, references, masks, arrays["box"]))
  if min(images.shape[1:3]) >= _LEAST:
    # Outside the mask both show the reference: what differs is the lesion.
    pasted = jnp.where(masks[..., None], images, references)
    for net, distance in tool.lpips.items():
      found[f"lpips_{net}"] = distance(tool.weights["lpips"][net], pasted, references)
  return found


def _mask(picture: Picture) -> np.ndarray:
  """bool[H, W] of all lesions: by their masks, else by their boxes."""
  if picture.lesion_mask.shape == picture.image.shape[:2]:
    return np.asarray(picture.lesion_mask > 0)
  mask = np.zeros(picture.image.shape[:2], bool)
  for x1, y1, x2, y2 in picture.boxes:
    mask[int(max(y1, 0)) : int(np.ceil(y2)), int(max(x1, 0)) : int(np.ceil(x2))] = True
  return mask
