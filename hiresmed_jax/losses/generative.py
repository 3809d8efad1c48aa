"""Losses of generators: pixels, latents and codes of an autoencoder (Eq. 1), and adversarial ones.

N images. Sources: Lim and Ye, arXiv 1705.02894; Esser et al., arXiv 2012.09841; Gulrajani et al.,
arXiv 1704.00028; Goodfellow et al., arXiv 1406.2661.
"""

import math
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from hiresmed_jax.ops.pool import maximum
from hiresmed_jax.ops.quantize import normalize
from hiresmed_jax.types import Array

Critic = Callable[[Array], Array]
_TINY = 1e-20  # the slope of a root at 0 is infinite


def hinge_discriminator(real_logits: Sequence[Array], fake_logits: Sequence[Array]) -> Array:
  """Loss of the discriminator, f32[N]: 0.5 (max(0, 1 - real) + max(0, 1 + fake)).

  `optax.losses.hinge_loss` has the same value; its derivative shares a tie, this one is 0 there.

  Args:
    real_logits: one [N, ...] for each scale, of real images.
    fake_logits: the same for made images, which must be detached from the generator.

  Raises:
    ValueError: no scales, or another number of scales for real than for fake.
  """
  if len(real_logits) != len(fake_logits):
    raise ValueError(f"{len(real_logits)} scales of real and {len(fake_logits)} of fake logits")
  real = _mean_over_scales(real_logits, lambda logits: jax.nn.relu(1.0 - logits))
  fake = _mean_over_scales(fake_logits, lambda logits: jax.nn.relu(1.0 + logits))
  return 0.5 * (real + fake)


def hinge_generator(fake_logits: Sequence[Array]) -> Array:
  """Loss of the generator, -fake: one [N, ...] for each scale -> f32[N].

  Raises:
    ValueError: no scales.
  """
  return _mean_over_scales(fake_logits, lambda logits: -logits)


def adaptive_weight(reconstruction_grad: object, gan_grad: object, *, cap: float) -> Array:
  """Weight that makes the GAN's gradient as long as the reconstruction's, f32[] without gradient.

  |reconstruction_grad| / (|gan_grad| + 1e-4), clipped to [0, cap]; the published cap is 1e4, and 10
  keeps it from exploding while the discriminator is still flat. The gradients, arrays or any trees
  of arrays, are those with respect to the last layer's parameters of the reconstruction and
  perceptual loss, and of the generator's GAN loss. Source: Esser et al. 2021.
  """
  ratio = _norm(reconstruction_grad) / (_norm(gan_grad) + 1e-4)
  return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, cap))


def critic_loss(
  critic: Critic, real: Array, fake: Array, between: Array, *, penalty: float
) -> Array:
  """What the critic minimises: D(fake) - D(real) + penalty * mean over pixels of (|dD| - 1)^2.

  `critic` maps f32[N, H, W, C] to f32[N, h, w, 1], every image by itself; the gradient is penalised
  at `between`, a mixture of `real` and `fake` of their shape. -> f32[N].
  """
  scores = critic(jnp.concatenate([fake, real]))
  fakes, reals = jnp.split(jnp.mean(scores, (1, 2, 3)), 2)
  return fakes - reals + penalty * gradient_penalty(critic, between)


def gradient_penalty(critic: Critic, between: Array) -> Array:
  """Mean over pixels of (norm over channels of the gradient of the summed score - 1)^2: f32[N]."""
  gradient = jax.grad(lambda images: jnp.sum(critic(images)))(between)
  norm = jnp.sqrt(jnp.sum(jnp.square(gradient), -1) + _TINY)
  return jnp.mean(jnp.square(norm - 1.0), (1, 2))


def generator_loss(scores: Array) -> Array:
  """What the generator minimises: f32[N, h, w, 1] -> -mean, f32[N]."""
  return -jnp.mean(scores, (1, 2, 3))


def logistic_discriminator(real_logits: Array, fake_logits: Array) -> Array:
  """Loss of the discriminator, log(1 + e^-real) + log(1 + e^fake): f32[N] x2 -> f32[N]."""
  return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def logistic_generator(fake_logits: Array) -> Array:
  """Loss of the generator that does not saturate, log(1 + e^-fake): f32[N] -> f32[N]."""
  return jax.nn.softplus(-fake_logits)


def r1(discriminator: Critic, images: Array) -> Array:
  """Squared norm of the gradient of each image's logit: f32[N, H, W, C] -> f32[N].

  `discriminator` maps the images to f32[N]. Source: Mescheder et al., arXiv 1801.04406.
  """
  gradient = jax.grad(lambda images: jnp.sum(discriminator(images)))(images)
  return jnp.sum(jnp.square(gradient), (1, 2, 3))


def _mean_over_scales(logits: Sequence[Array], loss: Callable[[Array], Array]) -> Array:
  if not logits:
    raise ValueError("a discriminator has at least one scale")
  scales = [loss(scale.astype(jnp.float32)).reshape(scale.shape[0], -1) for scale in logits]
  return jnp.mean(jnp.stack([jnp.mean(scale, axis=-1) for scale in scales]), axis=0)


def _norm(tree: object) -> Array:
  leaves = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
  return jnp.sqrt(jnp.sum(jnp.stack(leaves)))


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
