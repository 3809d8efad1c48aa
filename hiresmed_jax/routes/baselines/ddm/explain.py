"""What the baseline `ddm` amounts to, by shapes alone: parameters, work, memory."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from hiresmed_jax.routes.baselines.ddm import task
from hiresmed_jax.routes.explain import Facts, Measure, count, in_bytes, table
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"size", "patch", "written": size of the samples, "parameters", "levels": [{"size",
    "channels"}], "flops_per_image": {"training step", "sample"}, "memory_per_device", "steps"
    of a sample} and what `on_this_machine` finds.
  """
  values, dtype = config.ddm, compute_dtype(config.ddm.dtype)
  size = [side // values.patch for side in values.size]
  made = task.build(
    values, channels=config.data.channels, size=values.size, steps=max(values.steps, 1000),
    dtype=dtype,
  )  # fmt: skip
  state = jax.eval_shape(made.init, jax.random.key(0))
  share = values.batch_size // devices
  step = cost.trace(made.train_step, state, _batch(values, share), {})
  noisy = jax.ShapeDtypeStruct((1, *size, values.patch**2 * config.data.channels), jnp.float32)
  net = task.network(values, dtype=dtype)
  level = jax.ShapeDtypeStruct((1,), jnp.int32)
  forward = sum(cost.flops(cost.trace(net.apply, {"params": state.params}, noisy, level)).values())
  axes = meshes.axis_sizes(devices, data=config.mesh.data, fsdp=config.mesh.fsdp)
  mesh = AbstractMesh(axes, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  shards = meshes.state_shardings(state, mesh)
  memory = {"weights, optimiser, average": cost.tree_bytes(state, shards)}
  memory["intermediates and gradients"] = cost.peak_bytes(step)
  facts: Facts = {
    "size": list(values.size),
    "patch": values.patch,
    "written": list(config.data.size),
    "parameters": count(state.params),
    "levels": [
      {"size": [side >> number for side in size], "channels": values.net.width * multiplier}
      for number, multiplier in enumerate(values.net.multipliers)
    ],
    "flops_per_image": {
      "training step": sum(cost.flops(step).values()) / share,
      "sample": forward * values.sampling.steps,
    },
    "memory_per_device": memory | {"total": sum(memory.values())},
    "steps": values.sampling.steps,
  }
  return facts | on_this_machine(made, _batch(values, values.batch_size))


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  yield ""
  rows, columns = facts["size"]
  yield (
    f"DDPM, {facts['parameters']:,} parameters, images of {rows} x {columns}, patches of "
    f"{facts['patch']} x {facts['patch']} px; samples are written at "
    f"{' x '.join(map(str, facts['written']))}"
  )
  levels = [f"{level['channels']} of {level['size'][0]} px" for level in facts["levels"]]
  yield "channels and rows: " + ", ".join(levels)
  yield from ("", f"GFLOP per image (a multiply-add is two); a sample has {facts['steps']} steps")
  yield from table((), [(k, f"{v / 1e9:,.1f}") for k, v in facts["flops_per_image"].items()])
  yield from ("", "memory per device: an estimate from shapes, before the compiler's copies")
  yield from table((), [(k, in_bytes(v)) for k, v in facts["memory_per_device"].items()])


def _batch(values: Any, count: int) -> dict[str, jax.ShapeDtypeStruct]:
  # Grey images travel as one channel, whatever the network sees.
  return {"images_m11": jax.ShapeDtypeStruct((count, *values.size, 1), jnp.float32)}
