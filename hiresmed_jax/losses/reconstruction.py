"""Pixel losses between an image and its reconstruction. N examples; any axes after the first."""

import jax.numpy as jnp

from hiresmed_jax.types import Array


def l1(pred: Array, target: Array) -> Array:
  """Mean absolute difference of each example: [N, ...] x2 -> f32[N], in image units."""
  return jnp.mean(jnp.abs(_difference(pred, target)), axis=tuple(range(1, pred.ndim)))


def mse(pred: Array, target: Array) -> Array:
  """Mean squared difference of each example: [N, ...] x2 -> f32[N], in image units squared."""
  return jnp.mean(jnp.square(_difference(pred, target)), axis=tuple(range(1, pred.ndim)))


def _difference(pred: Array, target: Array) -> Array:
  # Equal shapes only: a broadcast would give a number for a mistake.
  if pred.shape != target.shape:
    raise ValueError(f"prediction {pred.shape} and target {target.shape} differ in shape")
  return pred.astype(jnp.float32) - target.astype(jnp.float32)
