"""A small detector for the benchmark of utility: trained on crops, judged on whole images.

YOLO11 with a level of stride 4 and an eighth of the channels, on crops at native resolution, with
one recipe for every arm: what two cores do in minutes.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from benchmarks import harness
from hiresmed_jax.evaluation import gain
from hiresmed_jax.routes import settings, supervised
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.runtime import compilation

SIDE = 128  # of a crop, pixels
BATCH = 16
ROOM = 16  # boxes of a crop, at most
EVALUATIONS = 5  # on inner validation images, in the second half of a run
_STRIDE = 32  # the sides of whole images are filled up to its multiples
_NEAR_LESION = 0.6  # share of the crops that are taken around a lesion
_AT_ONCE = 8  # whole images in a call
_INSIDE_PX = 2.0  # a box counts where its centre is so far inside a crop
_FLOOR = 0.01  # score of a detection that counts


class Labelled(NamedTuple):
  """An image f32[H, W] in [-1, 1], its boxes f32[N, 4] xyxy, its group."""

  image: np.ndarray
  boxes: np.ndarray
  group: str


class Strength(NamedTuple):
  """Greatest random changes of a crop; `flip`: whether left and right may change places."""

  zoom: float  # natural logarithm
  degrees: float
  gain: float
  offset: float  # of [-1, 1]
  flip: bool


PLAIN = Strength(0.0, 0.0, 0.0, 0.0, False)
STRONG = Strength(0.25, 15.0, 0.2, 0.1, True)
Draw = Callable[[np.random.Generator], Labelled]  # the next image of a feed


class Trained(NamedTuple):
  """Averaged weights at the step that was best on the inner validation images."""

  variables: Any
  step: int
  inner_froc: float
  seconds: float


def train(
  draws: Sequence[Draw],
  strength: Strength,
  inner: Sequence[Labelled],
  *,
  steps: int,
  seed: int,
  say: Callable[[str], Any] = print,
) -> Trained:
  """Trains a detector.

  Args:
    draws: feeds; row i of a batch comes from feed i modulo their number.
    strength: of the random changes of crops.
    inner: real images that choose the checkpoint; their patients are in no feed.
    steps: optimiser steps.
    seed: of the weights and of the crops.
    say: gets a line an evaluation.
  """
  begin, step = _programs(steps)
  state = begin(jax.random.key(seed))
  rng, started = np.random.default_rng(seed), time.monotonic()
  best = Trained(None, 0, -1.0, 0.0)
  looks = {round(steps * (0.5 + 0.5 * n / EVALUATIONS)) for n in range(1, EVALUATIONS + 1)}
  for number in range(1, steps + 1):
    state, metrics = step(state, _batch(draws, strength, rng), {})
    if number in looks:
      variables = jax.device_get(supervised.averaged(state))
      found = gain.froc(detect(variables, inner))
      loss = ", ".join(f"{k} {float(metrics[k]):.2f}" for k in ("box", "bins", "classes"))
      say(f"step {number}: {loss}, FROC on inner validation images {found:.3f}")
      if found > best.inner_froc:
        best = Trained(variables, number, found, 0.0)
  return best._replace(seconds=time.monotonic() - started)


def detect(variables: Any, images: Sequence[Labelled]) -> gain.Hits:
  """What a detector finds in whole images, of any sizes."""
  boxes, scores = [], []
  rows, columns = (max(one.image.shape[axis] for one in images) for axis in (0, 1))
  shape = [-(-length // _STRIDE) * _STRIDE for length in (rows, columns)]
  for start in range(0, len(images), _AT_ONCE):
    batch = np.full((_AT_ONCE, *shape, 1), -1.0, np.float32)
    part = images[start : start + _AT_ONCE]
    for row, one in zip(batch, part):
      row[: one.image.shape[0], : one.image.shape[1], 0] = one.image
    found = jax.device_get(_detections()(variables, batch))
    for index in range(len(part)):
      sure = found.valid[index] & (found.scores[index] >= _FLOOR)
      boxes.append(found.boxes[index][sure])
      scores.append(found.scores[index][sure])
  return gain.hits(boxes, scores, [one.boxes for one in images])


@functools.cache
def _programs(steps: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """(a state to begin with, of a key; a step), compiled once for all runs of a length."""
  values = settings.values("location", "best")
  values.update({"net": "p", "p2": True, "batch_size": BATCH})
  values.assign.least_side = 8.0  # twice the finest stride
  values.ema.tau = steps / 4
  values.optimizer.update({"warmup_epochs": 0.05, "schedule": "cosine"})
  task = location.build(values, channels=1, size=SIDE, steps=steps, steps_per_epoch=steps)
  step = jax.jit(task.train_step, donate_argnums=0, compiler_options=compilation.options())
  return jax.jit(task.init, compiler_options=harness.QUICK), step


@functools.cache
def _detections() -> Callable[..., Any]:
  values = settings.values("location", "best")
  values.update({"net": "p", "p2": True})
  net = location.network(values)
  return jax.jit(functools.partial(location.detections, net=net, iou=0.3, limit=60))


def _batch(
  draws: Sequence[Draw], strength: Strength, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  images = np.zeros((BATCH, SIDE, SIDE, 1), np.float32)
  boxes, valid = np.zeros((BATCH, ROOM, 4), np.float32), np.zeros((BATCH, ROOM), bool)
  for row in range(BATCH):
    images[row, ..., 0], own = crop(draws[row % len(draws)](rng), strength, rng)
    boxes[row, : len(own)], valid[row, : len(own)] = own[:ROOM], True
  return {"images_m11": images, "boxes_xyxy": boxes, "boxes_valid": valid}


def crop(
  one: Labelled, strength: Strength, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """A random crop: (f32[SIDE, SIDE] in [-1, 1], its boxes f32[N, 4], N <= ROOM)."""
  zoom = float(np.exp(rng.uniform(-1, 1) * strength.zoom))
  turn = np.deg2rad(rng.uniform(-1, 1) * strength.degrees)
  mirrored = -1.0 if strength.flip and rng.random() < 0.5 else 1.0
  rows, columns = one.image.shape
  middle = rng.uniform((0, 0), (columns, rows))
  if len(one.boxes) and rng.random() < _NEAR_LESION:
    box = one.boxes[rng.integers(len(one.boxes))]
    middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.4, 0.4, 2) * SIDE / zoom
  cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
  linear = np.array([[cos, sin], [-sin, cos]]) @ np.diag([mirrored, 1.0])
  moved = np.full(2, SIDE / 2) - linear @ middle
  # OpenCV counts from pixel centres.
  half = np.full(2, 0.5)
  matrix = np.concatenate([linear, (moved + linear @ half - half)[:, None]], 1)
  out = cv2.warpAffine(
    one.image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderValue=(-1.0,) * 4
  )
  bright, lift = rng.uniform(-1, 1, 2)
  out = (out + 1) * (1 + strength.gain * bright) - 1 + strength.offset * lift
  centres = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2 @ linear.T + moved
  radii = (one.boxes[:, 2:] - one.boxes[:, :2]) / 2 * zoom  # of the turned ellipse, nearly
  there = ((centres >= _INSIDE_PX) & (centres < SIDE - _INSIDE_PX)).all(1)
  boxes = np.concatenate([centres - radii, centres + radii], 1)[there].clip(0, SIDE)
  return np.clip(out, -1, 1).astype(np.float32), boxes[:ROOM].astype(np.float32)


def of(images: Sequence[Labelled]) -> Draw:
  """A feed of real images, each as often as the others."""
  return lambda rng: images[int(rng.integers(len(images)))]


def fresh(source: Iterator[Labelled], *, kept: int, a_step: float) -> Draw:
  """A feed of images that are made while it is used.

  Args:
    source: endless.
    kept: the newest of them, from which crops are taken.
    a_step: new images at each draw, as a share.
  """
  held: list[Labelled] = []
  owed = [0.0]

  def draw(rng: np.random.Generator) -> Labelled:
    owed[0] += a_step if held else 1.0
    while owed[0] >= 1.0:
      held.append(next(source))
      owed[0] -= 1.0
    del held[:-kept]
    return held[rng.integers(len(held))]

  return draw
