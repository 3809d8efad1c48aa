"""The real training steps, compiled for an accelerator that is described and not there.

What the kernels move in a step, how many there are, and the floor of its time. `--out` keeps what
a file holds of other programs, as each takes minutes. See benchmarks/traffic.py for what counts.
"""

import collections
import json
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import harness, hlo, targets, traffic
from benchmarks.collectives import collectives
from hiresmed_jax import routes
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.devices import DEVICES

_DEAREST = 25
# The text is of interest, not the machine code, most of whose making these leave out. (The text of
# an HDFB's program was the same to the byte with them.)
_TEXT_ALONE: dict[str, Any] = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


class Program(NamedTuple):
  """A route's step: config, devices; of background: whether blocks are recomputed, and LPIPS.

  `triton` says whether products may be Triton's: without a device to time them XLA finds no tiles
  for some shapes ("Couldn't find output tile sizes"); cuBLAS takes those.
  """

  config: str
  remat: bool = False
  perceptual: bool = False
  devices: int = 1
  triton: bool = True


_PAPER, _BEST = "kub.py:background,paper", "kub.py:background,best"
PROGRAMS = {
  "paper": Program(_PAPER),
  "paper, recomputed": Program(_PAPER, remat=True),
  "best": Program(_BEST),
  "best, recomputed": Program(_BEST, remat=True),
  "paper, LPIPS": Program(_PAPER, perceptual=True),
  "best, recomputed, LPIPS": Program(_BEST, remat=True, perceptual=True),
  "paper, 8 devices": Program(_PAPER, devices=8),
  "paper, 32 devices": Program(_PAPER, devices=32),
  "location": Program("kub.py:location,paper", triton=False),
  "danger": Program("kub.py:danger,paper"),
  "DDM": Program("baselines/ddm.py"),
  "StyleSwin": Program("baselines/styleswin.py", triton=False),
  "VQGAN": Program("baselines/vqgan.py"),
}


def run(target: str, names: Sequence[str], out: pathlib.Path | None) -> None:
  """Compiles programs one after another, and writes each to `out` when it is done."""
  # A description may be compiled for only while no real accelerator is looked for.
  jax.config.update("jax_platforms", "cpu")
  programs: dict[str, Any] = {}
  if out and out.exists():
    programs = json.loads(out.read_text())["programs"]
  device = DEVICES[target]
  for name in names:
    programs[name] = facts(target, PROGRAMS[name])
    environment = harness.environment()
    programs[name] |= {key: environment[key] for key in ("date", "commit", "versions")}
    _print(name, programs[name])
    result = {
      "benchmark": "device_programs",
      "question": "what a training step moves on a device that is described",
      **environment,
      "device": f"{device.name}, described",
      "devices": 1,
      "programs": {key: programs[key] for key in PROGRAMS if key in programs},
    }
    harness.publish(result, out)


def facts(target: str, program: Program) -> dict[str, Any]:
  """The figures of a program on one device of its mesh, from the text of the compiled step."""
  begin = time.perf_counter()
  compiled, images, flops = compile_for(target, program)
  text = compiled.as_text()
  memory, found = compiled.memory_analysis(), count(text)
  return {
    "config": program.config,
    "recomputed": program.remat,
    "perceptual": program.perceptual,
    "devices": program.devices,
    "images": images,
    "triton": program.triton,
    "dtype": DEVICES[target].dtype,
    "compile_seconds": round(time.perf_counter() - begin),
    "temporary_bytes": memory.temp_size_in_bytes,
    "state_and_batch_bytes": memory.argument_size_in_bytes,
    "flops": flops,
    **found,
    **floor(target, found["bytes"], flops),
  }


def compile_for(target: str, program: Program) -> tuple[Any, list[int], float]:
  """The compiled step, its images [N,H,W] on one device, and the FLOPs of its trace there."""
  made = targets.devices(target, program.devices)
  task, batch = planned(program, DEVICES[target].dtype)
  mesh = meshes.make_mesh(data=program.devices, devices=made)
  whole, split = meshes.replicated(mesh), meshes.batch_sharding(mesh)
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  shards = meshes.state_shardings(shapes, mesh)
  fed = meshes.with_shardings(batch, jax.tree.map(lambda _: split, batch))
  frozen = meshes.with_shardings(task.frozen, jax.tree.map(lambda _: whole, task.frozen))
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=(shards, whole))
  traced = step.trace(meshes.with_shardings(shapes, shards), fed, frozen)
  flops = sum(cost.flops(traced.jaxpr.jaxpr).values()) / program.devices
  options = None
  if targets.is_gpu(target):
    options = _TEXT_ALONE | {"xla_gpu_enable_triton_gemm": program.triton}
  count, *size, _ = batch["images_m11"].shape
  return traced.lower().compile(options), [count // program.devices, *size], flops


def planned(program: Program, dtype: str) -> tuple[Task, Mapping[str, Any]]:
  """The task of a program and the shapes of its batch, as the route's own `explain` plans them."""
  config = configs.load_config(program.config, ())
  values, found = config[config.route], []
  values.dtype, values.batch_size = dtype, values.batch_size * program.devices
  if config.route == "background":
    values.net.remat = program.remat
    values.perceptual.net = values.perceptual.net if program.perceptual else None

  def note(task: Task, batch: Mapping[str, Any]) -> dict[str, Any]:
    found.append((task, batch))
    return {}

  explain = routes.module(config.route, "explain").explain
  explain(config, devices=program.devices, on_this_machine=note)
  return found[0]


def count(text: str) -> dict[str, Any]:
  """What the kernels of one device do in a whole step."""
  program = hlo.parse(text)
  kernels = traffic.kernels(program)
  kinds: dict[str, dict[str, int]] = {}
  for kernel in kernels:
    kind = kinds.setdefault(kernel.kind, {"kernels": 0, "bytes": 0})
    kind["kernels"] += kernel.times
    kind["bytes"] += kernel.bytes
  return {
    "kernels": sum(k.times for k in kernels),
    "bytes": sum(k.bytes for k in kernels),
    "float32_bytes": sum(k.times * k.wide for k in kernels),
    "flops_outside": sum(k.times * k.flops for k in kernels),
    "kinds": dict(sorted(kinds.items())),
    "collectives": {k: t._asdict() for k, t in collectives(program).items()},
    "modules": _modules(kernels),
    "dearest": [
      {"bytes": k.bytes, "kind": k.kind, "module": k.module, "source": k.source, "arrays": k.shapes}
      for k in sorted(kernels, key=lambda k: -k.bytes)[:_DEAREST]
    ],
  }


def floor(target: str, moved: int, flops: float) -> dict[str, float]:
  """Least milliseconds of a step by its traffic, by its arithmetic, and the larger of both."""
  device = DEVICES[target]
  by_traffic, by_flops = moved / device.bytes_per_second, flops / device.flops_per_second
  return {
    "floor_by_traffic_ms": round(1e3 * by_traffic, 1),
    "floor_by_arithmetic_ms": round(1e3 * by_flops, 1),
    "floor_ms": round(1e3 * max(by_traffic, by_flops), 1),
  }


def _modules(kernels: Iterable[traffic.Kernel]) -> dict[str, int]:
  """Bytes by part of the networks, two levels."""
  found: dict[str, int] = collections.defaultdict(int)
  for kernel in kernels:
    found["/".join(kernel.module.removesuffix(", back").split("/")[:2]) or "other"] += kernel.bytes
  return dict(sorted(found.items(), key=lambda item: -item[1])[:_DEAREST])


def _print(name: str, found: Mapping[str, Any]) -> None:
  title = (
    f"{name}: {found['bytes'] / 1e9:.1f} GB by {found['kernels']} kernels, "
    f"{found['temporary_bytes'] / 1e9:.1f} GB of temporaries, floor {found['floor_ms']} ms"
  )
  table = Table("GB", "kind", "module", "source", "arrays", title=title)
  for one in found["dearest"]:
    cells = (one["kind"], one["module"], one["source"], one["arrays"])
    table.add_row(f"{one['bytes'] / 1e9:.2f}", *cells)
  Console().print(table)
