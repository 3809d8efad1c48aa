"""What is compiled for a phase of training, and the states that its programs begin with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import compilation, cost
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.types import Array

# For programs that run once: faster code is not worth the wait (53 s against 11 s).
_QUICK = {"xla_backend_optimization_level": 0}


class Programs(NamedTuple):
  """What is compiled once per phase, and where its arrays live."""

  step: Callable[..., Any]  # `Task.train_step`, compiled; it consumes its state
  evaluate: Callable[..., Any]  # `Task.eval_step`, compiled
  flops_per_step: float  # over all devices
  abstract_state: Any  # shapes and shardings of the state
  batch_sharding: jax.sharding.NamedSharding  # of batches
  frozen: Any  # `Task.frozen` on the devices

  def put(self, batch: Mapping[str, np.ndarray]) -> Any:
    """This process's share of a batch -> global arrays."""
    return meshes.put_batch(batch, self.batch_sharding)


def compile_programs(
  task: Task,
  phase: int,
  mesh: jax.sharding.Mesh,
  batch: Mapping[str, Any],
  val_batch: Mapping[str, Any],
) -> Programs:
  """Compiles the step and the evaluation of a phase ahead of time.

  Shapes are those of `batch`, this process's share of a training batch, and of `val_batch`, whole.
  """
  split, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
  state = abstract_state(task, phase, mesh)
  frozen = jax.device_put(task.frozen, whole)
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=(_shardings(state), whole))
  count = (jax.ShapeDtypeStruct((), np.int32),) if task.phases[phase].most_steps else ()
  traced = step.trace(state, _global_shapes(batch, split), frozen, *count)
  # What it makes of the images stays on their devices.
  evaluate = jax.jit(task.eval_step, out_shardings=(whole, split))
  judged = _global_shapes(_eval_arrays(task, val_batch), split)
  options = compilation.options()
  lowered = (traced.lower(), evaluate.lower(state, judged, frozen))
  with ThreadPoolExecutor(2) as pool:  # side by side: compilers use one core for most of their time
    compiled = list(pool.map(lambda one: one.compile(options), lowered))
  return Programs(
    step=compiled[0],
    evaluate=compiled[1],
    # Of the trace, as not every backend tells. A loop of which nobody knows how often it runs
    # counts once, as one step.
    flops_per_step=sum(cost.flops(traced.jaxpr.jaxpr).values()),
    abstract_state=state,
    batch_sharding=split,
    frozen=frozen,
  )


def abstract_state(task: Task, phase: int, mesh: jax.sharding.Mesh) -> Any:
  """Shapes and shardings of the state in a phase; nothing is computed."""

  def init(key: Array) -> Any:
    state = task.init(key)
    for later in task.phases[1 : phase + 1]:
      if later.begin is not None and later.batch is not None:
        state = later.begin(state, dict(later.batch))
    return state

  shapes = jax.eval_shape(init, jax.random.key(0))
  return meshes.with_shardings(shapes, task.shardings(shapes, mesh))


def first_state(
  task: Task, programs: Programs, seed: int, batches: Sequence[Mapping[str, Any]]
) -> Any:
  """The state before step 0, made on the mesh; `batches` are the first ones, for a warm start."""
  shardings = _shardings(programs.abstract_state)
  init = jax.jit(task.init, out_shardings=shardings, compiler_options=_QUICK)
  state = init(jax.random.key(seed))
  if task.warm_start is None:
    return state
  warm_start = jax.jit(task.warm_start, out_shardings=shardings)
  return warm_start(state, [programs.put(batch) for batch in batches], programs.frozen)


def next_state(begin: Callable[..., Any], programs: Programs, state: Any, batch: Any) -> Any:
  """The state with which a phase begins, from the last one of the phase before."""
  shardings = _shardings(programs.abstract_state)
  return jax.jit(begin, out_shardings=shardings, compiler_options=_QUICK)(state, batch)


def evaluate(
  task: Task,
  programs: Programs,
  state: Any,
  batches: Iterable[Mapping[str, Any]],
  look: Callable[[Mapping[str, Any], np.ndarray], None] | None = None,
) -> tuple[dict[str, float], int]:
  """Runs the evaluation over host batches, which every process holds whole, one at a time.

  `batches` have "weight", 0 on rows that only fill them up. `look` is called after each with this
  process's rows of it and what `Task.eval_step` made of them; nothing else keeps them, so that
  memory does not grow with the number of images.

  Returns:
    (named numbers, how many images); ({}, 0) without a batch.
  """
  totals: Any = None
  images = 0
  for batch in batches:
    arrays = programs.put(_eval_arrays(task, batch))
    more, made = programs.evaluate(state, arrays, programs.frozen)
    totals = more if totals is None else jax.tree.map(np.add, totals, jax.device_get(more))
    images += int(np.sum(np.asarray(batch["weight"]) > 0))
    if look is not None:
      look(local_share(batch), _local_rows(made))
  return (task.summarise(jax.device_get(totals)), images) if images else ({}, 0)


def local_share(batch: Mapping[str, Any]) -> dict[str, Any]:
  """This process's rows of a batch that every process holds whole.

  Lists may be shorter than arrays: they lack the rows that only fill the batch up.
  """
  rows = max(len(value) for value in batch.values()) // jax.process_count()
  first = jax.process_index() * rows
  return {name: value[first : first + rows] for name, value in batch.items()}


def _local_rows(made: Array) -> np.ndarray:
  """The rows of an array that lie on this process's devices."""
  shards = sorted(made.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def _eval_arrays(task: Task, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
  return local_share({name: batch[name] for name in task.eval_arrays})


def _shardings(abstract: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _global_shapes(local: Any, sharding: jax.sharding.NamedSharding) -> Any:
  def shape(x: np.ndarray) -> jax.ShapeDtypeStruct:
    rows = x.shape[0] * jax.process_count()
    return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding)

  return jax.tree.map(shape, local)
