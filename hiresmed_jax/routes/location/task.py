"""Route `location`: YOLO11 learns where lesions are, one step at a time.

N images in a batch, S x S pixels, C channels, M boxes at most in an image, A positions, K classes
(one: lesion), L detections. Source: `losses.detection`, `nets.yolo`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import detection
from hiresmed_jax.metrics import detection as metric
from hiresmed_jax.nets import yolo
from hiresmed_jax.ops import boxes as nms
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.runtime.optim import pack, unpack
from hiresmed_jax.types import Array, Batch, Metrics, Params

_FLOOR = 0.001  # score of a detection that counts in evaluation
_NOMINAL_BATCH = 64  # to which the weight decay refers


@flax.struct.dataclass
class State:
  """All that a resumed run needs, and only arrays."""

  step: Array  # i32[]
  params: Params
  stats: Params  # running statistics of the batch norms
  opt: optax.OptState  # of the packed parameters
  ema: Params  # {"params", "batch_stats"}, packed; {} without averaging
  skipped: Array  # i32[2], non-finite updates: in all, and in a row
  key: Array


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
  """Makes the task from the values of `routes.location.settings`.

  Args:
    config: nested values, read here and never handed to a network.
    channels: of the images, 1 or 3.
    size: S; it divides by 32.
    steps: length of the run.
    steps_per_epoch: the warm-up is given in epochs.
    dtype: of the convolutions; parameters, losses and norms stay float32.
    start_from: {"params", "batch_stats"} to begin with; None: random.
  """
  net = network(config, dtype=dtype)
  tx = _optimizer(config, steps, steps_per_epoch)
  init = functools.partial(
    _init, net=net, tx=tx, ema=bool(config.ema.decay), shape=(1, size, size, channels)
  )
  return Task(
    name="location",
    phases=(Phase("location", steps, config.batch_size),),
    frozen={},
    init=init if start_from is None else functools.partial(_starting, init, start_from, tx),
    warm_start=None,
    train_step=functools.partial(_train_step, net=net, tx=tx, config=config, channels=channels),
    eval_step=functools.partial(_eval_step, net=net, config=config, channels=channels),
    summarise=metric.summarise,
    select=("map50_95", 1),
  )


def network(config: Any, *, dtype: Any = jnp.float32) -> yolo.Yolo11:
  """The network of the route."""
  size = yolo.SIZES[config.net]
  return yolo.Yolo11(1, **size, p2=config.p2, near=config.near, dtype=dtype)


def averaged(state: State) -> dict[str, Params]:
  """{"params", "batch_stats"} to use: their running average where the run keeps one."""
  here = {"params": state.params, "batch_stats": state.stats}
  return unpack(dict(state.ema), here) if state.ema else here


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
  values["clip"] = values["clip"] or None
  return optim.make_optimizer(**values)


def _init(key: Array, *, net: yolo.Yolo11, tx: Any, ema: bool, shape: Sequence[int]) -> State:
  net_key, key = jax.random.split(key)
  variables = net.init(net_key, jnp.zeros(tuple(shape)))
  return _state(variables, tx, ema, key)


def _state(variables: Params, tx: Any, ema: bool, key: Array) -> State:
  here = {name: variables[name] for name in ("params", "batch_stats")}
  return State(
    step=jnp.zeros((), jnp.int32),
    params=here["params"],
    stats=here["batch_stats"],
    opt=tx.init(pack(here["params"])),
    ema=jax.tree.map(jnp.copy, pack(here)) if ema else {},
    skipped=jnp.zeros((2,), jnp.int32),
    key=key,
  )


def _starting(init: Any, variables: Params, tx: Any, key: Array) -> State:
  begun = init(key)
  given = jax.tree.map(jnp.asarray, dict(variables))
  return _state(given, tx, bool(begun.ema), begun.key)


def _train_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  net: yolo.Yolo11,
  tx: Any,
  config: Any,
  channels: int,
) -> tuple[State, Metrics]:
  """One update.

  batch: images_m11 f32[N, S, S, 1 or C]; boxes_xyxy f32[N, M, 4]; boxes_valid bool[N, M].
  """
  del frozen
  images_m11 = to_channels(batch["images_m11"], channels)
  truth = _truth(batch)

  def loss(params: Params) -> tuple[Array, Any]:
    variables = {"params": params, "batch_stats": state.stats}
    levels, moved = net.apply(variables, _to_01(images_m11), train=True, mutable="batch_stats")
    flat = yolo.flatten(levels, net.strides)
    boxes = yolo.boxes_of(flat)
    given = detection.assign(
      flat.classes,
      boxes,
      flat.centres,
      truth,
      top=config.assign.top,
      alpha=config.assign.alpha,
      beta=config.assign.beta,
      least_side=config.assign.least_side,
    )
    parts = detection.detection_loss(
      flat.bins, flat.classes, boxes, flat.centres, flat.strides, truth, given,
      gains=detection.Gains(**config.gains.to_dict()),
    )  # fmt: skip
    positives = jnp.sum(given.positive.astype(jnp.float32)) / images_m11.shape[0]
    total = parts["box"] + parts["bins"] + parts["classes"]
    return images_m11.shape[0] * total, (parts, positives, moved["batch_stats"])

  grads, (parts, positives, stats) = jax.grad(loss, has_aux=True)(state.params)
  grads, old = pack(grads), pack(state.params)
  finite = optim.all_finite(grads)
  updates, opt = tx.update(grads, state.opt, old)
  new = optim.select(finite, optax.apply_updates(old, updates), old)
  params = unpack(new, state.params)
  stats = optim.select(finite, stats, state.stats)
  skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
  scalars = parts | {
    "positives": positives,
    "skipped": skipped[0],
    "skipped_in_a_row": skipped[1],
    "gradient_norm": optax.tree.norm(grads),
  }
  moved = dataclasses.replace(
    state,
    step=state.step + 1,
    params=params,
    stats=stats,
    opt=optim.select(finite, opt, state.opt),
    ema=_average(state, params, stats, config.ema),
    skipped=skipped,
  )
  return moved, scalars


def _average(state: State, params: Params, stats: Params, ema: Any) -> Params:
  """The running average, which keeps ever more of itself: decay (1 - e^(-updates / tau))."""
  if not state.ema:
    return {}
  kept = ema.decay * (1.0 - jnp.exp(-(state.step + 1.0) / ema.tau))
  here = pack({"params": params, "batch_stats": stats})
  return jax.tree.map(lambda old, new: new + kept * (old - new), dict(state.ema), here)


def _eval_step(
  state: State, batch: Batch, frozen: Params, *, net: yolo.Yolo11, config: Any, channels: int
) -> tuple[Mapping[str, Array], Array]:
  """(totals of `metrics.detection`, the surest detections f32[N, 20, 5]: box and score).

  batch: as for training, and weight f32[N], 0 on rows that only fill the batch up.
  """
  del frozen
  images_m11 = to_channels(batch["images_m11"], channels)
  found = detections(averaged(state), images_m11, net=net, iou=config.nms_iou)
  truth = _truth(batch)
  totals = metric.count(*found, *truth, batch["weight"])
  surest = jnp.concatenate([found.boxes, found.scores[..., None]], -1)[:, :20]
  return totals, surest


def _truth(batch: Batch) -> detection.Truth:
  valid = batch["boxes_valid"]
  return detection.Truth(batch["boxes_xyxy"], jnp.zeros(valid.shape, jnp.int32), valid)


def _to_01(images_m11: Array) -> Array:
  return (images_m11 + 1.0) / 2.0
