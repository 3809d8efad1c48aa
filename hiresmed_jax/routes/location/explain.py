"""What the location route amounts to, by shapes alone: levels, parameters, work."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.routes.explain import Facts, Measure, forward
from hiresmed_jax.routes.location import task
from hiresmed_jax.runtime.compilation import compute_dtype

_BOXES = 16  # of an image of which a step is timed


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"net", "size", "parameters", "levels": [{"stride", "positions"}], "flops_per_image":
    forward} and what `on_this_machine` finds.
  """
  del devices
  values = config.location
  net = task.network(values)
  parameters, flops = forward(net, 1, values.size, values.size, config.data.channels)
  made = task.build(
    values, channels=config.data.channels, size=values.size, steps=max(values.steps, 1000),
    steps_per_epoch=100, dtype=compute_dtype(values.dtype),
  )  # fmt: skip
  facts: Facts = {
    "net": values.net,
    "size": values.size,
    "parameters": parameters,
    "levels": [{"stride": s, "positions": (values.size // s) ** 2} for s in net.strides],
    "flops_per_image": flops,
  }
  count = values.batch_size
  shapes = {
    "images_m11": (count, values.size, values.size, 1),
    "boxes_xyxy": (count, _BOXES, 4),
    "boxes_valid": (count, _BOXES),
  }
  batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  batch["boxes_valid"] = batch["boxes_valid"].update(dtype=jnp.bool_)
  return facts | on_this_machine(made, batch)


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  size = facts["size"]
  yield ""
  yield (
    f"YOLO11{facts['net']}, {facts['parameters']:,} parameters, images of {size} x {size}: "
    f"{facts['flops_per_image'] / 1e9:.2f} GFLOP forward"
  )
  yield "positions: " + ", ".join(
    f"{level['positions']:,} of stride {level['stride']}" for level in facts["levels"]
  )
