"""What does each of the ways that only the CPU's compiler needs give, in a whole network?

  python -m benchmarks.cpu_gains --out benchmarks/results/cpu_gains_cpu.json

Forward and backward pass of the network of `train_step.py --scale cpu`, HDFB, with all of them and
with one at a time taken away; all in one process, two calls of each in turn, of which the second is
timed. Six minutes on two cores.
"""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.train_step import settings
from hiresmed_jax.errors import UserError
from hiresmed_jax.ops import activation, convolution, cpu, norm, upsample
from hiresmed_jax.routes.background import task
from hiresmed_jax.runtime import cli, compilation

EVERYTHING = "everything"
TAKEN_AWAY: dict[str, tuple[str, ...]] = {
  EVERYTHING: (),
  "convolutions on all cores": ("compiler",),
  "kernel gradients row by row": ("kernels",),
  "upsampling's gradient row by row": ("upsampling",),
  "sums of a normalisation together": ("sums",),
  "divisions last in SiLU": ("silu",),
  "all five": ("compiler", "kernels", "upsampling", "sums", "silu"),
}


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--rounds", type=int, default=12)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--size", type=int, default=128, help="side of an image")
  options = parser.parse_args(argv)
  if jax.default_backend() != "cpu":
    raise UserError("only the CPU has these ways: set JAX_PLATFORMS=cpu")
  facts: dict[str, Any] = {"benchmark": "cpu_gains", **harness.environment()}
  shape = (options.batch, options.size, options.size, 3)
  programs, compile_seconds = _programs(shape)
  times = harness.interleaved(programs, options.rounds)
  facts |= {"images": list(shape), "rounds": options.rounds, "without": {}}
  for name, seconds in times.items():
    row = {"median_ms": 1e3 * float(np.median(seconds)), "min_ms": 1e3 * min(seconds)}
    facts["without"][name] = row | {"compile_seconds": compile_seconds[name]}
  _show(facts)
  harness.publish(facts, options.out)


def _programs(shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, float]]:
  """What to call for each variant, and the seconds that compiling it took."""
  net, _ = task.networks(settings("cpu", "hdfb"), channels=shape[-1], dtype=jnp.float32)
  images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
  params = jax.jit(net.init, compiler_options=harness.QUICK)(jax.random.key(0), images)["params"]

  def loss(params: Any, images_m11: Any) -> Any:
    return jnp.mean(jnp.square(net.apply({"params": params}, images_m11) - images_m11))

  calls, seconds = {}, {}
  for name, without in TAKEN_AWAY.items():
    begin = time.perf_counter()
    with _plain([way for way in without if way != "compiler"]):
      # A function of its own: jax would give the trace of the variant before.
      lowered = jax.jit(jax.value_and_grad(lambda *given: loss(*given))).lower(params, images)
    wanted = {} if "compiler" in without else compilation.options()
    compiled = lowered.compile(wanted)
    seconds[name] = time.perf_counter() - begin
    calls[name] = lambda run=compiled: jax.block_until_ready(run(params, images))
  return calls, seconds


@contextlib.contextmanager
def _plain(ways: list[str]) -> Iterator[None]:
  """Within it, these gradients, sums and functions are left to the compiler."""
  changes: dict[str, tuple[Any, dict[str, Any]]] = {
    "kernels": (cpu, {"conv_gradients": convolution.plain_gradients}),
    "upsampling": (cpu, {"halve_rows": functools.partial(upsample.halve, axis=1)}),
    "sums": (cpu, {"sums": norm.plain_sums}),
    "silu": (activation, {"silu": jax.nn.silu, "silu_gradient": _silu_gradient}),
  }
  jax.clear_caches()
  with contextlib.ExitStack() as stack:
    for way in ways:
      module, plain = changes[way]
      stack.enter_context(mock.patch.multiple(module, **plain))
    yield


def _silu_gradient(y: jax.Array, grad: jax.Array) -> jax.Array:
  sigmoid = jax.nn.sigmoid(y)
  return grad * (sigmoid * (1.0 + y * (1.0 - sigmoid)))


def _show(facts: dict[str, Any]) -> None:
  table = Table(title=" x ".join(map(str, facts["images"])) + ", HDFB, forward + backward")
  for column in ("without", "median ms", "least ms", "times as long", "compile s"):
    table.add_column(column, justify="left" if column == "without" else "right")
  whole = facts["without"][EVERYTHING]["median_ms"]
  for name, row in facts["without"].items():
    times = f"{row['median_ms'] / whole:.2f}"
    figures = (f"{row['median_ms']:.0f}", f"{row['min_ms']:.0f}", times)
    table.add_row(
      "nothing" if name == EVERYTHING else name, *figures, f"{row['compile_seconds']:.0f}"
    )
  Console(width=100).print(table)


if __name__ == "__main__":
  cli.run(main)
