"""What the VQGAN's step differentiates: the way to the pixels, and everything that grades them.

The parts are kept apart at the pixels. Each grader gives a gradient with respect to the
reconstruction; the step adds them and takes the sum back through the generator once. That also
makes the adaptive GAN weight cheap: it needs both gradients at the last convolution alone.

N images in a batch, H x W pixels, h x w latent positions, C image channels, D code width, K codes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.losses import adversarial, autoencoder
from hiresmed_jax.nets.discriminator import MultiScaleDiscriminator
from hiresmed_jax.nets.vqgan import VQGAN
from hiresmed_jax.ops import quantize
from hiresmed_jax.ops.diffaugment import diff_augment
from hiresmed_jax.types import Array, Metrics, Params

Distance = Callable[[Params, Array, Array], Array]  # (weights, prediction, target) -> f32[N]


def forward(gen: Params, *, net: VQGAN, images: Array, key: Array, config: Any) -> Any:
  """Images to reconstruction, in training.

  Args:
    gen: {"net": ..., "codebook": f32[K, D]}.
    images: f32[N, H, W, C] in [-1, 1].
    key: for DropPath.
    config: "loss" of the route's config.

  Returns:
    ((reconstruction f32[N, H, W, C], code loss f32[]), aux) with aux["losses"] scalars,
    aux["features"] what the last convolution reads, aux["indices"] i32[N, h, w], aux["latents"]
    f32[N, h, w, D]. Source: Tang et al. 2025, Eq. 1.
  """
  apply = functools.partial(net.apply, {"params": gen["net"]}, rngs={"drop_path": key})
  latents = apply(images, train=True, method="encode")
  codes = quantize.quantize(latents, gen["codebook"])
  features = apply(codes.codes, train=True, method="decode_features")
  recon = apply(features, method="head")
  losses = {
    "commitment": jnp.mean(autoencoder.commitment(codes.unit_latents, codes.unit_codes)),
    "codebook": jnp.mean(autoencoder.codebook(codes.unit_latents, codes.unit_codes)),
  }
  code_loss = config.commitment * losses["commitment"] + config.codebook * losses["codebook"]
  if config.entropy:
    total, weight = autoencoder.entropy(
      codes.unit_latents, gen["codebook"], temperature=config.entropy_temperature
    )
    losses["entropy"] = total / weight
    code_loss += config.entropy * losses["entropy"]
  aux = {"losses": losses, "features": features, "indices": codes.indices, "latents": latents}
  return (recon, code_loss), jax.lax.stop_gradient(aux)


def grade(
  recon: Array,
  *,
  target: Array,
  kind: str,
  distance: Distance | None,
  weights: Params,
  distance_weight: float,
) -> tuple[Array, Metrics]:
  """Reconstruction loss ("l1" or "mse") + perceptual distance -> (f32[], scalars)."""
  error = {"l1": autoencoder.l1, "mse": autoencoder.mse}[kind]
  total = jnp.mean(error(recon, target))
  scalars = {"reconstruction": total}
  if distance is not None:
    scalars["perceptual"] = jnp.mean(distance(weights, recon, target))
    total += distance_weight * scalars["perceptual"]
  return total, scalars


def play(
  disc: MultiScaleDiscriminator,
  params: Params,
  recon: Array,
  images: Array,
  key: Array,
  *,
  policy: tuple[str, ...],
) -> tuple[Array, Params, Metrics]:
  """Both sides of the game on one reconstruction.

  Returns:
    (gradient of the generator's hinge loss with respect to the reconstruction f32[N, H, W, C],
    gradients of the discriminator, scalars). Both sides see through DiffAugment with one `policy`.
  """

  def see(pixels: Array) -> Array:
    return diff_augment(pixels, key, policy=policy) if policy else pixels

  def fool(pixels: Array) -> Array:
    return jnp.mean(adversarial.hinge_generator(disc.apply({"params": params}, see(pixels))))

  def tell_apart(params: Params) -> Array:
    real, fake = (disc.apply({"params": params}, see(x)) for x in (images, recon))
    return jnp.mean(adversarial.hinge_discriminator(real, fake))

  gen_loss, pixel_grad = jax.value_and_grad(fool)(recon)
  disc_loss, disc_grads = jax.value_and_grad(tell_apart)(params)
  return pixel_grad, disc_grads, {"gan_generator": gen_loss, "gan_discriminator": disc_loss}


def adaptive_weight(
  net: VQGAN, params: Params, features: Array, graded: Array, fooled: Array, *, cap: float
) -> Array:
  """GAN weight that balances the two pixel gradients at the last convolution: f32[].

  Args:
    params: of `net`.
    features: what the last convolution reads.
    graded: gradient of reconstruction + perceptual loss, f32[N, H, W, C].
    fooled: gradient of the generator's GAN loss, same shape.

  Source: Esser et al. 2021, Eq. 7.
  """

  def head(last: Params) -> Array:
    return net.apply({"params": {**params, "output": last}}, features, method="head")

  _, backward = jax.vjp(head, params["output"])
  kernels = [backward(gradient)[0]["kernel"] for gradient in (graded, fooled)]
  return adversarial.adaptive_weight(*kernels, cap=cap)
