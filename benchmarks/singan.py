"""SinGAN of many lesions at once: lesions an hour, beside PyTorch training one after the other.

  python -m benchmarks.singan --out benchmarks/results/singan_cpu.json
  python -m benchmarks.singan --gpu-check --out benchmarks/results/singan_gpu.json

Both sides make the same iterations (3 steps of the critic, 3 of the generator, levels below
redrawn) of the same networks on windows of the same size, in one process: two calls of each in
turn, of which the second counts; medians. A few iterations of every level are timed, from untrained
weights, and the time of `--steps-per-level` is extrapolated from them, since all iterations cost
the same. Compilation is counted apart.

`--gpu-check`: 64 lesions of 64 px, 100 iterations a call. `--ways` and `--dtypes` may name several,
and `--levels` some of the levels, to choose between them first.
"""

import concurrent.futures
import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.singan import width
from hiresmed_jax.ops.pyramid import Pyramid, lesion_pyramid
from hiresmed_jax.routes import settings
from hiresmed_jax.routes import singan_task as lesion
from hiresmed_jax.runtime import cli, compilation, cost
from hiresmed_jax.runtime import mesh as meshes

Call = Callable[[], Any]
_CHANNELS = 2  # grey and the mask


class Case(NamedTuple):
  """What is measured: one level of so many lesions of a size, computed in one way."""

  side: int
  level: int
  lesions: int
  way: str
  dtype: str
  steps: int


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--sides", type=int, nargs="+", help="of the windows, px (32 48)")
  parser.add_argument("--counts", type=int, nargs="+", help="lesions at once (1 8 64)")
  parser.add_argument("--levels", type=int, nargs="+", help="only these (all)")
  parser.add_argument("--ways", nargs="+", default=["auto"], help="auto, patches, direct, vendor")
  parser.add_argument("--dtypes", nargs="+", default=["float32"], help="float32, bfloat16")
  parser.add_argument("--steps", type=int, help="iterations of a timed call (8 over the lesions)")
  parser.add_argument("--torch-steps", type=int, default=8, help="of a timed call of PyTorch")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps-per-level", type=int, help="to extrapolate to (300 on a CPU, 2000)")
  parser.add_argument("--at-once", type=int, help="lesions side by side (1 on a CPU, else all)")
  parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
  parser.add_argument(
    "--gpu-check", action="store_true", help="64 lesions of 64 px, 100 iterations"
  )
  options = parser.parse_args(argv)
  if not options.no_torch and not importlib.util.find_spec("torch"):
    raise UserError("PyTorch is what this compares with: pip install torch, or --no-torch")
  on_cpu = jax.default_backend() == "cpu"
  check = options.gpu_check
  sides = options.sides or ([64] if check else [32, 48])
  counts = options.counts or ([64] if check else [1, 8, 64])
  if options.at_once is None:
    options.at_once = 1 if on_cpu else 0
  options.steps_per_level = options.steps_per_level or (300 if on_cpu else 2000)
  facts = {
    "benchmark": "singan",
    **harness.environment(),
    "backend": jax.default_backend(),
    "steps_per_level": options.steps_per_level,
    "extrapolated": "from the timed iterations of each level; compilation left out",
    "rounds": options.rounds,
    "at_once": options.at_once,
    "channels": _CHANNELS,
  }
  rows: list[dict[str, Any]] = []
  for side in sides:
    numbers = options.levels or range(len(lesion_pyramid(side).sizes))
    cases = [
      Case(side, n, c, way, dtype, options.steps or (100 if check else max(1, 8 // c)))
      for n in numbers
      for c in counts
      for way in options.ways
      for dtype in options.dtypes
    ]
    rows += measure(cases, options)
  facts["levels"] = rows
  facts["lesions"] = lesions(rows, options.steps_per_level)
  facts |= cost.peak_memory()
  show(facts)
  harness.publish(facts, options.out)


def measure(cases: Sequence[Case], options: Any) -> list[dict[str, Any]]:
  """One row a case, and one of PyTorch a level: medians, level by level, both sides in turn."""
  print(f"compiling {len(cases)} programs", file=sys.stderr, flush=True)
  # Compilers run side by side; nothing is timed meanwhile.
  with concurrent.futures.ThreadPoolExecutor(min(16, len(cases))) as pool:
    programs = list(pool.map(lambda case: program(case, options.at_once), cases))
  rows = []
  for number in sorted({case.level for case in cases}):
    own = [(c, p) for c, p in zip(cases, programs, strict=True) if c.level == number]
    levels = lesion_pyramid(own[0][0].side)
    calls: dict[Any, Call] = {}
    for case, (compiled, _) in own:
      calls[case] = caller(case, compiled, options.at_once)
    if not options.no_torch:
      calls["torch"] = torch_caller(levels, number, options.torch_steps)
    print(f"timing level {number} of {len(levels.sizes)}", file=sys.stderr, flush=True)
    times = harness.interleaved(calls, options.rounds)
    size, channels = levels.sizes[number][0], width(number)
    about = {"side": own[0][0].side, "level": number, "size": size, "width": channels}
    for case, (_, seconds) in own:
      rows.append(
        about
        | {"by": "ours", "count": case.lesions, "way": case.way, "dtype": case.dtype}
        | {"compile_seconds": seconds}
        | _summary(times[case], case.steps)
      )
      print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if "torch" in calls:
      rows.append(
        about | {"by": "torch", "count": 1} | _summary(times["torch"], options.torch_steps)
      )
      print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    calls.clear()
  return rows


def _summary(seconds: list[float], steps: int) -> dict[str, Any]:
  low, median, high = (float(q) / steps for q in np.percentile(seconds, (10, 50, 90)))
  return {
    "steps_timed": steps,
    "seconds_per_step": median,
    "p10_seconds_per_step": low,
    "p90_seconds_per_step": high,
  }


def _task(case: Case, at_once: int) -> Any:
  config = settings.values("lesion", "best")
  config.conv = case.way
  crops = np.random.default_rng(0).uniform(-1, 1, (case.lesions, case.side, case.side, _CHANNELS))
  return lesion.build(
    config,
    [crops.astype(np.float32)],
    [np.ones(case.lesions, np.float32)],
    steps=case.steps,
    steps_per_call=case.steps,
    mesh=meshes.make_mesh(devices=jax.devices()[:1]),
    at_once=at_once,
    dtype=jnp.dtype(case.dtype),
  )


def program(case: Case, at_once: int) -> tuple[Any, float]:
  """-> (compiled step, seconds to compile, beside the others)."""
  task = _task(case, at_once)
  batch = dict(task.phases[0].batch)
  state = jax.eval_shape(task.init, jax.random.key(0))
  for phase in task.phases[1 : case.level + 1]:
    state = jax.eval_shape(phase.begin, state, batch)
  begin = time.perf_counter()
  lowered = jax.jit(task.train_step, donate_argnums=0).lower(state, batch, {}, np.int32(case.steps))
  return lowered.compile(compilation.options()), time.perf_counter() - begin


def caller(case: Case, compiled: Any, at_once: int) -> Call:
  """`steps` iterations of all lesions; the state is made at the first call."""
  task = _task(case, at_once)
  batch = jax.device_put(dict(task.phases[0].batch))
  holder: list[Any] = []
  quick = functools.partial(jax.jit, compiler_options=harness.QUICK)

  def call() -> None:
    if not holder:
      state = quick(task.init)(jax.random.key(0))
      for phase in task.phases[1 : case.level + 1]:
        state = quick(phase.begin)(state, batch)
      holder.append(state)
    holder[0], scalars = compiled(holder[0], batch, {}, np.int32(case.steps))
    jax.block_until_ready(scalars)

  return call


def torch_caller(levels: Pyramid, number: int, steps: int) -> Call:
  """`steps` iterations of one lesion's level in PyTorch, on the same kind of device."""
  import torch

  from tests.reference import singan

  device = harness.torch_device()
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  sizes = [size for size, _ in levels.sizes]
  resize = singan.resizer(sizes, levels.ratio, device)
  below: list[Any] = []
  for size in sizes[: number + 1]:
    real = torch.rand(1, _CHANNELS, size, size, device=device) * 2 - 1
    below.append(singan.Level(below, real, resize))
    if len(below) <= number:
      below[-1].freeze()
  level = below[-1]
  optimisers = singan.adam(level.generator), singan.adam(level.critic)

  def call() -> None:
    for _ in range(steps):
      level.step(*optimisers)
    if device == "cuda":
      torch.cuda.synchronize()

  return call


def lesions(rows: Sequence[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
  """What whole lesions take, for every window size whose levels were all timed."""
  found = []
  for side in sorted({row["side"] for row in rows}):
    total = len(lesion_pyramid(side).sizes)
    kinds = {(r["by"], r["count"], r.get("way"), r.get("dtype")) for r in rows if r["side"] == side}
    sums = {}
    for kind in kinds:
      own = [
        r["seconds_per_step"]
        for r in rows
        if r["side"] == side and (r["by"], r["count"], r.get("way"), r.get("dtype")) == kind
      ]
      if len(own) == total:
        sums[kind] = steps * sum(own)
    of_torch = next((s for kind, s in sums.items() if kind[0] == "torch"), None)
    for (by, count, way, dtype), seconds in sorted(sums.items(), key=str):
      found.append(
        {
          "side": side,
          "by": by,
          "count": count,
          "way": way,
          "dtype": dtype,
          "seconds_for_all": seconds,
          "seconds_per_lesion": seconds / count,
          "lesions_per_hour": 3600 * count / seconds,
          "times_torch": of_torch * count / seconds if of_torch else None,
        }
      )
  return found


def show(facts: dict[str, Any]) -> None:
  """Both tables."""
  console = Console(width=120)
  table = Table(title="one iteration, all lesions of it")
  for column in ("window", "level", "px", "width", "by", "lesions", "way", "ms", "compiled in s"):
    table.add_column(column, justify="right")
  for row in facts["levels"]:
    way = f"{row['way']} {row['dtype']}" if "way" in row else ""
    compiled = f"{row['compile_seconds']:.0f}" if "compile_seconds" in row else ""
    shown = (row["side"], row["level"], row["size"], row["width"], row["by"], row["count"], way)
    table.add_row(*map(str, shown), f"{1e3 * row['seconds_per_step']:.1f}", compiled)
  console.print(table)
  table = Table(title=f"lesions, extrapolated to {facts['steps_per_level']} iterations a level")
  for column in ("window", "by", "lesions", "way", "s for all", "s a lesion", "an hour", "x torch"):
    table.add_column(column, justify="right")
  for row in facts["lesions"]:
    ratio = row["times_torch"]
    table.add_row(
      *map(str, (row["side"], row["by"], row["count"], f"{row['way'] or ''} {row['dtype'] or ''}")),
      f"{row['seconds_for_all']:.1f}",
      f"{row['seconds_per_lesion']:.2f}",
      f"{row['lesions_per_hour']:.0f}",
      f"{ratio:.2f}" if ratio else "",
    )
  console.print(table)


if __name__ == "__main__":
  cli.run(main)
