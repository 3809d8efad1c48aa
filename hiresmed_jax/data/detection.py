"""Batches for a detector: images, and as many boxes beside them as any image has.

Shapes are fixed: f32[B, M, 4] boxes of which bool[B, M] says which ones there are.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from hiresmed_jax.data import augment, pipeline, stored
from hiresmed_jax.data.transforms import View, load
from hiresmed_jax.errors import UserError


class WithoutLesions:
  """Records with the image in which lesions are taken out beside their own; see `share` below.

  Item: as of `records.Records`, and `bare`: the other image, of the same type, or None where there
  is none. Boxes are those of the lesions, in both.
  """

  def __init__(self, source: pipeline.Source, folder: Path):
    self._source, self._folder = source, folder

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    item = dict(self._source[index])
    path = bare_path(self._folder, item["image_id"])
    item["bare"] = None
    if path.is_file():
      image = item["image"]
      item["bare"] = stored.decode_image(
        path.read_bytes(), dtype=image.dtype.type, channels=image.shape[-1]
      )
    return item

  def __repr__(self) -> str:
    return f"WithoutLesions({self._source!r})"  # without the path: see records.Records


def bare_path(folder: Path, image_id: str) -> Path:
  """Where the image without lesions lies. The id is a keyed hash: hexadecimal digits."""
  if not image_id.isalnum():
    raise ValueError("an image id of other than letters and digits")
  return folder / f"{image_id}.png"


def most_boxes(records: Iterable[Mapping[str, Any]]) -> int:
  """The greatest number of boxes in an image.

  Raises:
    UserError: there are no boxes in any: nothing can be learnt from them.
  """
  most = max((len(record["boxes"]) for record in records), default=0)
  if not most:
    raise UserError("the training images have no lesion boxes: there is nothing to detect")
  return most


def train_dataset(
  source: pipeline.Source,
  *,
  view: View,
  room: int,
  augmentation: Mapping[str, Any],
  mosaic_share: float,
  mosaic_batches: int,
  bare_share: float,
  batch_size: int,
  seed: int,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Endless training batches of this process.

  Args:
    source: the records, `WithoutLesions` where `bare_share` is above 0.
    view: what to make of a record; square.
    room: M, what `most_boxes` says (a mosaic has four times the room).
    augmentation: arguments of `mosaic.compose`: scale, shift, gain, flip.
    mosaic_share: of the images that are made of four.
    mosaic_batches: after so many batches there are no mosaics any more, for images as they are.
    bare_share: of the images that have their lesions taken out, but not their boxes.
    batch_size: over all processes.
    seed: of the order and of the random changes.
    workers: see `pipeline.train_dataset`, as for the rest.
    process_index: likewise.
    process_count: likewise.

  Returns:
    grain dataset of {"images_m11": f32[B, S, S, C], "boxes_xyxy": f32[B, M', 4], "boxes_valid":
    bool[B, M']}; M' = 4 M with mosaics.

  Raises:
    UserError: see `pipeline.endless`; a view that is not square.
  """
  side = view.shape[0]
  if view.shape[1] != side:
    raise UserError(f"the detector's images are square, not {view.shape[0]} x {view.shape[1]}")
  make = functools.partial(
    _training_image,
    source=source,
    view=view,
    room=4 * room if mosaic_share else room,
    augmentation=dict(augmentation),
    bare_share=bare_share,
  )
  plain = functools.partial(make, mosaic_share=0.0)
  makes: list[Any] = [(plain, 0)]
  if mosaic_share and mosaic_batches > 0:
    makes.insert(0, (functools.partial(make, mosaic_share=mosaic_share), mosaic_batches))
  return pipeline.endless(
    source,
    makes,
    batch_size=batch_size,
    item_bytes=side * side * 4 * view.channels,
    seed=seed,
    workers=workers,
    process_index=process_index,
    process_count=process_count,
  )


def eval_batches(
  source: pipeline.Source, *, view: View, room: int, batch_size: int, limit: int | None = None
) -> Iterator[dict[str, Any]]:
  """Batches of `pipeline.eval_batches`, and boxes_xyxy f32[B, M, 4], boxes_valid bool[B, M].

  Raises:
    UserError: an image has more boxes than there is room.
  """
  for batch in pipeline.eval_batches(source, view=view, batch_size=batch_size, limit=limit):
    boxes = [*batch["boxes"], *[np.zeros((0, 4))] * (batch_size - len(batch["boxes"]))]
    yield batch | padded(boxes, room)


def padded(boxes: Sequence[np.ndarray], room: int) -> dict[str, np.ndarray]:
  """{"boxes_xyxy": f32[B, M, 4], 0 where there is none, "boxes_valid": bool[B, M]}.

  Raises:
    UserError: an image has more boxes than `room`.
  """
  most = max((len(own) for own in boxes), default=0)
  if most > room:
    raise UserError(f"an image has {most} lesion boxes and there is room for {room}")
  out = np.zeros((len(boxes), room, 4), np.float32)
  valid = np.zeros((len(boxes), room), bool)
  for row, there, own in zip(out, valid, boxes):
    row[: len(own)], there[: len(own)] = own, True
  return {"boxes_xyxy": out, "boxes_valid": valid}


def _training_image(
  record: Mapping[str, Any],
  rng: np.random.Generator,
  *,
  source: pipeline.Source,
  view: View,
  room: int,
  augmentation: Mapping[str, Any],
  mosaic_share: float,
  bare_share: float,
) -> dict[str, np.ndarray]:
  others = rng.integers(len(source), size=3)
  chosen = [record]
  if rng.uniform() < mosaic_share:
    chosen += [source[int(i)] for i in others]
  examples = [load(_with_or_without(one, rng, bare_share), view) for one in chosen]
  images_m11, boxes = augment.compose(examples, rng, side=view.shape[0], **augmentation)
  both = padded([boxes], room)
  return {"images_m11": images_m11, **{name: value[0] for name, value in both.items()}}


def _with_or_without(
  record: Mapping[str, Any], rng: np.random.Generator, share: float
) -> Mapping[str, Any]:
  bare = record.get("bare")
  if rng.uniform() >= share or bare is None:
    return record
  return {**record, "image": bare}
