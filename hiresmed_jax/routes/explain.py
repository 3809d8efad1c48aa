"""What a config amounts to, by shapes alone: facts for JSON, lines for a person.

Tables are laid out here and not by `clu.parameter_overview`, which lists arrays one by one: these
have a line for a module, with its output and its FLOPs.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from clu import parameter_overview

from hiresmed_jax import routes
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.overrides import leaves
from hiresmed_jax.runtime.settings import keyed

Facts = dict[str, Any]  # nested values that JSON can hold: bytes, FLOPs (a multiply-add is two), px


def explain(config: Any, *, devices: int, compiled: bool = False) -> Facts:
  """The facts of a checked config, planned for a number of devices that need not exist.

  `compiled`: also compile the training step for the devices that are here, where a route can.

  Returns:
    {"config": its name, route and preset; "mesh": devices, their kind, sizes of the axes;
    "departures" of what all routes share; for each route by name: the facts of its own `explain`,
    "images_per_device" and "length" of the training, where it has batches, and "departures"}.
  """
  facts: Facts = {"config": {key: config[key] for key in ("name", "route", "preset")}}
  data, fsdp = meshes.axis_sizes(devices, data=config.mesh.data, fsdp=config.mesh.fsdp)
  kind = jax.devices()[0].device_kind
  facts["mesh"] = {"devices": devices, "kind": kind, "data": data, "fsdp": fsdp}
  facts["departures"] = _departures(config, "data") + _departures(config, "synthesize")
  for route in settings.wanted(config):
    facts[route] = _module(route).explain(config, devices=devices, compiled=compiled)
    if "batch_size" in config[route]:
      facts[route]["images_per_device"] = config[route].batch_size // devices
      steps, epochs = config[route].steps, config[route].get("epochs", 0)
      facts[route]["length"] = {"steps": steps} if steps else {"epochs": epochs}
    facts[route]["departures"] = _departures(config, route)
  return facts


def lines(facts: Facts) -> Iterator[str]:
  """The same as text: a summary of at most ten lines, the routes in detail, the departures."""
  found = [route for route in routes.ROUTES if route in facts]
  yield from _summary(facts, found)
  for route in found:
    yield from ("", f"ROUTE {route}", *_module(route).lines(facts[route]))
    if "images_per_device" in facts[route]:
      yield f"{facts[route]['images_per_device']} images a device"
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


def _module(route: str) -> Any:
  return importlib.import_module(f"{routes.__name__}.{route}.explain")


def _departures(config: Any, group: str) -> list[dict[str, str]]:
  return [departure._asdict() for departure in settings.departures(config, group)]


def _all_departures(facts: Facts, found: Sequence[str]) -> list[dict[str, str]]:
  """Those of the routes, then those of what all routes share, none twice."""
  parts = [*(facts[route] for route in found), facts]
  every = [row for part in parts for row in part["departures"]]
  return list({tuple(row.values()): row for row in every}.values())


def _summary(facts: Facts, found: Sequence[str]) -> Iterator[str]:
  """What is trained, for how long, with what work and memory: at most ten lines."""
  mesh = facts["mesh"]
  yield f"{facts['config']['name']}, preset {facts['config']['preset']}: {', '.join(found)}"
  yield f"{mesh['devices']} x {mesh['kind']}, mesh of data {mesh['data']}, fsdp {mesh['fsdp']}"
  for route in found:
    yield f"{route}: {_brief(facts[route])}"
    if "memory_per_device" in facts[route]:
      total = in_bytes(facts[route]["memory_per_device"]["total"])
      yield f"{route}: {total} of memory a device, estimated from shapes"
  departures = len(_all_departures(facts, found))
  yield f"departures from the paper: {departures}, each with its reason at the end"
  yield "below: networks, work and memory of each route; --json gives the same to a program"


def _brief(facts: Facts) -> str:
  """A route in a line: parameters, length, work."""
  if "windows" in facts:
    sizes = [window["parameters"] for window in facts["windows"].values()]
    steps = ", ".join(f"{number:,} steps {name}" for name, number in facts["steps"].items())
    return f"a SinGAN of {min(sizes):,} to {max(sizes):,} parameters for each lesion; {steps}"
  parameters, work = facts["parameters"], facts.get("flops_per_image")
  trained = (
    parameters
    if isinstance(parameters, int)
    else sum(number for name, number in parameters.items() if "frozen" not in name)
  )
  # A backward pass costs about two forward passes.
  flops = work["training step"] if isinstance(work, dict) else 3 * (work or 0)
  ((unit, length),) = facts["length"].items()
  batch = facts["images_per_device"]
  line = f"{trained:,} parameters; {length:,} {unit} of {batch} images a device"
  if work is None:
    return line
  line += f"; about {flops / 1e9:,.0f} GFLOP to train on an image"
  if unit == "steps":
    line += f", {flops * batch * length / 1e15:,.1f} PFLOP a device in all"
  return line
