"""Route `location`: YOLO11 learns where lesions are, one step at a time.

N images in a batch, S x S pixels, C channels, M boxes at most in an image, A positions, K classes
(one: lesion), L detections. Source: `losses.detection`, `nets.yolo`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import detection
from hiresmed_jax.metrics import detection as metric
from hiresmed_jax.nets import yolo
from hiresmed_jax.ops import boxes as nms
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes import supervised
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.types import Array, Batch, Metrics, Params

_FLOOR = 0.001  # score of a detection that counts in evaluation
_NOMINAL_BATCH = 64  # to which the weight decay refers


def build(
  config: Any,
  *,
  channels: int,
  size: int,
  steps: int,
  steps_per_epoch: int,
  dtype: Any = jnp.float32,
  start_from: Params | None = None,
) -> Task:
  """Makes the task from the values of `routes.location.settings`, which no network is handed.

  `size` is S, it divides by 32; the warm-up is given in epochs; `dtype` is that of the
  convolutions: parameters, losses and norms stay float32. The run begins with {"params",
  "batch_stats"} of `start_from`; None: random ones.
  """
  net = network(config, dtype=dtype)
  return supervised.task(
    "location",
    net=net,
    shapes=[(1, size, size, channels)],
    steps=steps,
    batch_size=config.batch_size,
    tx=_optimizer(config, steps, steps_per_epoch),
    loss=functools.partial(_loss, net=net, config=config, channels=channels),
    average=functools.partial(_average, **config.ema) if config.ema.decay else None,
    evaluate=functools.partial(_evaluate, net=net, iou=config.nms_iou, channels=channels),
    eval_arrays=("images_m11", "boxes_xyxy", "boxes_valid", "weight"),
    summarise=metric.summarise,
    select=("map50_95", 1),
    shown={"box": "box", "classes": "class"},
    start_from=start_from,
  )


def network(config: Any, *, dtype: Any = jnp.float32) -> yolo.Yolo11:
  """The network of the route."""
  size = yolo.SIZES[config.net]
  return yolo.Yolo11(1, **size, p2=config.p2, near=config.near, dtype=dtype)


def detections(
  variables: Params, images_m11: Array, *, net: yolo.Yolo11, iou: float = 0.7, limit: int = 300
) -> nms.Detections:
  """Boxes in pixels, scores, labels and which are there: each f32[N, L, ...]."""
  levels = net.apply(variables, _to_01(images_m11))
  boxes, logits = yolo.decode(levels, net.strides)
  find = functools.partial(nms.detect, iou=iou, floor=_FLOOR, limit=limit)
  return jax.vmap(find)(boxes, logits)


def score_map(variables: Params, images_m11: Array, *, net: yolo.Yolo11) -> Array:
  """How likely a lesion is at each place, before any suppression: f32[N, S / s, S / s] in [0, 1].

  s is the finest stride; of several levels the surest counts.
  """
  levels = net.apply(variables, _to_01(images_m11))
  finest = levels[0].classes.shape[1]
  maps = []
  for level in levels:
    sure = jnp.max(level.classes, -1)
    times = finest // sure.shape[1]
    maps.append(jnp.repeat(jnp.repeat(sure, times, 1), times, 2))
  return jax.nn.sigmoid(functools.reduce(jnp.maximum, maps))


def _optimizer(config: Any, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
  values = config.optimizer.to_dict()
  # The gradient is that of the batch's sum, so that a rate is of a batch; decay is of 64 images.
  decay = values.pop("weight_decay") * config.batch_size / _NOMINAL_BATCH
  warmup = min(round(values.pop("warmup_epochs") * steps_per_epoch), steps // 2)
  values |= {"warmup_steps": warmup, "total_steps": steps, "weight_decay": decay}
  return optim.make_optimizer(**values)


def _loss(
  variables: Params, batch: Batch, key: Array, *, net: yolo.Yolo11, config: Any, channels: int
) -> tuple[Array, tuple[Metrics, Params]]:
  """(loss of the batch's sum, (scalars, new running statistics)).

  batch: images_m11 f32[N, S, S, 1 or C]; boxes_xyxy f32[N, M, 4]; boxes_valid bool[N, M].
  """
  del key
  images_m11, truth = to_channels(batch["images_m11"], channels), _truth(batch)
  count = images_m11.shape[0]
  levels, moved = net.apply(variables, _to_01(images_m11), train=True, mutable="batch_stats")
  flat = yolo.flatten(levels, net.strides)
  boxes = yolo.boxes_of(flat)
  given = detection.assign(flat.classes, boxes, flat.centres, truth, **config.assign)
  parts = detection.detection_loss(
    flat.bins, flat.classes, boxes, flat.centres, flat.strides, truth, given,
    gains=detection.Gains(**config.gains),
  )  # fmt: skip
  positives = jnp.sum(given.positive.astype(jnp.float32)) / count
  total = parts["box"] + parts["bins"] + parts["classes"]
  return count * total, (parts | {"positives": positives}, moved["batch_stats"])


def _average(
  ema: dict[str, Array], new: dict[str, Array], step: Array, *, decay: float, tau: float
) -> dict[str, Array]:
  """The running average, which keeps ever more of itself: decay (1 - e^(-updates / tau))."""
  kept = decay * (1.0 - jnp.exp(-(step + 1.0) / tau))
  return jax.tree.map(lambda old, new: new + kept * (old - new), ema, new)


def _evaluate(
  variables: Params, batch: Batch, *, net: yolo.Yolo11, iou: float, channels: int
) -> tuple[Mapping[str, Array], Array]:
  """(totals of `metrics.detection`, the surest detections f32[N, 20, 5]: box and score).

  batch: as for training, and weight f32[N], 0 on rows that only fill the batch up.
  """
  images_m11 = to_channels(batch["images_m11"], channels)
  found = detections(variables, images_m11, net=net, iou=iou)
  totals = metric.count(*found, *_truth(batch), batch["weight"])
  surest = jnp.concatenate([found.boxes, found.scores[..., None]], -1)[:, :20]
  return totals, surest


def _truth(batch: Batch) -> detection.Truth:
  valid = batch["boxes_valid"]
  return detection.Truth(batch["boxes_xyxy"], jnp.zeros(valid.shape, jnp.int32), valid)


def _to_01(images_m11: Array) -> Array:
  return (images_m11 + 1.0) / 2.0
