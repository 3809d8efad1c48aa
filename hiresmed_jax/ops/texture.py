"""Gaussian texture that continues what is around a hole.

The model is a stationary Gaussian field whose correlation is that of the pixels nearby, scattered
with random phases (Galerne, Gousseau, Morel 2011). In the hole it is drawn conditionally on the
hole's rim: a free draw, plus simple kriging of what the rim departs from it (Galerne, Leclaire
2017). So fine detail goes on across the rim and fades inwards into noise of the same kind.

H rows, W columns, C channels.
"""

import jax
import jax.numpy as jnp

from hiresmed_jax.ops.insertion_mask import square_dilate
from hiresmed_jax.types import Array

_RIM_PX = 3
_LOUDEST = 3.0  # standard deviations; what is louder is an edge, and no edge is continued
_NUGGET = 0.01  # share of the variance that is not expected to be continued
_STEPS = 40


def continued(detail: Array, mask: Array, near: Array, key: Array | None) -> Array:
  """Detail for the pixels of a hole.

  Args:
    detail: f32[H, W, C], the image less its smooth part; not read inside the hole.
    mask: bool[H, W], the hole.
    near: bool[H, W], the pixels that tell level and correlation, outside the hole.
    key: of the noise; None draws none: what is left is what the rim lets expect.

  Returns:
    f32[H, W, C], of use inside the hole.
  """
  quiet = _quiet(detail, near)
  spectrum = jnp.fft.rfft2(jnp.where(near[..., None], quiet, 0.0), axes=(0, 1))
  spectrum /= jnp.sqrt(jnp.maximum(jnp.sum(near), 1).astype(jnp.float32))
  rim = (square_dilate(mask, _RIM_PX) & ~mask)[..., None]

  def filtered(field: Array, response: Array) -> Array:
    waves = jnp.fft.rfft2(field, axes=(0, 1)) * response
    return jnp.fft.irfft2(waves, s=mask.shape, axes=(0, 1))

  power = jnp.square(jnp.abs(spectrum))
  variance = filtered(_impulse(mask.shape), power)[0, 0]

  def operator(weights: Array) -> Array:
    return jnp.where(rim, filtered(weights, power), 0.0) + _NUGGET * variance * weights

  drawn = jnp.zeros_like(detail)
  if key is not None:
    # One field for all channels: the grain of a grey image in three channels is grey.
    drawn = filtered(jax.random.normal(key, (*mask.shape, 1)), spectrum)
  missing = jnp.where(rim, quiet - drawn, 0.0)
  weights, _ = jax.scipy.sparse.linalg.cg(operator, missing, tol=1e-3, maxiter=_STEPS)
  return drawn + filtered(weights, power)


def _quiet(detail: Array, near: Array) -> Array:
  """Detail without mean and without edges."""
  where = near[..., None]
  spread = 1.4826 * jnp.nanmedian(jnp.where(where, jnp.abs(detail), jnp.nan), axis=(0, 1))
  clipped = jnp.clip(detail, -_LOUDEST * spread, _LOUDEST * spread)
  count = jnp.maximum(jnp.sum(near), 1)
  return jnp.nan_to_num(clipped - jnp.sum(clipped, (0, 1), where=where) / count)


def _impulse(shape: tuple[int, ...]) -> Array:
  return jnp.zeros((*shape, 1)).at[0, 0].set(1.0)
