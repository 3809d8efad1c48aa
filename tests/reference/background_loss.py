"""The background route's whole objective as one number, for `jax.grad`: no staging, no packing.

Source: Tang et al. 2025, section 2.2, on unit vectors; Esser et al. 2021; Chang et al. 2022.
"""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops.diffaugment import diff_augment

stop = jax.lax.stop_gradient


def autoencode(gen, images, key, *, net):
  """-> (reconstruction, unit latents, chosen unit codes), straight-through."""
  unit_codes = gen["codebook"] / jnp.linalg.norm(gen["codebook"], axis=-1, keepdims=True)

  def both_ways(module, x):
    latents = module.encode(x, True)
    latents = latents / jnp.linalg.norm(latents, axis=-1, keepdims=True)
    codes = unit_codes[jnp.argmax(jnp.einsum("nhwd,kd->nhwk", latents, unit_codes), axis=-1)]
    return module.decode(latents + stop(codes - latents), True), latents, codes

  return net.apply({"params": gen["net"]}, images, method=both_ways, rngs={"drop_path": key})


def judge(params, pixels, key, *, disc, config):
  return disc.apply({"params": params}, diff_augment(pixels, key, policy=config.gan.augment))


def whole_loss(gen, disc_params, images, keys, gan_weight, *, net, disc, config):
  """f32[]: its gradients to (gen, disc_params) are those of the generator and of the discriminator.

  The two players' losses are added; each sees the other's parameters as constants.
  """
  recon, latents, codes = autoencode(gen, images, keys[0], net=net)
  total = jnp.mean(jnp.abs(recon - images))
  total += config.loss.commitment * jnp.mean(jnp.sum((latents - stop(codes)) ** 2, axis=-1))
  total += config.loss.codebook * jnp.mean(jnp.sum((stop(latents) - codes) ** 2, axis=-1))

  unit_codes = gen["codebook"] / jnp.linalg.norm(gen["codebook"], axis=-1, keepdims=True)
  logits = 2 * jnp.einsum("nhwd,kd->nhwk", latents, unit_codes) / config.loss.entropy_temperature
  share = jax.nn.softmax(logits, axis=-1)
  sure = -jnp.mean(jnp.sum(share * jax.nn.log_softmax(logits, axis=-1), axis=-1))
  even = jnp.mean(share, axis=(0, 1, 2))
  total += config.loss.entropy * (sure + jnp.sum(even * jnp.log(even)))

  see = functools.partial(judge, key=keys[1], disc=disc, config=config)
  total += gan_weight * _over_scales(lambda fake: -fake, see(stop(disc_params), recon))
  hinge = lambda r, f: 0.5 * (jnp.maximum(0, 1 - r) + jnp.maximum(0, 1 + f))  # noqa: E731
  return total + _over_scales(hinge, see(disc_params, images), see(disc_params, stop(recon)))


def adaptive_ratio(gen, disc_params, images, keys, *, net, disc, config, distance):
  """Length of one gradient at the last kernel by that of the other (Esser et al. 2021, Eq. 7)."""

  def losses(kernel):
    output = {**gen["net"]["output"], "kernel": kernel}
    recon, _, _ = autoencode(
      {**gen, "net": {**gen["net"], "output": output}}, images, keys[0], net=net
    )
    fake = judge(disc_params, recon, keys[1], disc=disc, config=config)
    graded = jnp.mean(jnp.abs(recon - images)) + jnp.mean(distance(recon, images))
    return graded, _over_scales(lambda fake: -fake, fake)

  graded, fooled = (
    jnp.sqrt(jnp.sum(gradient**2))
    for gradient in jax.jacrev(losses)(gen["net"]["output"]["kernel"])
  )
  return graded / (fooled + 1e-4)


def _over_scales(loss, *logits):
  return sum(jnp.mean(loss(*scale)) for scale in zip(*logits)) / len(logits[0])
