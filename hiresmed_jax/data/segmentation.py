"""Batches for a network that answers for every pixel: images with masks of forbidden tissue.

B images of S x T pixels, C channels. A record without a mask may get one from a folder.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from hiresmed_jax.data import pipeline, stored
from hiresmed_jax.data.augment import augment
from hiresmed_jax.data.transforms import View, load
from hiresmed_jax.errors import UserError


class Labelled:
  """Records that have a mask of forbidden tissue, their own or one of a folder.

  Item: as of `records.Records`, forbidden_mask never (0, 0).
  """

  def __init__(self, source: pipeline.Source, folder: Path, numbers: Sequence[int] | None = None):
    """Takes the records of these numbers, None: all; see `with_mask`."""
    self._source, self._folder = source, folder
    self._numbers = tuple(range(len(source)) if numbers is None else numbers)

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> dict[str, Any]:
    item = dict(self._source[self._numbers[index]])
    if not item["forbidden_mask"].size:
      content = mask_path(self._folder, item["image_id"]).read_bytes()
      item["forbidden_mask"] = stored.decode_mask(content, np.uint8)
    return item

  def __repr__(self) -> str:
    return f"Labelled({self._source!r}, {len(self)})"  # without the path: see records.Records


def with_mask(source: Iterable[Mapping[str, Any]]) -> list[int]:
  """Numbers of the records that have a mask of their own."""
  return [number for number, item in enumerate(source) if item["forbidden_mask"].size]


def mask_path(folder: Path, image_id: str) -> Path:
  """Where an image's mask lies. The id is a keyed hash: hexadecimal digits."""
  if not image_id.isalnum():
    raise ValueError("an image id of other than letters and digits")
  return folder / f"{image_id}.png"


def train_dataset(
  source: pipeline.Source,
  *,
  view: View,
  augmentation: Mapping[str, Any],
  crop: int,
  batch_size: int,
  seed: int,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Endless training batches of this process.

  Args:
    source: the records, with masks.
    view: what to make of a record.
    augmentation: arguments of `augment.augment`.
    crop: side of a random window of the view; 0 keeps the view.
    batch_size: over all processes.
    seed: of the order and of the random changes.
    workers: see `pipeline.train_dataset`, as for the rest.
    process_index: likewise.
    process_count: likewise.

  Returns:
    grain dataset of {"images_m11": f32[B, S, T, C], "labels": uint8[B, S, T], 1 on what is
    forbidden, "valid": bool[B, S, T], False on padding and beyond the image; "lesions":
    uint8[B, S, T], 1 in the boxes of lesions}.

  Raises:
    UserError: see `pipeline.endless`; crops that are larger than the view.
  """
  if crop > min(view.shape):
    raise UserError(f"crops of {crop} px do not fit in a view of {view.shape[0]} x {view.shape[1]}")
  make = functools.partial(_example, view=view, augmentation=dict(augmentation), crop=crop)
  side = (crop, crop) if crop else view.shape
  return pipeline.endless(
    source,
    [(make, 0)],
    batch_size=batch_size,
    item_bytes=side[0] * side[1] * (4 * view.channels + 3),
    seed=seed,
    workers=workers,
    process_index=process_index,
    process_count=process_count,
  )


def eval_batches(
  source: pipeline.Source, *, view: View, batch_size: int, limit: int | None = None
) -> Iterator[dict[str, Any]]:
  """Batches of `pipeline.eval_batches`, and labels uint8[B, S, T]: 1 on what is forbidden."""
  for batch in pipeline.eval_batches(source, view=view, batch_size=batch_size, limit=limit):
    yield batch | {"labels": _labels(batch["forbidden_mask"])}


def _example(
  record: Mapping[str, Any],
  rng: np.random.Generator,
  *,
  view: View,
  augmentation: Mapping[str, Any],
  crop: int,
) -> dict[str, np.ndarray]:
  example = augment(load(record, view), rng, **augmentation)
  arrays = {
    "images_m11": example["images_m11"],
    "labels": _labels(example["forbidden_mask"]),
    "valid": example["valid"],
    "lesions": _filled(example["boxes"], view.shape),
  }
  if crop:
    top, left = (int(rng.integers(side - crop + 1)) for side in view.shape)
    window = np.s_[top : top + crop, left : left + crop]
    arrays = {name: np.ascontiguousarray(value[window]) for name, value in arrays.items()}
  return arrays


def _labels(forbidden_mask: np.ndarray) -> np.ndarray:
  return (forbidden_mask > 0).astype(np.uint8)


def _filled(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  out = np.zeros(shape, np.uint8)
  for x1, y1, x2, y2 in np.rint(boxes).astype(int):
    out[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 1
  return out
