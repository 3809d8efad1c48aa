"""The fixed images of the convergence benchmark: from a prepared dataset, or phantoms."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from hiresmed_jax.data import phantom, records, transforms
from hiresmed_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Images:
  """Images f32[N, H, W, 1] in [-1, 1].

  Attributes:
    train: all training images.
    judged: those of them on which the training error is measured.
    held_out: images of other patients.
  """

  train: np.ndarray
  judged: np.ndarray
  held_out: np.ndarray


def load(data: Path | None, scale: Any) -> Images:
  """Images of the scale's size and numbers, evenly spread over the splits train and test.

  Args:
    data: prepared dataset; None draws phantoms.
    scale: see `convergence_run.Scale`.

  Raises:
    UserError: fewer images than asked for.
  """
  if data is None:
    drawn = _phantoms(scale.images + scale.held_out, scale.size)
    train, held_out = drawn[: scale.images], drawn[scale.images :]
  else:
    dataset = records.open_dataset(data)
    train, held_out = (
      _spread(dataset, split, count, scale.size)
      for split, count in (("train", scale.images), ("test", scale.held_out))
    )
  judged = train[np.linspace(0, len(train), scale.judged, endpoint=False).astype(int)]
  return Images(train, judged, held_out)


def describe(data: Path | None, scale: Any, images: Images) -> dict[str, Any]:
  """Facts of the images, and the errors of two constant reconstructions: mean and median image."""
  mean, median = images.train.mean(axis=0), np.median(images.train, axis=0)
  name, fingerprint = "KUB phantoms", None
  if data is not None:
    card = records.open_dataset(data).card
    name, fingerprint = card["name"], card["fingerprint"]
  return {
    "name": name,
    "fingerprint": fingerprint,
    "size": scale.size,
    "train": len(images.train),
    "judged_of_train": len(images.judged),
    "held_out": len(images.held_out),
    "error_of_mean_image": round(float(np.abs(images.judged - mean).mean()) / 2, 5),
    "error_of_median_image": round(float(np.abs(images.judged - median).mean()) / 2, 5),
  }


def _spread(dataset: records.Dataset, split: Any, count: int, size: int) -> np.ndarray:
  source = records.source(dataset, split).without_masks()
  if len(source) < count:
    raise UserError(
      f"{dataset.root} has {len(source)} {split} images and this run needs {count}: "
      "prepare more, or ask for fewer with --images"
    )
  view = transforms.View(size, fit="crop")
  picked = np.linspace(0, len(source), count, endpoint=False).astype(int)
  return np.stack([transforms.load(source[int(i)], view)["images_m11"] for i in picked])


def _phantoms(count: int, size: int) -> np.ndarray:
  images = []
  for drawn in phantom.phantoms("kub", count, size):
    low, high = drawn.sample.value_range
    unit = (drawn.sample.image.astype(np.float32) - low) / (high - low)
    images.append(np.clip(unit, 0.0, 1.0) * 2.0 - 1.0)
  return np.stack(images).astype(np.float32)
