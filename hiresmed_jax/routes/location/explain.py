"""What the location route amounts to, told by shapes alone: levels, parameters, work."""

from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.routes.departures import location_departures
from hiresmed_jax.routes.location import task
from hiresmed_jax.runtime import cost


def explain(config: Any, *, devices: int) -> dict[str, Any]:
  """Everything that `explain` tells of the route, as nested values that JSON can hold.

  Args:
    config: from `runtime.config.load_config`.
    devices: how many to plan for.

  Returns:
    {"net", "size", "parameters", "levels": [{"stride", "positions"}], "flops_per_image": forward,
    "images_per_device", "departures"}.
  """
  values, channels = config.location, config.data.channels
  net = task.network(values)
  image = jax.ShapeDtypeStruct((1, values.size, values.size, channels), jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  work = cost.flops(cost.trace(net.apply, variables, image))
  return {
    "net": values.net,
    "size": values.size,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    "levels": [{"stride": s, "positions": (values.size // s) ** 2} for s in net.strides],
    "flops_per_image": sum(work.values()),
    "images_per_device": values.batch_size / devices,
    "departures": [departure._asdict() for departure in location_departures(config)],
  }
