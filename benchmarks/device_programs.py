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
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import harness, hlo, targets, traffic
from benchmarks.collectives import collectives
from hiresmed_jax.routes.background import explain
from hiresmed_jax.routes.background import task as background
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
  """A step of the route `background`: preset, whether blocks are recomputed, LPIPS, devices."""

  preset: str
  remat: bool = False
  perceptual: bool = False
  devices: int = 1


PROGRAMS = {
  "paper": Program("paper"),
  "paper, recomputed": Program("paper", remat=True),
  "best": Program("best"),
  "best, recomputed": Program("best", remat=True),
  "paper, LPIPS": Program("paper", perceptual=True),
  "best, recomputed, LPIPS": Program("best", remat=True, perceptual=True),
  "paper, 8 devices": Program("paper", devices=8),
  "paper, 32 devices": Program("paper", devices=32),
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
  compiled, flops = compile_for(target, program)
  text = compiled.as_text()
  memory, found = compiled.memory_analysis(), count(text)
  return {
    "config": f"kub.py:background,{program.preset}",
    "recomputed": program.remat,
    "perceptual": program.perceptual,
    "devices": program.devices,
    "dtype": DEVICES[target].dtype,
    "compile_seconds": round(time.perf_counter() - begin),
    "temporary_bytes": memory.temp_size_in_bytes,
    "state_and_batch_bytes": memory.argument_size_in_bytes,
    "flops": flops,
    **found,
    **floor(target, found["bytes"], flops),
  }


def compile_for(target: str, program: Program) -> tuple[Any, float]:
  """The compiled step, and the FLOPs of its trace for one device."""
  made = targets.devices(target, program.devices)
  config = configs.load_config(f"kub.py:background,{program.preset}", ())
  values = config.background
  values.net.remat = program.remat
  distance, weights = None, None
  if program.perceptual:
    trunk = jnp.bfloat16 if values.perceptual.bfloat16 else jnp.float32
    distance, weights = explain.perceptual(values.perceptual.net, trunk)
  task = background.build(
    values,
    channels=config.data.channels,
    size=tuple(config.data.size),
    steps=1000,
    steps_per_epoch=100,
    dtype=jnp.dtype(DEVICES[target].dtype),
    distance=distance,
    distance_params=weights,
  )
  mesh = meshes.make_mesh(data=program.devices, devices=made)
  whole, split = meshes.replicated(mesh), meshes.batch_sharding(mesh)
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  shards = meshes.state_shardings(shapes, mesh)
  batch = (values.batch_size * program.devices, *config.data.size, 1)
  images = jax.ShapeDtypeStruct(batch, jnp.float32, sharding=split)
  frozen = meshes.with_shardings(task.frozen, jax.tree.map(lambda _: whole, task.frozen))
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=(shards, whole))
  traced = step.trace(meshes.with_shardings(shapes, shards), {"images_m11": images}, frozen)
  flops = sum(cost.flops(traced.jaxpr.jaxpr).values()) / program.devices
  options = _TEXT_ALONE if targets.is_gpu(target) else None
  return traced.lower().compile(options), flops


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
