"""What the baseline `styleswin` amounts to, by shapes alone: parameters, work, memory."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from hiresmed_jax.routes.baselines.styleswin import task
from hiresmed_jax.routes.explain import Facts, Measure, count, in_bytes, table
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"size", "written": size of the samples, "parameters": of both networks, "flops_per_image":
    {"training step", "sample"}, "memory_per_device"} and what `on_this_machine` finds.
  """
  values, dtype = config.styleswin, compute_dtype(config.styleswin.dtype)
  channels = config.data.channels
  made = task.build(values, channels=channels, steps=max(values.steps, 1000), dtype=dtype)
  state = jax.eval_shape(made.init, jax.random.key(0))
  share = values.batch_size // devices
  step = cost.trace(made.train_step, state, _batch(values, share), {})
  gen, _ = task.networks(values, channels=channels, dtype=dtype)
  latents = jax.ShapeDtypeStruct((1, values.net.style), jnp.float32)
  sample = cost.flops(cost.trace(gen.apply, {"params": state.gen}, latents))
  axes = meshes.axis_sizes(devices, data=config.mesh.data, fsdp=config.mesh.fsdp)
  mesh = AbstractMesh(axes, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  memory = {
    "weights, optimisers, average": cost.tree_bytes(state, meshes.state_shardings(state, mesh)),
    "intermediates and gradients": cost.peak_bytes(step),
  }
  facts: Facts = {
    "size": values.size,
    "written": list(config.data.size),
    "parameters": {"generator": count(state.gen), "discriminator": count(state.disc)},
    "flops_per_image": {
      "training step": sum(cost.flops(step).values()) / share,
      "sample": sum(sample.values()),
    },
    "memory_per_device": memory | {"total": sum(memory.values())},
  }
  return facts | on_this_machine(made, _batch(values, values.batch_size))


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  size, written = facts["size"], " x ".join(map(str, facts["written"]))
  yield ""
  yield f"StyleSwin, images of {size} x {size}; samples are written at {written}"
  yield from ("", "parameters")
  yield from table((), [(k, f"{v:,}") for k, v in facts["parameters"].items()])
  yield from ("", "GFLOP per image (a multiply-add is two), of a step with the gradient's penalty")
  yield from table((), [(k, f"{v / 1e9:,.1f}") for k, v in facts["flops_per_image"].items()])
  yield from ("", "memory per device: an estimate from shapes, before the compiler's copies")
  yield from table((), [(k, in_bytes(v)) for k, v in facts["memory_per_device"].items()])


def _batch(values: Any, count: int) -> dict[str, jax.ShapeDtypeStruct]:
  # Grey images travel as one channel, whatever the network sees.
  return {"images_m11": jax.ShapeDtypeStruct((count, values.size, values.size, 1), jnp.float32)}
