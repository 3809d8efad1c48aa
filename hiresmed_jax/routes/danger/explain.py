"""What the danger route amounts to, told by shapes alone: levels, parameters, work."""

from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.routes.danger import task
from hiresmed_jax.routes.departures import danger_departures
from hiresmed_jax.runtime import cost


def explain(config: Any, *, devices: int) -> dict[str, Any]:
  """Everything that `explain` tells of the route, as nested values that JSON can hold.

  Args:
    config: from `runtime.config.load_config`.
    devices: how many to plan for.

  Returns:
    {"size", "crop", "parameters", "levels": [{"size", "channels"}], "flops_per_image": forward,
    of a training image, "images_per_device", "rule", "departures"}.
  """
  values = config.danger
  size = (values.crop, values.crop) if values.crop else tuple(values.size)
  net = task.network(values)
  image = jax.ShapeDtypeStruct((1, *size, config.data.channels), jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  work = cost.flops(cost.trace(net.apply, variables, image))
  return {
    "size": list(values.size),
    "crop": values.crop,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    "levels": [
      {"size": [side >> level for side in size], "channels": values.width << level}
      for level in range(net.depth + 1)
    ],
    "flops_per_image": sum(work.values()),
    "images_per_device": values.batch_size / devices,
    "rule": values.rule,
    "departures": [departure._asdict() for departure in danger_departures(config)],
  }
