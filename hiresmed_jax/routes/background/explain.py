"""What the background route amounts to, by shapes alone: networks, work, memory, mesh."""

import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from hiresmed_jax.convert import features
from hiresmed_jax.metrics import lpips
from hiresmed_jax.nets.vqgan import VQGAN
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.explain import Facts, Measure, count, in_bytes, table
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import cost
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype

# Of the preset `paper` of kub.py, 8 images, bfloat16, for an H200 (benchmarks/README.md): bytes
# that kernels move over those of the intermediates, and how much more when blocks are recomputed.
_MOVED, _RECOMPUTED = 4.65, 1.2
_BATCHES_AHEAD = 3  # on the device: the one in use and two on their way
# Measured with jax 0.10: the CPU backend compiles to the same memory with it and without.
_WITHOUT_REMAT = "total without rematerialisation, which XLA undoes on the CPU"


def explain(config: Any, *, devices: int, on_this_machine: Measure) -> Facts:
  """See `routes.explain.explain`.

  Returns:
    {"networks": {name: rows}, "parameters", "flops_per_image", "memory_per_device",
    "bytes_moved_per_step" on a GPU, predicted, "dtype" of the convolutions} and what
    `on_this_machine` finds.
  """
  values, dtype = config.background, compute_dtype(config.background.dtype)
  data, fsdp = meshes.axis_sizes(devices, data=config.mesh.data, fsdp=config.mesh.fsdp)
  size = (config.data.crop,) * 2 if config.data.crop else tuple(config.data.size)
  net, disc = background.networks(values, channels=config.data.channels, dtype=dtype)
  make = functools.partial(_task, config, size, dtype)
  task = make(values)
  local = _batch(values.batch_size // devices, size)
  state = jax.eval_shape(task.init, jax.random.key(0))
  image = _shape(1, *size, config.data.channels)
  plain = net.clone(remat=False)
  networks = {"generator": _rows(plain, state.gen["net"], image)}
  if disc is not None:
    networks["discriminator"] = _rows(disc, state.disc, image)
  step = cost.trace(task.train_step, state, local, task.frozen)
  mesh = AbstractMesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  memory = _memory(make, values, state, mesh, local, step)
  facts = {
    "networks": networks,
    "parameters": {
      "generator": count(state.gen["net"]),
      "codebook": state.gen["codebook"].size,
      "discriminator": count(state.disc),
      "perceptual, frozen": count(task.frozen),
    },
    "flops_per_image": _flops(plain, state.gen["net"], image)
    | {"training step": sum(cost.flops(step).values()) * devices / values.batch_size},
    "memory_per_device": memory,
    "bytes_moved_per_step": _moved(memory, remat=values.net.remat),
    "dtype": jnp.dtype(dtype).name,
  }
  return facts | on_this_machine(task, _batch(values.batch_size, size))


def lines(facts: Facts) -> Iterator[str]:
  """The same as text."""
  for name, rows in facts["networks"].items():
    yield from ("", f"{name}: shapes and FLOPs are of one image, forward")
    yield from table(
      ("module", "type", "output", "parameters", "GFLOP"),
      [
        (
          _indented(row["path"]),
          row["type"],
          " x ".join(map(str, row["output"])),
          f"{row['parameters']:,}",
          f"{row['flops_per_image'] / 1e9:,.2f}",
        )
        for row in rows
      ],
    )
  yield from ("", "parameters")
  yield from table((), [(k, f"{v:,}") for k, v in facts["parameters"].items()])
  yield from ("", "GFLOP per image (a multiply-add is two)")
  yield from table((), [(k, f"{v / 1e9:,.1f}") for k, v in facts["flops_per_image"].items()])
  yield from ("", f"convolutions in {facts['dtype']}")
  yield from ("", "memory per device: an estimate from shapes, before the compiler's copies")
  yield from table((), [(k, in_bytes(v)) for k, v in facts["memory_per_device"].items()])


def _indented(path: str) -> str:
  parent, _, name = path.partition("/")
  return f"  {name}" if name else parent


def _task(config: Any, size: tuple[int, int], dtype: Any, values: Any) -> Task:
  """The route's task with the shapes of the perceptual weights in place of the weights."""
  distance, weights = None, None
  if values.perceptual.net and values.perceptual.weight:
    trunk = jnp.bfloat16 if values.perceptual.bfloat16 else jnp.float32
    distance, weights = perceptual(values.perceptual.net, trunk)
  return background.build(
    values,
    channels=config.data.channels,
    size=size,
    steps=max(values.steps, 1000),
    steps_per_epoch=1,
    dtype=dtype,
    distance=distance,
    distance_params=weights,
  )


def perceptual(net: str, dtype: Any) -> tuple[lpips.Distance, Any]:
  """A perceptual distance and the shapes of its weights, which need not be there."""
  layout = {name: _shape(*shape) for name, shape in features.layout(net).items()}
  trunk = features.TRUNKS[net](dtype=dtype)
  heads = [layout.pop(name) for name in sorted(n for n in layout if n.startswith("lin"))]
  weights = {"heads": heads, "trunk": flax.traverse_util.unflatten_dict(layout, sep="/")}

  def distance(weights: Any, images_m11: Any, targets_m11: Any) -> Any:
    taps = functools.partial(trunk.apply, {"params": weights["trunk"]})
    return lpips.lpips(taps, weights["heads"], images_m11, targets_m11)

  return distance, weights


def _rows(net: nn.Module, params: Any, image: Any) -> list[dict[str, Any]]:
  """One row per module that a person would name: two levels, and the blocks within stacks."""
  seen: dict[tuple[str, ...], tuple[str, list[int]]] = {}

  def note(
    call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
  ) -> Any:
    path = context.module.path
    wanted = bool(path) and context.method_name == "__call__"
    if wanted:
      seen[path] = ("", [])  # takes its place before the modules within it
    out = call(*args, **kwargs)
    if wanted:
      first = out[0] if isinstance(out, tuple) else out
      seen[path] = (type(context.module).__name__, list(first.shape[1:]))
    return out

  with nn.intercept_methods(note):
    program = cost.trace(lambda p, x: net.apply({"params": p}, x), params, image)
  counts: dict[tuple[str, ...], int] = collections.defaultdict(int)
  for names, leaf in flax.traverse_util.flatten_dict(params).items():
    for depth in range(1, len(names)):
      counts[names[:depth]] += leaf.size
  flops: dict[tuple[str, ...], float] = collections.defaultdict(float)
  for scope, work in cost.flops(program).items():
    parts = tuple(scope.split("/"))
    for depth in range(1, len(parts) + 1):
      flops[parts[:depth]] += work
  return [
    {
      "path": "/".join(path),
      "type": kind,
      "output": shape,
      "parameters": counts[path],
      "flops_per_image": flops[path],
    }
    for path, (kind, shape) in seen.items()
    if kind != "Stack" and (len(path) <= 2 or seen.get(path[:-1], ("", []))[0] == "Stack")
  ]


def _flops(net: VQGAN, params: Any, image: Any) -> dict[str, float]:
  encode = functools.partial(net.apply, method="encode")
  decode = functools.partial(net.apply, method="decode")
  latents = jax.eval_shape(encode, {"params": params}, image)
  traces = {
    "encoder": cost.trace(encode, {"params": params}, image),
    "decoder": cost.trace(decode, {"params": params}, latents),
  }
  return {name: sum(cost.flops(program).values()) for name, program in traces.items()}


def _memory(
  make: Callable[[Any], Task], values: Any, state: Any, mesh: AbstractMesh, local: Any, step: Any
) -> dict[str, int]:
  """Bytes of one device, by what they are for. Intermediates are an estimate (runtime.cost)."""
  task = make(values)
  shards = meshes.state_shardings(state, mesh)
  fields = {
    "parameters": ("gen", "disc"),
    "optimiser": ("gen_opt", "disc_opt"),
    "averaged parameters": ("ema",),
  }
  named = {
    name: sum(cost.tree_bytes(getattr(state, f), getattr(shards, f)) for f in group)
    for name, group in fields.items()
  }
  named["perceptual weights"] = cost.tree_bytes(task.frozen)
  named["batches"] = _BATCHES_AHEAD * cost.tree_bytes(local)
  standing = sum(named.values())
  named["intermediates and gradients"] = cost.peak_bytes(step)
  named["total"] = standing + named["intermediates and gradients"]
  if values.net.remat:
    kept = values.copy_and_resolve_references()
    kept.net.remat = False
    step = cost.trace(make(kept).train_step, state, local, task.frozen)
    named[_WITHOUT_REMAT] = standing + cost.peak_bytes(step)
  return named


def _moved(memory: dict[str, int], *, remat: bool) -> float:
  """Bytes that the kernels of a step read and write on a device: a prediction."""
  intermediates = memory["intermediates and gradients"]
  if not remat:
    return _MOVED * intermediates
  return _RECOMPUTED * _MOVED * (memory[_WITHOUT_REMAT] - memory["total"] + intermediates)


def _batch(count: int, size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
  # Grey images travel as one channel, whatever the network sees.
  return {"images_m11": _shape(count, *size, 1)}


def _shape(*sides: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sides, jnp.float32)
