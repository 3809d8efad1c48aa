"""Losses of a network that classifies every pixel. Pixels that are not valid do not count.

N images of H x W pixels, K classes of which 0 is the background.

Source: Milletari, Navab and Ahmadi, arXiv 1606.04797 (Dice); Isensee et al., arXiv 1809.10486
(Dice and cross-entropy together).
"""

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array


def cross_entropy(logits: Array, labels: Array, weight: Array) -> tuple[Array, Array]:
  """Cross-entropy in nats.

  As `optax.softmax_cross_entropy_with_integer_labels`, with weights, and without a gather, whose
  gradient would be a scatter.

  Args:
    logits: f32[N, H, W, K].
    labels: any integer [N, H, W] in [0, K).
    weight: bool or f32[N, H, W], 0 where a pixel does not count.

  Returns:
    (weighted sum over pixels f32[], sum of the weights f32[]).
  """
  true = jnp.sum(logits * _one_hot(labels, logits), -1)
  lost = jax.nn.logsumexp(logits, -1) - true
  weight = weight.astype(jnp.float32)
  return jnp.sum(jnp.where(weight > 0, weight * lost, 0.0)), jnp.sum(weight)


def dice(logits: Array, labels: Array, valid: Array, *, epsilon: float = 1e-6) -> Array:
  """One less the soft Dice overlap, mean over the classes but the background: f32[] in [0, 1].

  (2 sum p t + e) / (sum p + sum t + e), p the softmax and t the truth, over the valid pixels of all
  images: an image without a class says little of it alone. A class that is neither there nor
  expected by more than e pixels is right. (`optax.losses.dice_loss` sums image by image.)

  Args:
    logits: f32[N, H, W, K], K >= 2.
    labels: any integer [N, H, W] in [0, K).
    valid: bool[N, H, W].
    epsilon: e, in pixels.
  """
  counted = valid[..., None].astype(logits.dtype)
  p = (jax.nn.softmax(logits, -1) * counted)[..., 1:]
  t = (_one_hot(labels, logits) * counted)[..., 1:]
  # Images are added up last: each is whole on one device.
  both, either = (jnp.sum(jnp.sum(x, (1, 2)), 0) for x in (p * t, p + t))
  return jnp.mean(1.0 - (2.0 * both + epsilon) / (either + epsilon))


def _one_hot(labels: Array, logits: Array) -> Array:
  return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
