"""Batches for a detector: images with boxes f32[B, M, 4], valid where bool[B, M] is True."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from hiresmed_jax.data import augment, pipeline
from hiresmed_jax.data.records import Source
from hiresmed_jax.data.transforms import Example, View, load
from hiresmed_jax.errors import UserError


def most_boxes(records: Iterable[Mapping[str, Any]]) -> int:
  """The greatest number of boxes in an image.

  Raises:
    UserError: no image has a box.
  """
  most = max((len(record["boxes"]) for record in records), default=0)
  if not most:
    raise UserError("the training images have no lesion boxes: there is nothing to detect")
  return most


def train_dataset(
  source: Source,
  *,
  view: View,
  room: int,
  augmentation: Mapping[str, Any],
  mosaic_share: float,
  mosaic_batches: int,
  lesion_free_share: float,
  kept_bytes: int = pipeline.KEPT_BYTES,
  **reading: Any,
) -> grain.IterDataset:
  """Endless training batches.

  Args:
    source: the records, `records.WithLesionFree` where `lesion_free_share` is above 0.
    view: how a record is shown; square.
    room: M of one image, from `most_boxes`; M is 4 times that with mosaics.
    augmentation: arguments of `augment.compose`: scale, shift, gain, flip.
    mosaic_share: of the images that are made of four.
    mosaic_batches: number of batches after which there are no mosaics.
    lesion_free_share: of the images that have their lesions removed, but not their boxes.
    kept_bytes: of images that were decoded, see `pipeline.train_dataset`.
    **reading: batch_size, seed, workers and processes, see `pipeline.endless`.

  Returns:
    grain dataset of {"images_m11": f32[B, S, S, C], "boxes_xyxy": f32[B, M, 4], "boxes_valid":
    bool[B, M]}.

  Raises:
    UserError: see `pipeline.endless`; a view that is not square.
  """
  side = view.shape[0]
  if view.shape[1] != side:
    raise UserError(f"the detector's images are square, not {view.shape[0]} x {view.shape[1]}")
  shown = functools.partial(_shown, view=view, lesion_free=lesion_free_share > 0)
  kept = pipeline.Kept(source, shown, kept_bytes, workers=reading.get("workers", 0))
  make = functools.partial(
    _example,
    source=kept,
    side=side,
    room=4 * room if mosaic_share else room,
    augmentation=dict(augmentation),
    lesion_free_share=lesion_free_share,
  )
  makes: list[tuple[pipeline.Make, int]] = [(functools.partial(make, mosaic_share=0.0), 0)]
  if mosaic_share and mosaic_batches > 0:
    makes.insert(0, (functools.partial(make, mosaic_share=mosaic_share), mosaic_batches))
  return pipeline.endless(kept, makes, item_bytes=side * side * 4 * view.channels, **reading)


def eval_batches(
  source: Source, *, view: View, room: int, batch_size: int
) -> Iterator[dict[str, Any]]:
  """Batches of `pipeline.eval_batches`, and boxes_xyxy f32[B, M, 4], boxes_valid bool[B, M].

  Raises:
    UserError: an image has more boxes than `room`, M.
  """
  for batch in pipeline.eval_batches(source, view=view, batch_size=batch_size):
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


def _shown(
  record: Mapping[str, Any], *, view: View, lesion_free: bool
) -> tuple[Example, Example | None]:
  """The example of a record, and the one without its lesions where it is asked for and there."""
  image = record.get("lesion_free") if lesion_free else None
  return load(record, view), None if image is None else load({**record, "image": image}, view)


def _example(
  record: tuple[Example, Example | None],
  rng: np.random.Generator,
  *,
  source: pipeline.Kept,
  side: int,
  room: int,
  augmentation: Mapping[str, Any],
  mosaic_share: float,
  lesion_free_share: float,
) -> dict[str, np.ndarray]:
  others = rng.integers(len(source), size=3)
  chosen = [record]
  if rng.uniform() < mosaic_share:
    chosen += [source[int(i)] for i in others]
  examples = [
    own if rng.uniform() >= lesion_free_share or lesion_free is None else lesion_free
    for own, lesion_free in chosen
  ]
  images_m11, boxes = augment.compose(examples, rng, side=side, **augmentation)
  both = padded([boxes], room)
  return {"images_m11": images_m11, **{name: value[0] for name, value in both.items()}}
