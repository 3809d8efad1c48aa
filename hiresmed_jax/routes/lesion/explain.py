"""What the lesion route amounts to, by shapes alone: pyramids, networks, work."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from hiresmed_jax.routes import singan_task as lesion
from hiresmed_jax.routes.explain import Facts, Measure, in_bytes, table
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes

_COUNTED = (32, 64)  # windows whose work is counted, which takes a second a level


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`. Work is counted where no other route is asked for.

  Returns:
    {"windows": {side: {"levels": [{"pixels", "width", "generator", "critic": parameters}],
    "parameters": of a lesion's generators, "training_bytes": of a lesion's state at its last
    level, "flops_per_iteration": of each level, where counted}}, "steps", "devices"}.
  """
  del on_this_machine  # its time depends on how many lesions there are
  values, channels = config.lesion, config.data.channels + 1
  windows: dict[str, Any] = {}
  for side in values.sides:
    sizes = lesion.pyramid_of(values, side).sizes
    levels = [
      lesion.level_facts(values, channels, number, size[0]) for number, size in enumerate(sizes)
    ]
    last = levels[-1]["generator"] + levels[-1]["critic"]
    generators = sum(level["generator"] for level in levels)
    windows[str(side)] = {
      "levels": levels,
      "parameters": generators,
      # Both players and two moments each, beside the finished generators.
      "training_bytes": 4 * (3 * last + generators - levels[-1]["generator"]),
    }
  for side in set(_COUNTED) & set(values.sides) if config.route == "lesion" else ():
    windows[str(side)]["flops_per_iteration"] = _flops(values, side, channels)
  return {
    "windows": windows,
    "steps": {"of a level": values.steps, "of a level, on a CPU": values.cpu_steps},
    "devices": devices,
  }


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  yield from ("", "one generator and one critic for every lesion, level and window size")
  rows = [
    (
      f"{side} px" if number == 0 else "",
      f"{level['pixels']} px",
      str(level["width"]),
      f"{level['generator']:,}",
      f"{level['critic']:,}",
      f"{work[number] / 1e9:.1f}" if (work := window.get("flops_per_iteration")) else "",
    )
    for side, window in facts["windows"].items()
    for number, level in enumerate(window["levels"])
  ]
  head = ("window", "level", "channels", "generator", "critic", "GFLOP an iteration")
  yield from table(head, rows)
  yield from ("", "for each lesion")
  for side, window in facts["windows"].items():
    yield (
      f"  {side} px: {window['parameters']:,} parameters of generators; "
      f"{in_bytes(window['training_bytes'])} of state in training, before intermediates"
    )
  yield ""
  yield "; ".join(f"steps {name}: {number:,}" for name, number in facts["steps"].items())
  yield f"lesions are split over {facts['devices']} device(s); nothing is sent between them"


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
    program = cost.trace(task.train_step, state, phase.batch, {}, np.int32(1))
    counts.append(sum(cost.flops(program).values()))
  return counts
