"""What the location route amounts to, by shapes alone: levels, parameters, work."""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.routes.explain import Facts, forward
from hiresmed_jax.routes.location import task


def explain(config: Any, *, devices: int, compiled: bool) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"net", "size", "parameters", "levels": [{"stride", "positions"}], "flops_per_image":
    forward}.
  """
  del devices, compiled
  values = config.location
  net = task.network(values)
  parameters, flops = forward(net, 1, values.size, values.size, config.data.channels)
  return {
    "net": values.net,
    "size": values.size,
    "parameters": parameters,
    "levels": [{"stride": s, "positions": (values.size // s) ** 2} for s in net.strides],
    "flops_per_image": flops,
  }


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
