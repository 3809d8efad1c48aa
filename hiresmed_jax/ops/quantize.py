"""Vector quantisation: nearest code, straight-through, usage, revival, k-means.

Latents and codes are compared as unit vectors, or by distance as they are, always in float32,
whatever the network computes in: the codes nearest to a latent lie so close together that bfloat16
products pick another one.

D code width, K number of codes, P latents of the whole batch. "..." = any leading axes.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from hiresmed_jax.ops.pool import maximum
from hiresmed_jax.types import Array


@flax.struct.dataclass
class Quantized:
  """What `quantize` returns."""

  codes: Array  # f32[..., D], value of the chosen unit codes, gradient of the unit latents
  indices: Array  # int32[...], which code was chosen
  unit_latents: Array  # f32[..., D]; not of length 1 by distance, as all others here
  unit_codes: Array  # f32[..., D], the chosen codes with their gradient to the codebook


def normalize(x: Array) -> Array:
  """Unit vectors along the last axis: [..., D] -> f32[..., D]. A zero vector stays zero."""
  x = x.astype(jnp.float32)
  # The floor stands under the root so that the gradient at zero is finite.
  return x * jax.lax.rsqrt(maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def nearest(latents: Array, codebook: Array) -> Array:
  """Index of the code with the largest cosine, the lowest of ties: [..., D], [K, D] -> i32[...]."""
  highest = jax.lax.Precision.HIGHEST  # accelerators would round the factors to 8 or 11 bits
  cosine = jnp.dot(normalize(latents), normalize(codebook).T, precision=highest)
  return jnp.argmax(cosine, axis=-1).astype(jnp.int32)


def nearest_by_distance(latents: Array, codebook: Array) -> Array:
  """Index of the code at the least distance: [..., D], [K, D] -> i32[...]."""
  highest = jax.lax.Precision.HIGHEST
  products = jnp.dot(latents.astype(jnp.float32), codebook.T, precision=highest)
  # The latents' own length is the same for all codes.
  distances = jnp.sum(jnp.square(codebook), axis=-1) - 2.0 * products
  return jnp.argmin(distances, axis=-1).astype(jnp.int32)


def quantize(latents: Array, codebook: Array, *, cosine: bool = True) -> Quantized:
  """Replaces each latent [..., D] by its nearest code of [K, D], on the unit sphere if `cosine`.

  The straight-through `codes` give no gradient to the codebook; `unit_codes` do, and only to the
  rows that were chosen. Source: van den Oord et al. 2017.
  """
  scaled = normalize if cosine else lambda x: x.astype(jnp.float32)
  unit_latents = scaled(latents)
  find = nearest if cosine else nearest_by_distance
  indices = jax.lax.stop_gradient(find(latents, codebook))
  unit_codes = scaled(codebook[indices])
  # In this order the value is the code to the last bit, as decoding stored indices gives it.
  codes = jax.lax.stop_gradient(unit_codes) + (unit_latents - jax.lax.stop_gradient(unit_latents))
  return Quantized(codes=codes, indices=indices, unit_latents=unit_latents, unit_codes=unit_codes)


def code_counts(indices: Array, num_codes: int) -> Array:
  """How often each code was chosen: int[...] -> f32[K]."""
  return jnp.zeros(num_codes, jnp.float32).at[indices.reshape(-1)].add(1.0)


def perplexity(counts: Array) -> Array:
  """Exponential of the entropy of the code frequencies: f32[K] -> f32[], 1 to K (0 counts: 1)."""
  share = counts / jnp.maximum(jnp.sum(counts), 1e-12)
  return jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30))))


def update_usage(usage_ema: Array, counts: Array, decay: float) -> Array:
  """Running mean of each code's count per step: f32[K], f32[K] -> f32[K]."""
  return decay * usage_ema + (1.0 - decay) * counts


def add_counts(both: Array, counts: Array, step: Array, steps_per_epoch: int) -> Array:
  """f32[2, K]: counts of this epoch and of the one before; they move on when an epoch begins."""
  first = step % steps_per_epoch == 0
  running, before = jnp.where(first, 0.0, both[0]), jnp.where(first, both[0], both[1])
  return jnp.stack([running + counts, before])


def usage_of(both: Array) -> dict[str, Array]:
  """Share of the K codes in use, and perplexity, of the last whole epoch; in the first, so far."""
  counts = jnp.where(jnp.sum(both[1]) > 0, both[1], both[0])
  return {
    "code_usage": jnp.mean((counts > 0).astype(jnp.float32)),
    "code_perplexity": perplexity(counts),
  }


def revive(
  codebook: Array, usage: Array, latents: Array, key: Array, *, threshold: float | Array
) -> tuple[Array, Array]:
  """Redraws the rarely used codes from the latents of the global batch, without branches.

  Args:
    codebook: f32[K, D].
    usage: f32[K], running mean of each code's count per step.
    latents: [P, D] of the global batch.
    key: the same on every device.
    threshold: codes with `usage < threshold` are redrawn.

  Returns:
    The new codebook and bool[K], which codes were redrawn. Redrawn rows are distinct unit latents
    while P >= K; with fewer latents than codes they are used again in turn.
  """
  num_codes, num_latents = codebook.shape[0], latents.shape[0]
  # The order of random numbers is a draw without replacement, whatever the sharding.
  noise = jax.random.uniform(key, (num_latents,))
  chosen = jax.lax.top_k(noise, min(num_codes, num_latents))[1]
  candidates = normalize(latents[chosen])[jnp.arange(num_codes) % chosen.shape[0]]
  revived = usage < threshold
  return jnp.where(revived[:, None], candidates.astype(codebook.dtype), codebook), revived


@functools.partial(jax.jit, static_argnames=("num_codes", "iterations"))
def kmeans(latents: Array, key: Array, *, num_codes: int, iterations: int) -> Array:
  """Spherical k-means of latents [P, D] -> f32[num_codes, D], unit centres.

  The centres are moved `iterations` times; empty clusters are refilled.
  """
  unit = normalize(latents)
  nothing = jnp.zeros((num_codes, unit.shape[-1]), jnp.float32)
  first = revive(nothing, nothing[:, 0], unit, key, threshold=1.0)[0]

  def move(centres: Array, step: Array) -> tuple[Array, None]:
    indices = nearest(unit, centres)
    sums = jnp.zeros_like(centres).at[indices].add(unit)
    counts = code_counts(indices, num_codes)
    refill = jax.random.fold_in(key, step)
    return revive(normalize(sums), counts, unit, refill, threshold=0.5)[0], None

  return jax.lax.scan(move, first, jnp.arange(1, iterations + 1))[0]
