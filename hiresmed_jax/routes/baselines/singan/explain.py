"""What the baseline `singan` amounts to, by shapes alone: its pyramid and its networks."""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.routes import singan_task
from hiresmed_jax.routes.explain import Facts, Measure, in_bytes, table


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"of": "image", "images", "pyramid": as text, "windows": {side: {"levels": [{"pixels", "width",
    "generator", "critic": parameters}], "parameters": of an image's generators, "training_bytes":
    of its state at the last level}}, "steps", "parameters"}.
  """
  del devices, on_this_machine
  values, channels = config.singan, config.data.channels
  pyramid = singan_task.pyramid_of(values, values.size)
  levels = [
    singan_task.level_facts(values, channels, number, rows)
    for number, (rows, _) in enumerate(pyramid.sizes)
  ]
  generators = sum(level["generator"] for level in levels)
  last = levels[-1]["generator"] + levels[-1]["critic"]
  window = {
    "levels": levels,
    "parameters": generators,
    # Both players and two moments each, beside the finished generators.
    "training_bytes": 4 * (3 * last + generators - levels[-1]["generator"]),
  }
  return {
    "of": "image",
    "images": values.images,
    "pyramid": str(pyramid),
    "windows": {str(values.size): window},
    "steps": {"of a level": values.steps},
    "parameters": generators,
  }


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  (window,) = facts["windows"].values()
  yield from ("", f"one SinGAN for each of {facts['images']} image(s): {facts['pyramid']}")
  rows = [
    (f"{level['pixels']} px", *(f"{level[key]:,}" for key in ("width", "generator", "critic")))
    for level in window["levels"]
  ]
  yield from table(("level", "channels", "generator", "critic"), rows)
  yield ""
  yield (
    f"{window['parameters']:,} parameters of an image's generators; "
    f"{in_bytes(window['training_bytes'])} of state in training, before intermediates; "
    f"{facts['steps']['of a level']:,} steps of a level"
  )
