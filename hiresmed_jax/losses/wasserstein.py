"""The Wasserstein critic of SinGAN and its gradient penalty.

N images, H x W pixels, C channels. Source: Gulrajani et al. 2017; Shaham et al. 2019 and its code,
where the norm of the gradient is taken pixel by pixel, over channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

Critic = Callable[[Array], Array]
_TINY = 1e-20  # the slope of a root at 0 is infinite


def critic_loss(
  critic: Critic, real: Array, fake: Array, between: Array, *, penalty: float
) -> Array:
  """What the critic minimises: D(fake) - D(real) + penalty * mean over pixels of (|dD| - 1)^2.

  Args:
    critic: f32[N, H, W, C] -> f32[N, h, w, 1], every image by itself.
    real: f32[N, H, W, C].
    fake: the same shape.
    between: a mixture of both, at which the gradient is judged.
    penalty: weight of the gradient penalty.

  Returns:
    f32[N].
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
