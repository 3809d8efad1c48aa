"""The losses of the VQGAN's step: the generator's forward pass, and the losses of its pixels.

Each loss gives a gradient with respect to the reconstruction. The step adds these gradients and
goes back through the generator once. The adaptive GAN weight needs both gradients at the last
convolution only, so that it is cheap.

N images in a batch, H x W pixels, h x w latent positions, C image channels, D code width, K codes.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from hiresmed_jax.losses import generative
from hiresmed_jax.ops import quantize
from hiresmed_jax.ops.diffaugment import diff_augment
from hiresmed_jax.types import Array, Metrics, Params

Distance = Callable[[Params, Array, Array], Array]  # (weights, prediction, target) -> f32[N]


def forward(
  gen: Params, *, net: nn.Module, images: Array, key: Array, config: Any, cosine: bool = True
) -> Any:
  """Images f32[N, H, W, C] in [-1, 1] to reconstruction, in training; `config` is the group "loss".

  Returns:
    ((reconstruction f32[N, H, W, C], code loss f32[]), aux) with aux["losses"] scalars,
    aux["features"] what the last convolution reads, aux["indices"] i32[N, h, w], aux["latents"]
    f32[N, h, w, D]. Source: Tang et al. 2025, Eq. 1.
  """
  apply = functools.partial(net.apply, {"params": gen["net"]}, rngs={"drop_path": key})
  latents = apply(images, train=True, method="encode")
  codes = quantize.quantize(latents, gen["codebook"], cosine=cosine)
  features = apply(codes.codes, train=True, method="decode_features")
  recon = apply(features, method="head")
  losses = {
    "commitment": jnp.mean(generative.commitment(codes.unit_latents, codes.unit_codes)),
    "codebook": jnp.mean(generative.codebook(codes.unit_latents, codes.unit_codes)),
  }
  code_loss = config.commitment * losses["commitment"] + config.codebook * losses["codebook"]
  if config.entropy:
    total, weight = generative.entropy(
      codes.unit_latents, gen["codebook"], temperature=config.entropy_temperature
    )
    losses["entropy"] = total / weight
    code_loss += config.entropy * losses["entropy"]
  aux = {"losses": losses, "features": features, "indices": codes.indices, "latents": latents}
  return (recon, code_loss), jax.lax.stop_gradient(aux)


def reconstruction_loss(
  recon: Array,
  *,
  target: Array,
  kind: str,
  distance: Distance | None,
  weights: Params,
  distance_weight: float,
) -> tuple[Array, Metrics]:
  """Pixel error ("l1" or "mse") + weighted perceptual distance -> (f32[], scalars)."""
  chex.assert_equal_shape([recon, target])
  error = {"l1": generative.l1, "mse": generative.mse}[kind]
  total = jnp.mean(error(recon, target))
  scalars = {"reconstruction": total}
  if distance is not None:
    scalars["perceptual"] = jnp.mean(distance(weights, recon, target))
    total += distance_weight * scalars["perceptual"]
  return total, scalars


def gan_gradients(
  disc: nn.Module,
  params: Params,
  recon: Array,
  images: Array,
  key: Array,
  *,
  policy: tuple[str, ...],
) -> tuple[Array, Params, Metrics]:
  """Gradients of the hinge losses of both players, on one reconstruction.

  `recon` and the real `images` are f32[N, H, W, C] in [-1, 1]; DiffAugment's `policy` is the same
  for both players, () for none.

  Returns:
    (gradient of the generator's loss with respect to the reconstruction f32[N, H, W, C],
    gradients of the discriminator's loss with respect to its parameters, both losses).
  """
  chex.assert_rank(recon, 4)
  chex.assert_equal_shape([recon, images])

  def augmented(pixels: Array) -> Array:
    return diff_augment(pixels, key, policy=policy) if policy else pixels

  def generator_loss(pixels: Array) -> Array:
    logits = disc.apply({"params": params}, augmented(pixels))
    return jnp.mean(generative.hinge_generator(logits))

  def discriminator_loss(params: Params) -> Array:
    real, fake = (disc.apply({"params": params}, augmented(x)) for x in (images, recon))
    return jnp.mean(generative.hinge_discriminator(real, fake))

  gen_loss, pixel_grad = jax.value_and_grad(generator_loss)(recon)
  disc_loss, disc_grads = jax.value_and_grad(discriminator_loss)(params)
  return pixel_grad, disc_grads, {"gan_generator": gen_loss, "gan_discriminator": disc_loss}


def adaptive_weight(
  net: nn.Module, params: Params, features: Array, pixel_grad: Array, gan_grad: Array, *, cap: float
) -> Array:
  """GAN weight that balances the two pixel gradients at the last convolution: f32[].

  `features` is what that convolution reads; the gradients, of reconstruction + perceptual loss and
  of the generator's GAN loss, are f32[N, H, W, C]. Source: Esser et al. 2021, Eq. 7.
  """

  def head(last: Params) -> Array:
    return net.apply({"params": {**params, "output": last}}, features, method="head")

  _, backward = jax.vjp(head, params["output"])
  kernels = [backward(gradient)[0]["kernel"] for gradient in (pixel_grad, gan_grad)]
  return generative.adaptive_weight(*kernels, cap=cap)
