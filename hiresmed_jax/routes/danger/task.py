"""Route `danger`: a U-Net learns where no lesion can be, one step at a time.

N images in a batch of S x T pixels, C channels. Class 1 is what is forbidden. Source:
`losses.segmentation`, `nets.unet`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import segmentation
from hiresmed_jax.metrics import segmentation as metric
from hiresmed_jax.nets import unet
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes import supervised
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.types import Array, Batch, Metrics, Params


def build(
  config: Any, *, channels: int, size: Sequence[int], steps: int, dtype: Any = jnp.float32
) -> Task:
  """Makes the task from the values of `routes.danger.settings`, which no network is handed.

  `size` is rows and columns of the images, both divide by 16; `dtype` that of the convolutions:
  parameters, losses and norms stay float32.
  """
  net = network(config, dtype=dtype)
  return supervised.task(
    "danger",
    net=net,
    shapes=[(1, *size, channels)],
    steps=steps,
    batch_size=config.batch_size,
    tx=_optimizer(config, steps),
    loss=functools.partial(_loss, net=net, weights=config.loss, channels=channels),
    average=functools.partial(optim.ema_update, decay=config.ema) if config.ema else None,
    evaluate=functools.partial(_evaluate, net=net, channels=channels),
    eval_arrays=("images_m11", "labels", "valid", "weight"),
    summarise=metric.summarise,
    select=("dice", 1),
    shown={"cross_entropy": "cross_entropy", "dice_loss": "dice_loss"},
  )


def network(config: Any, *, dtype: Any = jnp.float32) -> unet.UNet:
  """The network of the route."""
  return unet.UNet(2, config.width, dtype=dtype)


def forbidden(variables: Params, images_m11: Array, *, net: unet.UNet) -> Array:
  """How likely each pixel is of tissue in which no lesion can be: f32[N, S, T] in [0, 1]."""
  return jax.nn.softmax(net.apply(variables, images_m11), -1)[..., 1]


def _optimizer(config: Any, steps: int) -> optax.GradientTransformation:
  values = config.optimizer.to_dict()
  values |= {"warmup_steps": round(values.pop("warmup") * steps), "total_steps": steps}
  return optim.make_optimizer(**values)


def _loss(
  variables: Params, batch: Batch, key: Array, *, net: unet.UNet, weights: Any, channels: int
) -> tuple[Array, tuple[Metrics, Params]]:
  """(loss, (scalars, new running statistics)).

  batch: images_m11 f32[N, S, T, 1 or C]; labels uint8[N, S, T], 0 or 1; valid bool[N, S, T];
  lesions uint8[N, S, T], 1 in the boxes of real lesions.
  """
  del key
  images_m11, labels, valid = batch["images_m11"], batch["labels"], batch["valid"]
  # Boxes are loose: what is forbidden in them, as a rib beside a stone, stays as it is.
  known = (batch["lesions"] > 0) & (labels == 0)
  weight = valid * jnp.where(known, weights.lesions, 1.0)
  logits, moved = net.apply(
    variables, to_channels(images_m11, channels), train=True, mutable="batch_stats"
  )
  total, count = segmentation.cross_entropy(logits, labels, weight)
  parts = {
    "cross_entropy": total / jnp.maximum(count, 1.0),
    "dice_loss": segmentation.dice(logits, labels, valid),
  }
  whole = weights.cross_entropy * parts["cross_entropy"] + weights.dice * parts["dice_loss"]
  return whole, (parts, moved["batch_stats"])


def _evaluate(
  variables: Params, batch: Batch, *, net: unet.UNet, channels: int
) -> tuple[Mapping[str, Array], Array]:
  """(totals of `metrics.segmentation`, chances of being forbidden f32[N, S, T, 1]).

  batch: as for training but for lesions, and weight f32[N], 0 on rows that only fill the batch up.
  """
  chances = forbidden(variables, to_channels(batch["images_m11"], channels), net=net)
  totals = metric.count(chances > 0.5, batch["labels"] > 0, batch["valid"], batch["weight"])
  return totals, chances[..., None]
