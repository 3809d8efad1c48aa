"""What a config amounts to, by shapes alone: facts for JSON, lines for a person.

Tables are laid out here and not by `clu.parameter_overview`, which lists arrays one by one: these
have a line for a module, with its output and its FLOPs.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from hiresmed_jax import routes
from hiresmed_jax.routes import settings
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import compilation, cost
from hiresmed_jax.runtime import devices as accelerators
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.overrides import leaves
from hiresmed_jax.runtime.progress import duration
from hiresmed_jax.runtime.settings import keyed

Facts = dict[str, Any]  # nested values that JSON can hold: bytes, FLOPs (a multiply-add is two), px
# (task, shapes of a batch) -> facts of its training step on the devices that are here; {} where
# none were asked for.
Measure: TypeAlias = Callable[[Task, Mapping[str, Any]], Facts]
_TIMED = 3  # steps, after a first one
_SMALL_STEP_MS = 5.0  # of a smaller step, launches of kernels and reading decide the time


def explain(
  config: Any, *, devices: int, compiled: bool = False, timed: bool = False, target: str = ""
) -> Facts:
  """The facts of a checked config, planned for a number of devices that need not exist.

  Args:
    config: its values.
    devices: how many.
    compiled: also compile the training step for the devices that are here, where a route can.
    timed: run some steps of it as well, on images of zeros.
    target: one of `runtime.devices.DEVICES`, for which convolutions of dtype "auto" are planned.

  Returns:
    {"config": its name, route and preset; "mesh": devices, their kind, sizes of the axes;
    "departures" of what all routes share; for each route by name: the facts of its own `explain`,
    "images_per_device" and "length" of the training, where it has batches, "target": what is
    predicted for it, and "departures"}.
  """
  facts: Facts = {"config": {key: config[key] for key in ("name", "route", "preset")}}
  data, fsdp = meshes.axis_sizes(devices, data=config.mesh.data, fsdp=config.mesh.fsdp)
  device = accelerators.DEVICES.get(target)
  kind = device.name if device else jax.devices()[0].device_kind
  facts["mesh"] = {"devices": devices, "kind": kind, "data": data, "fsdp": fsdp}

  def measure(task: Task, batch: Mapping[str, Any]) -> Facts:
    if not (compiled or timed):
      return {}
    return {"compiled": _compiled(task, batch, config, timed=timed)}

  facts["departures"] = _departures(config, "data") + _departures(config, "synthesize")
  planned = config.copy_and_resolve_references()
  for route in settings.wanted(config):
    if device and planned[route].dtype == "auto":
      planned[route].dtype = device.dtype
    facts[route] = _module(route).explain(planned, devices=devices, on_this_machine=measure)
    if "batch_size" in config[route]:
      facts[route]["images_per_device"] = config[route].batch_size // devices
      steps, epochs = config[route].steps, config[route].get("epochs", 0)
      facts[route]["length"] = {"steps": steps} if steps else {"epochs": epochs}
    if device:
      facts[route]["target"] = _predicted(facts[route], device)
    facts[route]["departures"] = _departures(config, route)
  return facts


def lines(facts: Facts) -> Iterator[str]:
  """The same as text: a summary of at most ten lines, the routes in detail, the departures."""
  found = [route for route in routes.known() if route in facts]
  yield from _summary(facts, found)
  for route in found:
    yield from ("", f"ROUTE {route}", *_module(route).lines(facts[route]))
    if "images_per_device" in facts[route]:
      yield f"{facts[route]['images_per_device']} images a device"
    if "compiled" in facts[route]:
      yield from _compiled_lines(facts[route])
  yield from ("", "DEPARTURES from the paper")
  by_reason: dict[str, list[str]] = {}
  for row in _all_departures(facts, found):
    line = f"  {row['what']}: paper {row['paper'] or 'nothing'}; here {row['ours']}"
    by_reason.setdefault(row["reason"], []).append(line)
  for reason, differences in by_reason.items():
    yield from (*differences, f"    because {reason}")


def every_setting(config: Any) -> list[Facts]:
  """Key, value, what is valid and why it may differ from the paper, of every setting."""
  values = dict(leaves(config))
  return [
    {"key": key, "value": values[key], "use": row.valid.use, "why": row.why}
    for key, row in keyed(settings.tables()).items()
  ]


def setting_lines(rows: Sequence[Facts]) -> Iterator[str]:
  """The same as text, two lines a setting."""
  for row in rows:
    yield f"{row['key']} = {row['value']!r}"
    yield f"  use {row['use']}" + (f"; not the paper's: {row['why']}" if row["why"] else "")


def count(tree: Any) -> int:
  """How many parameters a pytree of arrays, or of their shapes, has."""
  # clu counts nested dicts; there are lists among these trees.
  return int(parameter_overview.count_parameters(dict(enumerate(jax.tree.leaves(tree)))))


def forward(net: nn.Module, *shape: int) -> tuple[int, float]:
  """(parameters, FLOPs of one image) of a network with batch norms. shape: [1, H, W, C]."""
  image = jax.ShapeDtypeStruct(shape, jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  work = cost.flops(cost.trace(net.apply, variables, image))
  return count(variables["params"]), sum(work.values())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
  """Columns as wide as they must be; text to the left, numbers to the right. head: [] for none."""
  shown = [head, *rows] if head else rows
  widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
  for row in shown:
    cells = [
      cell.rjust(width) if row[i][:1].isdigit() or (row is head and i >= 3) else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    yield "  " + "  ".join(cells).rstrip()


def in_bytes(number: float) -> str:
  """ "1.50 GiB" or "3.2 MiB"."""
  return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"


def _predicted(facts: Facts, device: accelerators.Device) -> Facts:
  """What the training of a route would be on a device; {} where its work is not counted."""
  flops, memory = _training_flops(facts), facts.get("memory_per_device")
  if not flops or "images_per_device" not in facts:
    return {}
  images, needed = facts["images_per_device"], memory and memory["total"]
  found = {"device": device.name, "memory": device.memory, "needed": needed}
  return found | accelerators.predict(
    device,
    images=images,
    flops=flops * images,
    moved=facts.get("bytes_moved_per_step"),
    steps=facts["length"].get("steps"),
  )


def _compiled(task: Task, batch: Mapping[str, Any], config: Any, *, timed: bool) -> Facts:
  """The compiler's own account of the training step on the devices that are here, and its time."""
  mesh = meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
  whole, split = meshes.replicated(mesh), meshes.batch_sharding(mesh)
  state = jax.eval_shape(task.init, jax.random.key(0))
  shards = task.shardings(state, mesh)
  images = task.phases[0].batch_size
  given = (
    meshes.with_shardings(state, shards), _with_sharding(batch, split),
    _with_sharding(task.frozen, whole),
  )  # fmt: skip
  began = time.perf_counter()
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=(shards, whole))
  lowered = step.lower(*given)
  compiled = lowered.compile(compilation.options())
  seconds = time.perf_counter() - began
  memory: Any = compiled.memory_analysis()
  sizes = memory and {
    "arguments": memory.argument_size_in_bytes,
    "intermediates": memory.temp_size_in_bytes,
    "results in place of arguments": memory.alias_size_in_bytes,
    "program": memory.generated_code_size_in_bytes,
  }
  facts = {
    "backend": f"{jax.default_backend()} ({jax.devices()[0].device_kind})",
    "devices": mesh.size,
    "seconds_to_compile": seconds,
    "flops_per_image": cost.xla_flops(lowered) / images,
    "bytes_per_device": sizes or {},  # not every backend tells
  }
  return facts | ({"seconds_per_step": _time(task, compiled, given, shards)} if timed else {})


def _time(task: Task, step: Any, given: Sequence[Any], shards: Any) -> float:
  """Seconds of a step, median of a few: the last one of the run, in which all of it is at work."""
  quick = {"xla_backend_optimization_level": 0}
  init = jax.jit(task.init, out_shardings=shards, compiler_options=quick)
  state = dataclasses.replace(init(jax.random.key(0)), step=np.int32(task.phases[0].steps - 1))
  state = jax.device_put(state, shards)
  batch, frozen = jax.tree.map(
    lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), given[1:]
  )
  seconds = []
  for _ in range(1 + _TIMED):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(step(state, batch, frozen))
    seconds.append(time.perf_counter() - began)
  return statistics.median(seconds[1:])


def _compiled_lines(facts: Facts) -> Iterator[str]:
  here = facts["compiled"]
  yield ""
  yield (
    f"compiled for {here['devices']} x {here['backend']} in {here['seconds_to_compile']:.0f} s: "
    "this backend's own figures"
  )
  yield from table(
    (), [(f"{k}, per device", in_bytes(v)) for k, v in here["bytes_per_device"].items()]
  )
  flops = f"{here['flops_per_image'] / 1e9:,.1f}"
  yield from table((), [("GFLOP per image, training step", flops)])


def _with_sharding(tree: Any, sharding: Any) -> Any:
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
  )


def _module(route: str) -> Any:
  return routes.module(route, "explain")


def _departures(config: Any, group: str) -> list[dict[str, str]]:
  return [departure._asdict() for departure in settings.departures(config, group)]


def _all_departures(facts: Facts, found: Sequence[str]) -> list[dict[str, str]]:
  """Those of the routes, then those of what all routes share, none twice."""
  parts = [*(facts[route] for route in found), facts]
  every = [row for part in parts for row in part["departures"]]
  return list({tuple(row.values()): row for row in every}.values())


def _summary(facts: Facts, found: Sequence[str]) -> Iterator[str]:
  """What is trained, for how long, with what work and memory: at most ten lines and, where a target
  was named, one more for each route."""
  mesh = facts["mesh"]
  yield f"{facts['config']['name']}, preset {facts['config']['preset']}: {', '.join(found)}"
  yield f"{mesh['devices']} x {mesh['kind']}, mesh of data {mesh['data']}, fsdp {mesh['fsdp']}"
  for route in found:
    yield f"{route}: {_brief(facts[route])}"
    if "memory_per_device" in facts[route]:
      total = in_bytes(facts[route]["memory_per_device"]["total"])
      yield f"{route}: {total} of memory a device, estimated from shapes"
    if "target" in facts[route]:
      yield f"{route}: {_prediction(facts[route]['target'])}"
    if "seconds_per_step" in facts[route].get("compiled", ()):
      yield f"{route}: {_duration(facts[route])}"
  departures = len(_all_departures(facts, found))
  yield f"departures from the paper: {departures}, each with its reason at the end"
  if not any("seconds_per_step" in facts[route].get("compiled", ()) for route in found):
    yield "how long: --time tries some steps on this machine; docs/hardware.md has measured runs"
  yield "below: networks, work and memory of each route; --json gives the same to a program"


def _duration(facts: Facts) -> str:
  seconds = facts["compiled"]["seconds_per_step"]
  line = f"{seconds:.3g} s a step here, median of {_TIMED}"
  ((unit, length),) = facts["length"].items()
  if unit == "steps":
    line += f": {length:,} steps in {duration(seconds * length)}"
  else:
    line += f", of {facts['images_per_device']} images a device"
  return f"{line}; reading, compilation and evaluations come on top"


def _training_flops(facts: Facts) -> float:
  """Of one image; 0 where they are not counted."""
  work = facts.get("flops_per_image")
  # A backward pass costs about two forward passes.
  return float(work["training step"] if isinstance(work, dict) else 3 * (work or 0))


def _prediction(facts: Facts) -> str:
  """What to expect of a device, in a line."""
  if not facts:
    return "its work on an accelerator is not predicted"
  line, speed = f"on one {facts['device']}, predicted: ", facts["images_per_second"]
  if facts["needed"] is not None:
    line += "fits" if facts["needed"] <= facts["memory"] else "does not fit"
    line += f" ({in_bytes(facts['needed'])} of {in_bytes(facts['memory'])}); "
  if facts["least_ms"] < _SMALL_STEP_MS:
    return line + f"a step's own work takes {facts['least_ms']:.2g} ms: what starts it decides"
  line += (
    f"a step takes {facts['least_ms']:,.0f} ms or more, by its {facts['by']}: "
    f"{_rounded(speed['at_most'])} images a second at most, some {_rounded(speed['expected'])} "
    "expected"
  )
  if "hours" in facts:
    hours = facts["hours"]
    line += f", {duration(3600 * hours['expected'])} in all"
  return line


def _rounded(number: float) -> str:
  return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _brief(facts: Facts) -> str:
  """A route in a line: parameters, length, work."""
  if "windows" in facts:
    sizes = [window["parameters"] for window in facts["windows"].values()]
    steps = ", ".join(f"{number:,} steps {name}" for name, number in facts["steps"].items())
    span = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
    return f"a SinGAN of {span} parameters for each {facts.get('of', 'lesion')}; {steps}"
  parameters, flops = facts["parameters"], _training_flops(facts)
  trained = (
    parameters
    if isinstance(parameters, int)
    else sum(number for name, number in parameters.items() if "frozen" not in name)
  )
  ((unit, length),) = facts["length"].items()
  batch = facts["images_per_device"]
  line = f"{trained:,} parameters; {length:,} {unit} of {batch} images a device"
  if not flops:
    return line
  line += f"; about {flops / 1e9:,.0f} GFLOP to train on an image"
  if unit == "steps":
    line += f", {flops * batch * length / 1e15:,.1f} PFLOP a device in all"
  return line
