"""Baseline `ddm`: a network learns to estimate the noise in images, one step at a time.

N images in a batch of S x T pixels, C channels; the network sees patches of p x p pixels as p p C
channels of one position. Source: Ho, Jain and Abbeel, arXiv 2006.11239.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.losses import generative
from hiresmed_jax.nets.ddpm import DenoisingUNet
from hiresmed_jax.ops import diffusion
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.ops.upsample import depth_to_space, space_to_depth
from hiresmed_jax.routes import supervised
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.types import Array, Batch, Metrics, Params


def build(
  config: Any, *, channels: int, size: Sequence[int], steps: int, dtype: Any = jnp.float32
) -> Task:
  """Makes the task from the values of `routes.baselines.ddm.settings`.

  `size` is S, T; `dtype` that of the convolutions: parameters, loss and norms stay float32.
  """
  net = network(config, dtype=dtype)
  rows, columns = (side // config.patch for side in size)
  common: dict[str, Any] = {
    "net": net,
    "known": diffusion.levels(**known_levels(config)),
    "channels": channels,
    "patch": config.patch,
  }
  average = functools.partial(optim.ema_update, decay=config.ema)
  return supervised.task(
    "ddm",
    net=net,
    shapes=[(1, rows, columns, config.patch**2 * channels), (1,)],
    steps=steps,
    batch_size=config.batch_size,
    tx=_optimizer(config, steps),
    loss=functools.partial(_loss, **common),
    average=average if config.ema else None,
    evaluate=functools.partial(_evaluate, **common),
    eval_arrays=("images_m11", "weight"),
    summarise=lambda totals: {"noise_mse": float(totals["noise_mse"] / totals["weight"])},
    select=None,  # the last weights: a smaller error of the noise is no better image
    shown={"noise_mse": "noise"},
  )


def network(config: Any, *, dtype: Any = jnp.float32) -> DenoisingUNet:
  """The network of the route."""
  return DenoisingUNet(dtype=dtype, **config.net)


def known_levels(config: Any) -> dict[str, Any]:
  """The schedule and its number of levels, as `ops.diffusion` takes them."""
  return {"schedule": config.diffusion.schedule, "count": config.diffusion.levels}


def draw(key: Array, shape: Sequence[int], levels: int) -> tuple[Array, Array]:
  """The level i32[N] and the noise of each image of a batch of `shape`."""
  level_key, noise_key = jax.random.split(key)
  at = jax.random.randint(level_key, shape[:1], 0, levels)
  return at, jax.random.normal(noise_key, shape)


def _optimizer(config: Any, steps: int) -> optax.GradientTransformation:
  values = config.optimizer.to_dict()
  values |= {"warmup_steps": round(values.pop("warmup") * steps), "total_steps": steps}
  return optim.make_optimizer(**values)


def _loss(
  variables: Params,
  batch: Batch,
  key: Array,
  *,
  net: DenoisingUNet,
  known: diffusion.Levels,
  channels: int,
  patch: int,
) -> tuple[Array, tuple[Metrics, Params]]:
  """(loss, (scalars, no running statistics)). batch: images_m11 f32[N, S, T, 1 or C]."""
  images = space_to_depth(to_channels(batch["images_m11"], channels), patch)
  draw_key, dropout = jax.random.split(key)
  at, eps = draw(draw_key, images.shape, len(known.signal))
  noisy = diffusion.noised(images, eps, at, known)
  found = net.apply(
    {"params": variables["params"]}, noisy, at, train=True, rngs={"dropout": dropout}
  )
  error = jnp.mean(generative.mse(found, eps))
  return error, ({"noise_mse": error}, {})


def _evaluate(
  variables: Params,
  batch: Batch,
  *,
  net: DenoisingUNet,
  known: diffusion.Levels,
  channels: int,
  patch: int,
) -> tuple[Mapping[str, Array], Array]:
  """(totals, the images under noise and as estimated from it f32[N, S, T, 2 C]).

  The levels are spread evenly over the batch, and they and the noise are the same at every call.
  batch: images_m11 f32[N, S, T, 1 or C]; weight f32[N], 0 on rows that only fill the batch up.
  """
  images = space_to_depth(to_channels(batch["images_m11"], channels), patch)
  count, levels = images.shape[0], len(known.signal)
  at = (2 * jnp.arange(count) + 1) * levels // (2 * count)
  _, eps = draw(jax.random.key(0), images.shape, levels)
  noisy = diffusion.noised(images, eps, at, known)
  found = net.apply({"params": variables["params"]}, noisy, at)
  weight = batch["weight"]
  totals = {
    "weight": jnp.sum(weight),
    "noise_mse": jnp.sum(jnp.where(weight > 0, generative.mse(found, eps) * weight, 0.0)),
  }
  amplitudes = (jnp.asarray(x)[at][:, None, None, None] for x in known)
  estimate = diffusion.estimate(noisy, found, *amplitudes)
  pictures = [depth_to_space(x, patch) for x in (noisy, estimate)]
  return totals, jnp.concatenate(pictures, -1)
