"""Losses of an autoencoder with a codebook: of its pixels, and of its latents and codes (Eq. 1).

N examples; the losses of latents are on unit vectors.
"""

import math

import chex
import jax
import jax.numpy as jnp

from hiresmed_jax.ops.pool import maximum
from hiresmed_jax.ops.quantize import normalize
from hiresmed_jax.types import Array


def l1(pred: Array, target: Array) -> Array:
  """Mean absolute difference of each example: [N, ...] x2 -> f32[N], in image units."""
  return jnp.mean(jnp.abs(_difference(pred, target)), axis=tuple(range(1, pred.ndim)))


def mse(pred: Array, target: Array) -> Array:
  """Mean squared difference of each example: [N, ...] x2 -> f32[N], in image units squared."""
  return jnp.mean(jnp.square(_difference(pred, target)), axis=tuple(range(1, pred.ndim)))


def _difference(pred: Array, target: Array) -> Array:
  # A broadcast would give a number for a mistake.
  chex.assert_equal_shape([pred, target])
  return pred.astype(jnp.float32) - target.astype(jnp.float32)


def commitment(unit_latents: Array, unit_codes: Array) -> Array:
  """Distance of the latents to their frozen codes: [N, ..., D] x2 -> f32[N], 0 to 4."""
  return _squared_distance(unit_latents, jax.lax.stop_gradient(unit_codes))


def codebook(unit_latents: Array, unit_codes: Array) -> Array:
  """Distance of the codes to the frozen latents: [N, ..., D] x2 -> f32[N], 0 to 4."""
  return _squared_distance(jax.lax.stop_gradient(unit_latents), unit_codes)


def entropy(unit_latents: Array, codebook: Array, *, temperature: float) -> tuple[Array, Array]:
  """Asks for sure choices at each position and for even use of the codes over the batch.

  Mean entropy of the positions' soft assignments minus the entropy of their mean, as in MaskGIT
  (Chang et al. 2022); soft assignments are the softmax of -squared distance / temperature. The
  mean runs over all positions of the batch, so there is no number per example.

  Args:
    unit_latents: [..., D], unit vectors.
    codebook: [K, D], any length.
    temperature: in units of squared distance; 0.01 in MaskGIT.

  Returns:
    (total, weight), f32[] both: total / weight is the loss in nats, from -log K to 0, and weight
    the number of positions.
  """
  flat = unit_latents.reshape(-1, unit_latents.shape[-1]).astype(jnp.float32)
  cosine = jnp.dot(flat, normalize(codebook).T, precision=jax.lax.Precision.HIGHEST)
  # The squared distance is 2 - 2 cos; the constant drops out of the softmax.
  log_share = jax.nn.log_softmax(2.0 * cosine / temperature, axis=-1)
  share = jnp.exp(log_share)
  each = -jnp.mean(jnp.sum(share * log_share, axis=-1))
  mean_share = jnp.mean(share, axis=0)
  together = -jnp.sum(mean_share * jnp.log(maximum(mean_share, 1e-30)))
  weight = jnp.float32(math.prod(unit_latents.shape[:-1]))
  return (each - together) * weight, weight


def _squared_distance(a: Array, b: Array) -> Array:
  squared = jnp.sum(jnp.square(_difference(a, b)), axis=-1)
  return jnp.mean(squared.reshape(squared.shape[0], -1), axis=-1)
