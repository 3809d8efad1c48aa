"""What the lesion route amounts to, told by shapes alone: pyramids, networks, work."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.nets import singan
from hiresmed_jax.ops.pyramid import lesion_pyramid
from hiresmed_jax.routes.departures import lesion_departures
from hiresmed_jax.routes.lesion import task as lesion
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes

_COUNTED = (32, 64)  # windows whose work is counted: a second for each level


def explain(config: Any, *, devices: int, work: bool) -> dict[str, Any]:
  """Everything that `explain` tells of the route, as nested values that JSON can hold.

  Args:
    config: from `runtime.config.load_config`.
    devices: how many to plan for.
    work: whether to count the arithmetic of an iteration too, which takes some seconds.

  Returns:
    {"windows": {side: {"levels": [{"pixels", "width", "generator", "critic": parameters}],
    "parameters": of a lesion's generators, "training_bytes": of a lesion's state at its last
    level, "flops_per_iteration": of each level, where counted}}, "steps", "devices",
    "departures"}.
  """
  values, channels = config.lesion, config.data.channels + 1
  windows: dict[str, Any] = {}
  for side in values.sides:
    sizes = lesion_pyramid(side, min_size=values.min_size).sizes
    levels = [_level(values, channels, number, size[0]) for number, size in enumerate(sizes)]
    last = levels[-1]["generator"] + levels[-1]["critic"]
    generators = sum(level["generator"] for level in levels)
    windows[str(side)] = {
      "levels": levels,
      "parameters": generators,
      # Both players and two moments each, beside the finished generators.
      "training_bytes": 4 * (3 * last + generators - levels[-1]["generator"]),
    }
  for side in set(_COUNTED) & set(values.sides) if work else ():
    windows[str(side)]["flops_per_iteration"] = _flops(values, side, channels)
  return {
    "windows": windows,
    "steps": {"of a level": values.steps, "of a level, on a CPU": values.cpu_steps},
    "devices": devices,
    "departures": [departure._asdict() for departure in lesion_departures(config)],
  }


def _level(values: Any, channels: int, number: int, pixels: int) -> dict[str, int]:
  width = singan.width(number, least=values.width, most=values.max_width)
  image = jax.ShapeDtypeStruct((1, pixels, pixels, channels), jnp.float32)
  key = jax.random.key(0)
  init = functools.partial(singan.Generator(channels, width).init, train=True)
  gen = jax.eval_shape(init, key, image, image)
  critic = jax.eval_shape(singan.Critic(width).init, key, image)
  return {
    "pixels": pixels,
    "width": width,
    "generator": _count(gen["params"]),
    "critic": _count(critic["params"]),
  }


def _flops(values: Any, side: int, channels: int) -> list[float]:
  """Of one iteration of one lesion, level by level: all steps of both players."""
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  windows, weight = np.zeros((1, side, side, channels), np.float32), np.ones(1, np.float32)
  task = lesion.build(values, [windows], [weight], steps=1, steps_per_call=1, mesh=mesh, at_once=1)
  state = jax.eval_shape(task.init, jax.random.key(0))
  counts = []
  for phase in task.phases:
    if phase.begin is not None:
      state = jax.eval_shape(phase.begin, state, phase.batch)
    program = cost.trace(task.train_step, state, phase.batch, {})
    counts.append(sum(cost.flops(program).values()))
  return counts


def _count(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
