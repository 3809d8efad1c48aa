"""What the danger route amounts to, by shapes alone: levels, parameters, work."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.routes.danger import task
from hiresmed_jax.routes.explain import Facts, Measure, forward
from hiresmed_jax.runtime.compilation import compute_dtype


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"size", "crop", "parameters", "levels": [{"size", "channels"}], "flops_per_image": forward,
    of a training image, "rule"} and what `on_this_machine` finds.
  """
  del devices
  values = config.danger
  size = (values.crop, values.crop) if values.crop else tuple(values.size)
  net = task.network(values)
  parameters, flops = forward(net, 1, *size, config.data.channels)
  steps = max(values.steps, 1000)
  dtype = compute_dtype(values.dtype)
  made = task.build(values, channels=config.data.channels, size=size, steps=steps, dtype=dtype)
  facts: Facts = {
    "size": list(values.size),
    "crop": values.crop,
    "parameters": parameters,
    "levels": [
      {"size": [side >> level for side in size], "channels": values.width << level}
      for level in range(net.depth + 1)
    ],
    "flops_per_image": flops,
    "rule": values.rule,
  }
  shape = (values.batch_size, *size)
  batch = {"images_m11": jax.ShapeDtypeStruct((*shape, 1), jnp.float32)}
  batch |= dict.fromkeys(("labels", "lesions"), jax.ShapeDtypeStruct(shape, jnp.uint8))
  batch["valid"] = jax.ShapeDtypeStruct(shape, jnp.bool_)
  return facts | on_this_machine(made, batch)


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  yield ""
  rows, columns = facts["levels"][0]["size"]
  yield (
    f"U-Net, {facts['parameters']:,} parameters, training images of {rows} x {columns}: "
    f"{facts['flops_per_image'] / 1e9:.2f} GFLOP forward"
  )
  levels = [f"{level['channels']} of {level['size'][0]} px" for level in facts["levels"]]
  yield "channels and rows: " + ", ".join(levels)
  rule = f", else of the rule {facts['rule']!r}" if facts["rule"] else ""
  yield f"masks: given with the images{rule}"
