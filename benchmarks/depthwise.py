"""How fast is `depthwise_conv` beside XLA's grouped convolution and PyTorch?

  python -m benchmarks.depthwise [--out benchmarks/results/depthwise_cpu.json]

Forward, and forward + backward (gradients of input and kernel), float32, all sides in one process,
two calls of each side in turn, of which the second counts. Prints a table and one JSON line.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from hiresmed_jax.ops.depthwise import depthwise_conv
from hiresmed_jax.runtime import cli

# [N, H, W, C] and kernel side: two well-known cases, then the networks' own at 1,024 x 1,024.
SHAPES = (
  (4, 64, 64, 64, 5),
  (8, 128, 128, 32, 5),
  (4, 64, 64, 64, 3),
  (4, 64, 64, 64, 7),
  (1, 256, 256, 128, 5),
  (1, 64, 64, 256, 5),
  (1, 16, 16, 512, 5),
)
SECONDS_PER_CASE = 6.0  # slow cases have fewer rounds, but at least five
Call = Callable[[], Any]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--rounds", type=int, default=21)
  arguments = parser.parse_args(argv)
  print(
    f"{'N H W C, kernel':26}{'pass':18}{'side':8}{'median ms':>10}{'least ms':>10}{'compile s':>10}"
  )
  about = harness.environment()
  rows = [row for shape in SHAPES for row in _measure(shape, arguments.rounds)]
  result = {
    "benchmark": "depthwise",
    **about,
    "load_average_after": round(os.getloadavg()[0], 2),
    "rows": rows,
  }
  harness.publish(result, arguments.out)


def _measure(shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
  """One row for each pass, with the figures of each side."""
  rng = np.random.default_rng(0)
  *size, k = shape
  arrays = [rng.standard_normal(s, np.float32) for s in (size, (k, k, 1, size[-1]), size)]
  x, kernel, cotangent = (jnp.asarray(a) for a in arrays)
  rows = []
  for name, backward in (("forward", False), ("forward+backward", True)):
    calls, compile_s = {}, {}
    for side, convolve in (("ours", depthwise_conv), ("lax", _grouped)):
      start = time.perf_counter()
      calls[side] = _jax_call(convolve, backward, x, kernel, cotangent)
      compile_s[side] = round(time.perf_counter() - start, 2)
    if importlib.util.find_spec("torch"):
      calls["torch"] = _torch_call(backward, *arrays)
    times = harness.interleaved(calls, rounds, limit_s=SECONDS_PER_CASE)
    row: dict[str, Any] = {"shape": size, "kernel": k, "pass": name, "rounds": len(times["ours"])}
    for side, seconds in times.items():
      milliseconds = [1e3 * s for s in seconds]
      median, least = statistics.median(milliseconds), min(milliseconds)
      row[side] = {"median_ms": round(median, 3), "min_ms": round(least, 3)}
      if side in compile_s:
        row[side]["compile_s"] = compile_s[side]
      case = f"{' '.join(map(str, size))}, {k}x{k}"
      compiled = compile_s.get(side, "")
      print(f"{case:26}{name:18}{side:8}{median:10.2f}{least:10.2f}{compiled:>10}", flush=True)
    rows.append(row)
  return rows


def _jax_call(convolve: Callable, backward: bool, *arrays: jax.Array) -> Call:
  def both(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Any:
    out, transpose = jax.vjp(convolve, x, kernel)
    return out, transpose(cotangent)

  inputs = arrays if backward else arrays[:2]
  compiled = jax.jit(both if backward else convolve).lower(*inputs).compile()
  return lambda: jax.block_until_ready(compiled(*inputs))


def _grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=x.shape[-1]
  )


def _torch_call(backward: bool, *arrays: np.ndarray) -> Call:
  """PyTorch, eager, channels last in memory."""
  import torch

  gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
  device = torch.device("cuda" if gpu else "cpu")
  x, cotangent = (
    torch.from_numpy(a).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    for a in (arrays[0], arrays[2])
  )
  kernel = torch.from_numpy(arrays[1]).permute(3, 2, 0, 1).contiguous().to(device)
  inputs = [x.requires_grad_(backward), kernel.requires_grad_(backward)]
  side = arrays[1].shape[0] // 2

  def call() -> None:
    out = torch.nn.functional.conv2d(x, kernel, padding=side, groups=x.shape[1])
    if backward:
      torch.autograd.grad(out, inputs, cotangent)
    if gpu:
      torch.cuda.synchronize()

  return call


if __name__ == "__main__":
  cli.run(main)
