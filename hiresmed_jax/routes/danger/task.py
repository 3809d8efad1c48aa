"""Route `danger`: a U-Net learns where no lesion can be, one step at a time.

N images in a batch of S x T pixels, C channels. Class 1 is what is forbidden. Source:
`losses.segmentation`, `nets.unet`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import segmentation
from hiresmed_jax.metrics import segmentation as metric
from hiresmed_jax.nets import unet
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.runtime.optim import pack, unpack
from hiresmed_jax.types import Array, Batch, Metrics, Params


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
  config: Any, *, channels: int, size: Sequence[int], steps: int, dtype: Any = jnp.float32
) -> Task:
  """Makes the task from the values of `routes.danger.settings`.

  Args:
    config: nested values, read here and never handed to a network.
    channels: of the images, 1 or 3.
    size: (rows, columns) of the images; both divide by 16.
    steps: length of the run.
    dtype: of the convolutions; parameters, losses and norms stay float32.
  """
  net = network(config, dtype=dtype)
  tx = _optimizer(config, steps)
  shape = (1, *size, channels)
  return Task(
    name="danger",
    phases=(Phase("danger", steps, config.batch_size),),
    frozen={},
    init=functools.partial(_init, net=net, tx=tx, ema=bool(config.ema), shape=shape),
    warm_start=None,
    train_step=functools.partial(_train_step, net=net, tx=tx, config=config, channels=channels),
    eval_step=functools.partial(_eval_step, net=net, channels=channels),
    summarise=metric.summarise,
    select=("dice", 1),
  )


def network(config: Any, *, dtype: Any = jnp.float32) -> unet.UNet:
  """The network of the route."""
  return unet.UNet(2, config.width, dtype=dtype)


def averaged(state: State) -> dict[str, Params]:
  """{"params", "batch_stats"} to use: their running average where the run keeps one."""
  here = {"params": state.params, "batch_stats": state.stats}
  return unpack(dict(state.ema), here) if state.ema else here


def forbidden(variables: Params, images_m11: Array, *, net: unet.UNet) -> Array:
  """How likely each pixel is of tissue in which no lesion can be: f32[N, S, T] in [0, 1]."""
  return jax.nn.softmax(net.apply(variables, images_m11), -1)[..., 1]


def _optimizer(config: Any, steps: int) -> optax.GradientTransformation:
  values = config.optimizer.to_dict()
  values |= {"warmup_steps": round(values.pop("warmup") * steps), "total_steps": steps}
  values["clip"] = values["clip"] or None
  return optim.make_optimizer(**values)


def _init(key: Array, *, net: unet.UNet, tx: Any, ema: bool, shape: Sequence[int]) -> State:
  net_key, key = jax.random.split(key)
  variables = net.init(net_key, jnp.zeros(tuple(shape)))
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


def _train_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  net: unet.UNet,
  tx: Any,
  config: Any,
  channels: int,
) -> tuple[State, Metrics]:
  """One update.

  batch: images_m11 f32[N, S, T, 1 or C]; labels uint8[N, S, T], 0 or 1; valid bool[N, S, T];
  lesions uint8[N, S, T], 1 in the boxes of real lesions.
  """
  del frozen
  images_m11 = to_channels(batch["images_m11"], channels)
  labels, valid = batch["labels"], batch["valid"]
  # Boxes are loose: what is forbidden in them, as a rib beside a stone, stays as it is.
  known = (batch["lesions"] > 0) & (labels == 0)
  weight = valid * jnp.where(known, config.loss.lesions, 1.0)

  def loss(params: Params) -> tuple[Array, Any]:
    variables = {"params": params, "batch_stats": state.stats}
    logits, moved = net.apply(variables, images_m11, train=True, mutable="batch_stats")
    total, count = segmentation.cross_entropy(logits, labels, weight)
    parts = {
      "cross_entropy": total / jnp.maximum(count, 1.0),
      "dice_loss": segmentation.dice(logits, labels, valid),
    }
    whole = (
      config.loss.cross_entropy * parts["cross_entropy"] + config.loss.dice * parts["dice_loss"]
    )
    return whole, (parts, moved["batch_stats"])

  grads, (parts, stats) = jax.grad(loss, has_aux=True)(state.params)
  grads, old = pack(grads), pack(state.params)
  finite = optim.all_finite(grads)
  updates, opt = tx.update(grads, state.opt, old)
  params = unpack(optim.select(finite, optax.apply_updates(old, updates), old), state.params)
  stats = optim.select(finite, stats, state.stats)
  ema = state.ema
  if ema:
    here = pack({"params": params, "batch_stats": stats})
    ema = optim.ema_update(dict(ema), here, config.ema, state.step)
  skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
  scalars = parts | {
    "skipped": skipped[0],
    "skipped_in_a_row": skipped[1],
    "gradient_norm": optax.tree.norm(grads),
  }
  moved = State(
    step=state.step + 1,
    params=params,
    stats=stats,
    opt=optim.select(finite, opt, state.opt),
    ema=ema,
    skipped=skipped,
    key=state.key,
  )
  return moved, scalars


def _eval_step(
  state: State, batch: Batch, frozen: Params, *, net: unet.UNet, channels: int
) -> tuple[Mapping[str, Array], Array]:
  """(totals of `metrics.segmentation`, chances of being forbidden f32[N, S, T, 1]).

  batch: as for training but for lesions, and weight f32[N], 0 on rows that only fill the batch up.
  """
  del frozen
  images_m11 = to_channels(batch["images_m11"], channels)
  chances = forbidden(averaged(state), images_m11, net=net)
  totals = metric.count(chances > 0.5, batch["labels"] > 0, batch["valid"], batch["weight"])
  return totals, chances[..., None]
