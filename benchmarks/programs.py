"""What does a training step cost, as it is traced and as it is compiled?

  python -m benchmarks.programs --out benchmarks/results/programs_cpu.json

Nothing is run or timed. Of the trace, on one device: FLOPs and the peak of intermediate bytes, as
`explain` shows them. Of the compiled step: the compiler's FLOPs, bytes accessed and memory; for
meshes of 8, 64 and 256 devices, which need not exist, memory and collectives of one device. Tests
compare them with the committed file, so that a costlier program is found without a clock; the
command above accepts a change. It takes 2 minutes on 2 cores, most of it in the compiler.

The compiler is XLA's for the CPU. It partitions as every backend does, but later steps differ:
those of a GPU or a TPU make one reduce-scatter of an all-reduce and a slice, and overlap
communication with computation. With `--target` it is that of a described device, and what the
kernels move is counted: benchmarks/device_programs.py.

  python -m benchmarks.programs --target h200 --only paper --out programs_h200.json
"""

import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
from rich.console import Console
from rich.table import Table

from benchmarks import device_programs, harness, hlo
from benchmarks.collectives import collectives
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes.background import explain
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.devices import DEVICES

COMMITTED = pathlib.Path(__file__).parent / "results" / "programs_cpu.json"
PARTS = ("traced", "compiled")
_COMMAND = "python -m benchmarks.programs --out benchmarks/results/programs_cpu.json"


class Program(NamedTuple):
  """A training step: its config, changes of it, the mesh, and whether it is compiled, too."""

  config: str
  changes: tuple[str, ...] = ()
  data: int = 1
  fsdp: int = 1
  compiled: bool = True


def _wide(data: int, fsdp: int) -> Program:
  """Parameters large enough for the axis "fsdp" to split them; one small image a device."""
  changes = ("net.channels=512,", "codebook.num_codes=256", f"batch_size={data * fsdp}")
  small = ("data.size=(32,32)", "data.crop=0")
  return Program("demo.py", (*small, *(f"background.{c}" for c in changes)), data, fsdp)


class Step(NamedTuple):
  """A compiled step, (state, batch, {}) -> (state, scalars), and the program that makes a state."""

  mesh: jax.sharding.Mesh
  init: Any
  step: Any


PROGRAMS = {
  "demo, hdfb": Program("demo.py"),
  "demo, residual": Program("demo.py", ("background.net.block=residual",)),
  "kub, paper": Program("kub.py:background,paper", compiled=False),
  "kub, best": Program("kub.py:background,best", compiled=False),
  "wide, 8 x 1": _wide(8, 1),
  "wide, 1 x 8": _wide(1, 8),
  "wide, 2 x 4": _wide(2, 4),
  "wide, 8 x 8": _wide(8, 8),
  "wide, 32 x 8": _wide(32, 8),
}


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--only", nargs="+", metavar="NAME", help="some programs")
  parser.add_argument("--target", choices=DEVICES, help="compile for this device, described")
  options = parser.parse_args(argv)
  known = device_programs.PROGRAMS if options.target else PROGRAMS
  if unknown := sorted(set(options.only or ()) - set(known)):
    raise UserError(f"no program {unknown[0]!r}: {', '.join(known)}")
  if options.target:
    device_programs.run(options.target, options.only or list(known), options.out)
    return
  chosen = {name: PROGRAMS[name] for name in options.only or PROGRAMS}
  jax.config.update("jax_platforms", "cpu")
  most = max(program.data * program.fsdp for program in chosen.values())
  jax.config.update("jax_num_cpu_devices", most)
  facts = {
    "question": "what a training step costs, traced and compiled",
    **harness.environment(),
    "compiler": compiler(),
    "programs": {name: figures(program) for name, program in chosen.items()},
  }
  _print(facts["programs"])
  harness.publish(facts, options.out)


def compiler() -> dict[str, str]:
  """Compiled figures are comparable only where this is equal."""
  return {"jaxlib": jaxlib.__version__, "machine": platform.machine()}


def figures(program: Program, *, parts: Sequence[str] = PARTS) -> dict[str, Any]:
  """{"traced": of the whole step on one device, "compiled": of one device's share}."""
  config = configs.load_config(program.config, program.changes)
  facts: dict[str, Any] = {
    "mesh": {"data": program.data, "fsdp": program.fsdp},
    "images": config.background.batch_size,
    "size": list(_size(config)),
  }
  if "traced" in parts and program.data * program.fsdp == 1:
    facts["traced"] = traced(config)
  if "compiled" in parts and program.compiled:
    facts["compiled"] = compiled(compile_step(config, data=program.data, fsdp=program.fsdp).step)
  return facts


def traced(config: Any) -> dict[str, Any]:
  """The figures of `explain` for the step, on one device, in bfloat16."""
  values = config.copy_and_resolve_references()
  values.background.dtype = "bfloat16"
  facts = explain.explain(values, devices=1, on_this_machine=lambda *_: {})
  return {
    "flops": facts["flops_per_image"]["training step"] * config.background.batch_size,
    "intermediate_bytes": facts["memory_per_device"]["intermediates and gradients"],
    "parameters": facts["parameters"]["generator"] + facts["parameters"]["discriminator"],
  }


def compile_step(config: Any, *, data: int, fsdp: int, quick: bool = True) -> Step:
  """The training step in float32 without a perceptual loss, for the first devices there are."""
  values, size = config.background, _size(config)
  task = background.build(
    values,
    channels=config.data.channels,
    size=size,
    steps=1000,
    steps_per_epoch=100,
  )
  mesh = meshes.make_mesh(data=data, fsdp=fsdp, devices=jax.devices()[: data * fsdp])
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  shards = meshes.state_shardings(shapes, mesh)
  images = jax.ShapeDtypeStruct(
    (values.batch_size, *size, 1), jnp.float32, sharding=meshes.batch_sharding(mesh)
  )
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=(shards, meshes.replicated(mesh)))
  lowered = step.lower(meshes.with_shardings(shapes, shards), {"images_m11": images}, {})
  init = jax.jit(task.init, out_shardings=shards, compiler_options=harness.QUICK)
  return Step(mesh, init, lowered.compile(harness.QUICK if quick else None))


def compiled(step: Any) -> dict[str, Any]:
  """The compiler's figures for one device's share of a step."""
  analysis, memory = step.cost_analysis(), step.memory_analysis()
  return {
    "flops": analysis["flops"],
    "bytes_accessed": analysis["bytes accessed"],
    "state_and_batch_bytes": memory.argument_size_in_bytes,
    "intermediate_bytes": memory.temp_size_in_bytes,
    "collectives": {k: t._asdict() for k, t in collectives(hlo.parse(step.as_text())).items()},
  }


def costlier(
  name: str, now: Mapping[str, Any], committed: Mapping[str, Any], *, tolerance: float = 0.02
) -> list[str]:
  """A line for each figure that has grown by more than `tolerance`, and each new collective."""
  old = dict(_flat(committed))
  lines = [
    f"{name}: {key} was {old.get(key, 0):,.0f} and is {value:,.0f}"
    for key, value in _flat(now)
    if value > old.get(key, 0) * (1 + tolerance)
  ]
  return [*lines, f"if this is meant: {_COMMAND}"] if lines else []


def _size(config: Any) -> tuple[int, int]:
  """(rows, columns) of what a step trains on."""
  return (config.data.crop, config.data.crop) if config.data.crop else tuple(config.data.size)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
  for key, value in figures.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{key} ")
    else:
      yield prefix + key, value


def _print(programs: Mapping[str, Any]) -> None:
  one = Table(
    "program", "", "GFLOPs", "GB accessed", "MB between", title="one device, a whole step"
  )
  many = Table(
    "data x fsdp", "MB state", "MB between", "MB sent", "collectives", title="one of many"
  )
  for name, facts in programs.items():
    sides, trace, program = facts["mesh"], facts.get("traced"), facts.get("compiled")
    if trace:
      one.add_row(name, "traced", _scaled(trace["flops"], 1e9), "", _mega(trace))
    if program and not program["collectives"]:
      cells = (_scaled(program["flops"], 1e9), _scaled(program["bytes_accessed"], 1e9))
      one.add_row(name, "compiled", *cells, _mega(program))
    elif program:
      kinds = program["collectives"]
      many.add_row(
        f"{sides['data']} x {sides['fsdp']}",
        _scaled(program["state_and_batch_bytes"], 1e6),
        _mega(program),
        _scaled(sum(t["bytes"] for t in kinds.values()), 1e6),
        ", ".join(f"{t['times']} {kind}" for kind, t in kinds.items()),
      )
  for table in (one, many):
    if table.row_count:
      Console().print(table)


def _mega(figures: Mapping[str, Any]) -> str:
  return _scaled(figures["intermediate_bytes"], 1e6)


def _scaled(value: float, unit: float) -> str:
  return f"{value / unit:,.1f}"


if __name__ == "__main__":
  cli.run(main)
