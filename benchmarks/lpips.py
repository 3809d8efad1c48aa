"""What does LPIPS cost as a loss: time and memory of its gradient with respect to the images?

  python -m benchmarks.lpips [--size 1024] [--batch 8] [--at-once 1] [--out FILE]

Random weights (the cost does not depend on them), grey images, one target each. For every network:
float32 and bfloat16, the batch at once and in parts (metrics/lpips.py, in_parts). Memory is that of
the compiled program beside its arguments and results. Prints a table and one JSON line.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from hiresmed_jax.convert.features import TRUNKS
from hiresmed_jax.metrics import lpips
from hiresmed_jax.runtime import cli
from hiresmed_jax.types import Array, Params


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--size", type=int, default=1024, help="pixels a side")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--at-once", type=int, default=1, help="examples of a part")
  parser.add_argument("--rounds", type=int, default=5, help="0: compile only")
  parser.add_argument("--nets", nargs="+", default=list(TRUNKS), choices=list(TRUNKS))
  options = parser.parse_args(argv)
  print(f"{'network':12}{'dtype':10}{'at once':>8}{'median s':>10}{'GiB':>8}{'GFLOP':>10}")
  rows = []
  for net in options.nets:
    for dtype in ("float32", "bfloat16"):
      for at_once in (options.batch, options.at_once):
        row = measure(net, dtype, options.size, options.batch, at_once, options.rounds)
        rows.append(row)
        shown = "-" if row["median_s"] is None else f"{row['median_s']:.3f}"
        print(
          f"{net:12}{dtype:10}{at_once:8}{shown:>10}{row['gib']:8.2f}{row['gflop']:10.0f}",
          flush=True,
        )
  result = {
    "benchmark": "lpips",
    **harness.environment(),
    "size": options.size,
    "batch": options.batch,
    "rows": rows,
  }
  harness.publish(result, options.out)


def measure(
  net: str, dtype: str, size: int, batch: int, at_once: int, rounds: int
) -> dict[str, Any]:
  """One row: seconds per call (None for no rounds), GiB of temporaries, GFLOP as XLA counts them.

  Operations inside a loop are counted once by XLA and multiplied here by the number of parts.
  """
  trunk = TRUNKS[net](dtype=jnp.dtype(dtype))
  shape = (batch, size, size, 1)
  small = jnp.zeros((1, 64, 64, 1))
  taps, params = jax.jit(trunk.init_with_output)(jax.random.key(0), small)
  heads = [jnp.full(tap.shape[-1], 1 / tap.shape[-1]) for tap in taps]

  def whole(params: Params, a: Array, b: Array) -> Array:
    return lpips.lpips(lambda x: trunk.apply(params, x), heads, a, b)

  parts = batch // at_once
  distance = lpips.in_parts(whole, at_once=at_once) if parts > 1 else whole
  loss = jax.jit(jax.value_and_grad(lambda p, a, b: distance(p, a, b).mean(), argnums=1))
  image = jax.ShapeDtypeStruct(shape, jnp.float32)
  compiled = loss.lower(params, image, image).compile()
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  assert memory is not None
  assert cost is not None
  seconds = []
  if rounds:
    a, b = (jax.random.uniform(jax.random.key(seed), shape, minval=-1) for seed in (1, 2))
    jax.block_until_ready(compiled(params, a, b))
    for _ in range(rounds):
      start = time.perf_counter()
      jax.block_until_ready(compiled(params, a, b))
      seconds.append(time.perf_counter() - start)
  return {
    "net": net,
    "dtype": dtype,
    "at_once": at_once,
    "median_s": statistics.median(seconds) if seconds else None,
    "gib": round(memory.temp_size_in_bytes / 2**30, 3),
    "gflop": round(cost["flops"] * parts / 1e9, 1),
  }


if __name__ == "__main__":
  cli.run(main)
