"""Does a training step scale? Strong and weak, over the axes "data" and "fsdp", over processes.

  python -m benchmarks.scaling --out benchmarks/results/scaling_cpu.json

On GPUs or TPUs it uses 1, 2, 4 and 8 of the devices. On the CPU it uses eight virtual devices, and
then IT MEASURES OVERHEAD, NOT SPEED-UP: eight devices share the same cores, so that images per
second cannot grow, and their loss is the cost of partitioning. Strong: the same batch over more
devices; weak: the same number of images for each. Bytes sent are read from the compiled program
(benchmarks/collectives.py). The last rows are two processes that communicate through gloo or NCCL.
Some 5 minutes on 2 cores, most of them in the compiler.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import harness, hlo
from benchmarks.collectives import collectives
from benchmarks.programs import compile_step
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import mesh as meshes

VIRTUAL = 8
_LAUNCHER = pathlib.Path(__file__).parents[1] / "launch" / "local.sh"
# Wide enough for "fsdp" to have parameters to split (2^20 elements). Two cores compute all virtual
# devices: their step is as small as possible and has no discriminator.
_WHOLE = ("data.crop=0", "background.codebook.num_codes=256")
_VIRTUAL = (
  *(*_WHOLE, "data.size=(16,16)", "background.net.channels=352,"),
  *("background.net.block=residual", "background.gan.weight=0"),
)
_REAL = (*_WHOLE, "data.size=(256,256)", "background.net.channels=512,")


class Case(NamedTuple):
  """A training step over `data` x `fsdp` devices."""

  scaling: str
  data: int
  fsdp: int
  batch: int


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--devices", type=int, nargs="+", help="how many (1 2 4 8, as there are)")
  parser.add_argument("--images", type=int, help="of a device (1 on virtual ones, else 8)")
  parser.add_argument("--steps", type=int, default=8, help="timed, after 3 that are not")
  parser.add_argument("--processes", type=int, default=2, help="1 leaves several processes out")
  parser.add_argument("--override", action="append", default=[], help="config.key=value, repeated")
  parser.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  if options.worker:
    _work(options)
    return
  if max(options.devices or [VIRTUAL]) % options.processes:
    parser.error(
      f"{options.processes} processes cannot share {max(options.devices)} devices evenly"
    )
  facts = _launch(1, options)
  few = not facts["virtual_devices"] and facts["devices"] < options.processes
  if few:
    print(f"{options.processes} processes need as many devices: left out")
  elif options.processes > 1:
    facts["rows"] += _launch(options.processes, options)["rows"]
  _print(facts)
  harness.publish(facts, options.out)


def cases(counts: Sequence[int], images: int, *, processes: int = 1) -> Iterator[Case]:
  """Strong scaling to the largest count, and weak; with several processes the largest alone."""
  most = max(counts)
  for count in counts if processes == 1 else [most]:
    for scaling, batch in (("strong", most * images), ("weak", count * images)):
      if (count == most and scaling == "strong") or batch % count:
        continue  # the same program as weak scaling's
      yield Case(scaling, count, 1, batch)
      if count > 1:
        yield Case(scaling, 1, count, batch)


def _launch(processes: int, options: Any) -> dict[str, Any]:
  """Measures in other processes, so that this one never holds a device."""
  with tempfile.TemporaryDirectory() as folder:
    found = pathlib.Path(folder) / "rows.json"
    given = ["--steps", str(options.steps), "--processes", str(processes), "--worker", str(found)]
    given += ["--images", str(options.images)] if options.images else []
    given += [f"--override={override}" for override in options.override]
    if options.devices:
      given += ["--devices", *map(str, options.devices)]
    command = [sys.executable, "-m", "benchmarks.scaling", *given]
    if processes > 1:
      command = ["bash", str(_LAUNCHER), str(processes), *command]
    code = subprocess.run(command, check=False).returncode
    if code:
      sys.exit(code)
    return json.loads(found.read_text())


def _work(options: Any) -> None:
  # This changes only the CPU's devices.
  jax.config.update("jax_num_cpu_devices", max(options.devices or [VIRTUAL]) // options.processes)
  meshes.initialize_distributed()
  about = harness.environment()
  there = jax.device_count()
  counts = options.devices or [count for count in (1, 2, 4, 8) if count <= there]
  if max(counts) > there:
    print(f"error: {max(counts)} devices asked for, but there are {there}", file=sys.stderr)
    sys.exit(2)
  virtual = jax.default_backend() == "cpu"
  images = options.images or (1 if virtual else 8)
  overrides = [*(_VIRTUAL if virtual else _REAL), *options.override]
  chosen = list(cases(counts, images, processes=options.processes))
  rows = [_measure(case, overrides, steps=options.steps, quick=virtual) for case in chosen]
  if jax.process_index() == 0:
    facts = {
      "question": "how a training step scales with devices and processes",
      "virtual_devices": virtual,
      "config": ["demo.py", *overrides],
      "steps": options.steps,
      **about,
      "rows": rows,
    }
    options.worker.write_text(json.dumps(facts))


def _measure(case: Case, overrides: Sequence[str], *, steps: int, quick: bool) -> dict[str, Any]:
  """One row; with `quick` the program compiles sooner and runs slower than that of a run."""
  config = configs.load_config("demo.py", [*overrides, f"background.batch_size={case.batch}"])
  began = time.perf_counter()
  program = compile_step(config, data=case.data, fsdp=case.fsdp, quick=quick)
  compiled = time.perf_counter() - began
  batch = np.random.default_rng(0).uniform(-1, 1, (case.batch, *config.data.size, 1))
  share = np.array_split(batch.astype(np.float32), jax.process_count())[jax.process_index()]
  images = meshes.put_batch({"images_m11": share}, meshes.batch_sharding(program.mesh))
  state = program.init(jax.random.key(0))
  seconds = []
  for step in range(3 + steps):
    began = time.perf_counter()
    state, scalars = program.step(state, images, {})
    jax.block_until_ready((state, scalars))
    if step >= 3:
      seconds.append(time.perf_counter() - began)
  if not all(np.isfinite(float(value)) for value in scalars.values()):
    print(f"error: the step of {case} is not finite", file=sys.stderr)
    sys.exit(2)
  traffic = collectives(hlo.parse(program.step.as_text()))
  median = statistics.median(seconds)
  devices = case.data * case.fsdp
  return {
    **case._asdict(),
    "devices": devices,
    "processes": jax.process_count(),
    "step_seconds": median,
    "step_seconds_p90": float(np.quantile(seconds, 0.9)),
    "images_per_second": case.batch / median,
    "images_per_second_per_device": case.batch / median / devices,
    "bytes_sent_per_device": sum(t.bytes for t in traffic.values()),
    "collectives": {kind: t._asdict() for kind, t in traffic.items()},
    "compile_seconds": compiled,
  }


def _print(facts: dict[str, Any]) -> None:
  title = f"{facts['device']}, {facts['cores']} cores"
  if facts["virtual_devices"]:
    title += "\nvirtual devices share these cores: this is overhead, not speed-up"
  columns = ("devices", "processes", "batch", "ms a step", "images/s", "a device", "MB sent")
  table = Table("scaling", "data x fsdp", *columns, title=title)
  for row in facts["rows"]:
    table.add_row(
      row["scaling"],
      f"{row['data']} x {row['fsdp']}",
      *(str(row[key]) for key in ("devices", "processes", "batch")),
      f"{row['step_seconds'] * 1e3:.1f}",
      f"{row['images_per_second']:.1f}",
      f"{row['images_per_second_per_device']:.1f}",
      f"{row['bytes_sent_per_device'] / 1e6:.2f}",
    )
  Console().print(table)


if __name__ == "__main__":
  cli.run(main)
