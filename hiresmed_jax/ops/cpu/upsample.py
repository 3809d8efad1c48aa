"""The way back of bilinear doubling, row by row."""

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array


def halve_rows(grad: Array) -> Array:
  """[N, 2H, W, C] -> [N, H, W, C], in a loop, which reads its operand from memory.

  Fused, what made `grad` would be computed for every reader.
  """
  last = grad.shape[1] - 1

  def halve(_: None, row: Array) -> tuple[None, Array]:
    before, even, odd, after = (
      jax.lax.dynamic_index_in_dim(grad, jnp.clip(2 * row + i, 0, last), 1, keepdims=False)
      for i in (-1, 0, 1, 2)
    )
    return None, 0.75 * (even + odd) + 0.25 * (before + after)

  _, rows = jax.lax.scan(halve, None, jnp.arange(grad.shape[1] // 2))
  return jnp.moveaxis(rows, 0, 1)
