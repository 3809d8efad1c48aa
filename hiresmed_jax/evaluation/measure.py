"""Every metric of every image of a set, in bounded memory, split over the devices.

N images, H x W pixels, C channels, in [0, 1]. Each image is measured by itself: neither its batch
nor the number of devices changes its numbers.
"""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.evaluation import lesions, networks
from hiresmed_jax.evaluation.pictures import Entry, Picture, at_most
from hiresmed_jax.metrics import image as image_metrics
from hiresmed_jax.metrics import ssim
from hiresmed_jax.runtime import compilation
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.types import Array

_PIXELS = 1 << 20  # of a device's share of a batch
_MOST = 16  # images of a device's share of a batch
_LEAST = 32  # pixels a side that the networks of LPIPS need

Key = tuple[str, tuple[int, ...]]  # (kind of measurement, shape of the images)
Row = tuple[int, dict[str, Any]]  # (index of the entry, numbers by name)


class Item(NamedTuple):
  """One row of a batch: the index of its entry, and its arrays by name."""

  entry: int
  arrays: dict[str, np.ndarray]


def in_batches(
  items: Iterable[tuple[Key, Item]], size: Callable[[Key], int]
) -> Iterator[tuple[Key, list[Item]]]:
  """Gathers items by key; yields (key, `size(key)` items), and at the end the rest.

  At most one batch of each key waits; the order within a key is that of `items`.
  """
  waiting: dict[Key, list[Item]] = collections.defaultdict(list)
  for key, item in items:
    waiting[key].append(item)
    if len(waiting[key]) == size(key):
      yield key, waiting.pop(key)
  yield from waiting.items()


def batch_size(pixels: int, devices: int, count: int) -> int:
  """Images of a batch: bounded by the memory of a device, and by `count`."""
  share = max(1, min(_MOST, _PIXELS // max(pixels, 1), -(-count // devices)))
  return share * devices


def on_devices(rows: Sequence[Item], size: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """The arrays of a batch, stacked and split over all devices; filled up with its last row."""
  filled = [*rows, *[rows[-1]] * (size - len(rows))]
  stacked = {name: np.stack([row.arrays[name] for row in filled]) for name in filled[0].arrays}
  return dict(meshes.put_batch(stacked, meshes.batch_sharding(mesh)))


class Tools(NamedTuple):
  """Compiled functions, used for every set."""

  networks: networks.Networks  # with their weights on the host
  weights: Mapping[str, Any]  # {"features", "lpips": by network}, on the devices
  pixels: Callable[..., Any]  # (image, reference, mask) -> numbers f32[N] by name
  lpips: Mapping[str, Callable[..., Any]]  # by network: (weights, image, reference) -> f32[N]
  features: Callable[..., Any] | None  # (weights, image 0 .. 255) -> f32[N, D].
  fidelity: Callable[..., Any]  # `lesions.fidelity`
  mesh: jax.sharding.Mesh  # of devices


class Measured(NamedTuple):
  """The numbers of a set."""

  numbers: dict[str, np.ndarray]  # f64[N] by metric, NaN where it is missing
  # f32[N, D]; NaN rows for images that were not read; None without a network.
  features: np.ndarray | None
  # f64[L] by name: of `lesions.fidelity`, "lpips_<net>", and "image", the entry's index.
  lesions: dict[str, np.ndarray]
  failed: dict[int, str]  # the reason by index of each entry that was not read
  unpaired: dict[str, int]  # number of images without a reference, by reason
  shapes: int  # number of sizes


def tools(found: networks.Networks, mesh: jax.sharding.Mesh) -> Tools:
  """Puts the weights on the devices of a mesh; nothing is compiled before it is used."""
  jit = functools.partial(jax.jit, compiler_options=compilation.options())
  weights = {
    "features": found.features.net.weights if found.features else None,
    "lpips": {name: weights for name, (_, weights) in found.lpips.items()},
  }

  def perceptual(distance: Any) -> Callable[..., Any]:
    return lambda weights, images, references: distance(
      weights, 2.0 * images - 1.0, 2.0 * references - 1.0
    )

  return Tools(
    networks=found,
    weights=jax.device_put(weights, meshes.replicated(mesh)),
    pixels=jit(pixel_metrics),
    lpips={name: jit(perceptual(distance)) for name, (distance, _) in found.lpips.items()},
    features=jit(found.features.net.features) if found.features else None,
    fidelity=jit(lesions.fidelity),
    mesh=mesh,
  )


def pixel_metrics(images: Array, references: Array, masks: Array) -> dict[str, Array]:
  """The metrics without a network: f32[N] by name.

  Args:
    images: f32[N, H, W, C].
    references: the same.
    masks: bool[N, H, W], the lesions. An SSIM window reaches 5 px beyond its pixel, across the edge
      of the mask.

  Returns:
    psnr, l1; ssim, ssim_outside, ssim_inside from 11 px a side on; ms_ssim from 176.
  """
  found = {
    "psnr": image_metrics.psnr(images, references, data_range=1.0),
    "l1": image_metrics.l1(images, references),
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
    paired: False measures features and the visibility of lesions alone.
    same_lesions: whether a reference shows the lesions of its image.
    longest: side in pixels to which larger images are reduced before features are taken.
    workers: threads that read.
  """
  count = len(entries)
  failed: dict[int, str] = {}
  unpaired: collections.Counter[str] = collections.Counter()
  shapes: set[tuple[int, ...]] = set()
  rows: dict[str, list[Row]] = {"features": [], "pairs": [], "lesions": []}

  def load(pair: tuple[int, Entry]) -> tuple[int, Picture | str, Any]:
    index, entry = pair
    try:
      picture = entry.load()
    except Unreadable as error:
      return index, str(error), None
    net = tool.networks.features
    return index, picture, None if net is None else net.feed(at_most(picture.image, longest))

  def items(progress: Progress) -> Iterator[tuple[Key, Item]]:
    threads = workers or min(8, os.cpu_count() or 1)
    for index, picture, feed in ordered_map(load, enumerate(entries), workers=threads):
      progress.advance()
      if isinstance(picture, str):
        failed[index] = picture
        progress.print(f"{name}: {entries[index].key} {picture}")  # names go to the terminal only
        continue
      image, reference = picture.image, picture.reference
      shapes.add(image.shape)
      if feed is not None:
        yield ("features", feed.shape), Item(index, {"image": feed})
      if paired and reference is None:
        unpaired[picture.no_reference] += 1
      elif paired and reference is not None:
        arrays = {"image": image, "reference": reference, "mask": _mask(picture)}
        yield ("pairs", image.shape), Item(index, arrays)
      if not (paired and same_lesions):
        picture = picture._replace(reference=None)
      for window in lesions.windows(picture):
        yield ("lesions", window["image"].shape), Item(index, window)

  def size(key: Key) -> int:
    return batch_size(int(np.prod(key[1][:2])), tool.mesh.size, count)

  programs = {"features": _features, "pairs": _pairs, "lesions": _lesions}
  with Progress(count, f"evaluate {name}", unit="image") as progress:
    for key, batch in in_batches(items(progress), size):
      kind = key[0]
      found = jax.device_get(programs[kind](tool, on_devices(batch, size(key), tool.mesh)))
      rows[kind] += [
        (item.entry, {k: v[i] for k, v in found.items()}) for i, item in enumerate(batch)
      ]
  numbers = _columns(rows["pairs"], count)
  if "psnr" in numbers:
    numbers["psnr_paper"] = numbers["psnr"] + image_metrics.PAPER_OFFSET_DB
  features = None
  if rows["features"]:
    width = len(rows["features"][0][1]["features"])
    features = np.full((count, width), np.nan, np.float32)
    for index, row in rows["features"]:
      features[index] = row["features"]
  return Measured(numbers, features, _table(rows["lesions"]), failed, dict(unpaired), len(shapes))


def _columns(rows: Sequence[Row], count: int) -> dict[str, np.ndarray]:
  """f64[count] by name, NaN for entries without a row."""
  found: dict[str, np.ndarray] = {}
  for index, row in rows:
    for name, value in row.items():
      found.setdefault(name, np.full(count, np.nan))[index] = value
  return found


def _table(rows: Sequence[Row]) -> dict[str, np.ndarray]:
  """f64[L] by name, in the order of the images; "image" is the index of the entry."""
  ordered = [{"image": index, **row} for index, row in sorted(rows, key=lambda row: row[0])]
  names = dict.fromkeys(name for row in ordered for name in row)
  return {name: np.array([row.get(name, np.nan) for row in ordered], np.float64) for name in names}


def _features(tool: Tools, arrays: Mapping[str, Any]) -> dict[str, Any]:
  assert tool.features is not None
  return {"features": tool.features(tool.weights["features"], arrays["image"])}


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
    # Outside the mask both show the reference, so that only the lesion differs.
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
