"""What keeps a codebook alive between gradient steps: usage, revival, the numbers that tell.

Plain cosine quantisation of 128 real images kept 3 of 256 codes in use; codes that nothing uses
are therefore redrawn from the batch's latents. K codes, D code width, P latents of the batch.
"""

from typing import Any

import jax.numpy as jnp

from hiresmed_jax.ops import quantize
from hiresmed_jax.runtime import optim
from hiresmed_jax.types import Array, Metrics


def revive(
  now: Array,
  gen: Any,
  gen_opt: Any,
  ema: Any,
  usage: Array,
  latents: Array,
  key: Array,
  *,
  threshold: float,
) -> tuple[Any, Any, Any, Array, Array]:
  """New rows for dead codes, with clean moments and average, and a usage to start from.

  Args:
    now: bool[]; where false, nothing changes (without a branch).
    gen: {"codebook": f32[K, D], ...}.
    gen_opt: its optimiser's state.
    ema: averaged `gen`, or {}.
    usage: f32[K], running share of each code.
    latents: [..., D] of the global batch.
    threshold: codes below this share of an evenly used code's are redrawn.

  Returns:
    (gen, gen_opt, ema, usage, number of redrawn codes i32[]).
  """
  num_codes = usage.shape[0]
  floor = jnp.where(now, threshold / num_codes, -1.0)
  flat = latents.reshape(-1, latents.shape[-1])
  codes, revived = quantize.revive(gen["codebook"], usage, flat, key, threshold=floor)
  if ema:
    ema = {**ema, "codebook": jnp.where(revived[:, None], codes, ema["codebook"])}
  usage = jnp.where(revived, 1.0 / num_codes, usage)
  gen_opt = optim.zero_rows(gen_opt, "codebook", revived)
  return {**gen, "codebook": codes}, gen_opt, ema, usage, jnp.sum(revived)


def add_counts(both: Array, counts: Array, step: Array, steps_per_epoch: int) -> Array:
  """f32[2, K]: counts of this epoch and of the one before; they move on when an epoch begins."""
  first = step % steps_per_epoch == 0
  running, before = jnp.where(first, 0.0, both[0]), jnp.where(first, both[0], both[1])
  return jnp.stack([running + counts, before])


def scalars(both: Array) -> Metrics:
  """Usage (share of the K codes) and perplexity of the last whole epoch; in the first, so far."""
  counts = jnp.where(jnp.sum(both[1]) > 0, both[1], both[0])
  return {
    "code_usage": jnp.mean((counts > 0).astype(jnp.float32)),
    "code_perplexity": quantize.perplexity(counts),
  }
