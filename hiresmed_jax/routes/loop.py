"""The training loop: one task, its batches, a folder. Nothing here knows what is trained.

Order of a run, the same whether it is new or goes on:
  1. what lies in the folder is from this config and these data, or the run does not begin;
  2. the state is born on the mesh, or restored onto it from the newest checkpoint;
  3. step, log, evaluate, save; a signal saves and leaves;
  4. the best weights are restored and handed to `finish`; DONE.json says that the route is trained.
"""

import bisect
import contextlib
import copy
import functools
import itertools
import pathlib
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import checkpoint, compilation, cost, interrupt, run_folder, throughput
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.runtime.writer import Writer, truncate


class Cadence(NamedTuple):
  """How often things happen, in steps. `evaluate`: validation, figures and a checkpoint."""

  log: int
  evaluate: int
  keep: int
  max_skipped: int


class Programs(NamedTuple):
  """What is compiled once per phase, and where its arrays live."""

  step: Callable[..., Any]
  evaluate: Callable[..., Any]
  flops_per_call: float
  abstract_state: Any
  batch_sharding: jax.sharding.NamedSharding
  frozen: Any


class Stopped(Exception):
  """The run was asked to stop, and has saved. `code`: the exit status, 128 + the signal."""

  def __init__(self, step: int, code: int):
    super().__init__(f"stopped; saved at step {step}: the same command goes on from there")
    self.code = code


def fit(
  task: Task,
  *,
  folder: pathlib.Path,
  identity: Mapping[str, Any],
  seed: int,
  mesh: jax.sharding.Mesh,
  train_data: Iterable[Any] = (),
  val_batches: Sequence[Mapping[str, Any]] = (),
  cadence: Cadence,
  draw: Callable[[int, list[np.ndarray]], None],
  finish: Callable[[Any, Programs], dict[str, Any]],
) -> dict[str, Any]:
  """Trains a task to its end, phase after phase; returns what DONE.json holds.

  Args:
    folder: <workdir>/<route>.
    identity: what makes the run this run: "config" (nested values) and "data" (fingerprint).
    train_data: grain dataset of this process's share of each batch, endless; for phases without
      a batch of their own.
    val_batches: host batches of validation images, whole on every process, each with "weight";
      for the same phases.
    draw: (step, pictures_m11 of each batch) writes figures; called on process 0.
    finish: (best state, programs) -> results, after the last step.

  Raises:
    UserError: the folder is another run's; the run diverged; no space is left.
    Stopped: SIGTERM or Ctrl-C, after saving.
  """
  done = run_folder.claim(folder, identity)
  if done is not None:
    if jax.process_index() == 0:
      print(f"{task.name} is trained already: {folder / 'DONE.json'}")
    return done
  name, sign = task.select or (None, 1)
  alone = jax.process_count() == 1
  ends = list(itertools.accumulate(phase.steps for phase in task.phases))
  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(
      checkpoint.open(
        folder / "checkpoints", keep=cadence.keep, best=name, best_mode="max" if sign > 0 else "min"
      )
    )
    # Left before the checkpoints are: closing them waits for a process that may be gone.
    stack.enter_context(interrupt.leave_together(unless=(Stopped,)))
    made_by = {"config_hash": identity["config_hash"], "data": identity["data"]}
    step = manager.latest_step() or 0
    truncate(folder / "metrics.jsonl", step)
    writer = stack.enter_context(contextlib.closing(Writer(folder)))
    stop = stack.enter_context(interrupt.Interrupt())
    progress = stack.enter_context(Progress(ends[-1], task.name, done=step))
    state: Any = None
    window: list[Mapping[str, Any]] = []

    def save(data_state: Any, metrics: Mapping[str, float] | None) -> None:
      kept = {**made_by, "window": [_floats(scalars) for scalars in window]}
      checkpoint.save(manager, step, state, data_state=data_state, metadata=kept, metrics=metrics)

    for number in range(_phase_at(ends, step), len(ends)):
      phase, end = task.phases[number], ends[number]
      iterator = stack.enter_context(_batches(phase, train_data))
      held = val_batches if phase.batch is None else [phase.batch]
      first = _next_batches(iterator, 4 if phase.batch is None else 1)
      programs = compile_programs(_with_shapes_of(task, number), mesh, first[0], held)
      put = functools.partial(meshes.put_batch, sharding=programs.batch_sharding)
      if state is None and step:
        made_in = bisect.bisect_left(ends, step)
        abstract = programs.abstract_state
        if made_in != number:
          abstract = _abstract_state(_with_shapes_of(task, made_in), mesh)
        state, data_state, kept = checkpoint.restore(manager, abstract, expect=made_by)
        window = kept["window"]
        if data_state is not None:
          iterator.set_state(data_state)
      if state is None:
        state = _begin(task, programs, seed, first)
      elif phase.begin is not None and step == end - phase.steps:
        state = _next_phase(phase.begin, programs, state, put(first[0]))
      del first
      if len(ends) > 1 and step < end:
        progress.print(phase.name)
      flops_per_step = programs.flops_per_call / phase.steps_per_call
      rate = throughput.Rate(phase.batch_size, flops_per_step, step=step)

      if step == end:  # the run was finished but for what follows the last step
        break
      for batch, data_state in meshes.prefetch_to_device(iterator, put):
        state, scalars = programs.step(state, batch, programs.frozen)
        window.append(scalars)
        before, step = step, step + phase.steps_per_call
        progress.update(step)
        last = step == end
        if step // cadence.log > before // cadence.log or last:
          values = _means(window)
          window.clear()
          writer.write_scalars(step, values | rate.measure(step))
          progress.describe(_line(values))
          _check_health(values, cadence, step)
        if step // cadence.evaluate > before // cadence.evaluate or last:
          with rate.paused():
            numbers, pictures = evaluate(task, programs, state, held)
            writer.write_scalars(step, {f"val_{key}": value for key, value in numbers.items()})
            writer.flush()
            if jax.process_index() == 0:
              draw(step, pictures)
            save(data_state, numbers)
        if step == ends[-1]:
          break
        # Several processes agree by a collective, which is not for every step.
        if (alone or step // phase.steps_per_call % 10 == 0) and interrupt.agree(stop.requested):
          save(data_state, None)
          checkpoint.wait(manager)
          raise Stopped(step, stop.exit_code or 128 + signal.SIGTERM)
        if last:
          break

    checkpoint.wait(manager)
    best = manager.latest_step()
    if task.select:
      best = manager.best_step() or best
      state = None  # two of them may not fit
      state, _, _ = checkpoint.restore(manager, programs.abstract_state, step=best)
    results = finish(state, programs)
  return run_folder.write_done(folder, identity, best, results)


def compile_programs(
  task: Task,
  mesh: jax.sharding.Mesh,
  batch: Mapping[str, Any],
  val_batches: Sequence[Mapping[str, Any]],
) -> Programs:
  """Compiles the step and the evaluation ahead of time, for the shapes of these host batches."""
  split, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
  abstract_state = _abstract_state(task, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
  frozen = jax.device_put(task.frozen, whole)
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=(shardings, whole))
  traced = step.trace(abstract_state, _global_shapes(batch, split), frozen)
  held = _global_shapes(_local_share(_arrays(val_batches[0])), split)
  evaluate = jax.jit(task.eval_step, out_shardings=whole)
  options = compilation.options()
  return Programs(
    step=traced.lower().compile(options),
    evaluate=evaluate.lower(abstract_state, held, frozen).compile(options),
    # Of the trace: not every backend tells, and of those that do some count a loop once.
    flops_per_call=sum(cost.flops(traced.jaxpr.jaxpr).values()),
    abstract_state=abstract_state,
    batch_sharding=split,
    frozen=frozen,
  )


def evaluate(
  task: Task, programs: Programs, state: Any, batches: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, float], list[np.ndarray]]:
  """Runs the evaluation over host batches -> (named numbers, pictures_m11 without the padding)."""
  totals: Any = None
  pictures = []
  for batch in batches:
    arrays = meshes.put_batch(_local_share(_arrays(batch)), programs.batch_sharding)
    more, drawn = programs.evaluate(state, arrays, programs.frozen)
    totals = more if totals is None else jax.tree.map(np.add, totals, jax.device_get(more))
    pictures.append(np.array(drawn)[np.asarray(batch["weight"]) > 0])
  return task.summarise(jax.device_get(totals)), pictures


def _begin(task: Task, programs: Programs, seed: int, first: Sequence[Mapping[str, Any]]) -> Any:
  """The state before step 0, born on the mesh."""
  shardings = jax.tree.map(lambda leaf: leaf.sharding, programs.abstract_state)
  # Runs once: what the compiler would make faster is not worth the wait (53 s against 11 s).
  quick = {"xla_backend_optimization_level": 0}
  init = jax.jit(task.init, out_shardings=shardings, compiler_options=quick)
  state = init(jax.random.key(seed))
  if task.warm_start is None:
    return state
  put = functools.partial(meshes.put_batch, sharding=programs.batch_sharding)
  images = [put(batch["images_m11"]) for batch in first]
  return jax.jit(task.warm_start, out_shardings=shardings)(state, images, programs.frozen)


def _next_phase(begin: Callable[..., Any], programs: Programs, state: Any, batch: Any) -> Any:
  shardings = jax.tree.map(lambda leaf: leaf.sharding, programs.abstract_state)
  quick = {"xla_backend_optimization_level": 0}  # runs once, as `_begin`
  return jax.jit(begin, out_shardings=shardings, compiler_options=quick)(state, batch)


def _phase_at(ends: Sequence[int], step: int) -> int:
  """The phase in which the step after `step` is made; the last one when all are."""
  return min(bisect.bisect_right(ends, step), len(ends) - 1)


def _with_shapes_of(task: Task, number: int) -> Task:
  """The task with an `init` that leads to the first state of a phase."""
  if not number:
    return task

  def init(key: Any) -> Any:
    state = task.init(key)
    for phase in task.phases[1 : number + 1]:
      if phase.begin is not None and phase.batch is not None:
        state = phase.begin(state, dict(phase.batch))
    return state

  return task._replace(init=init)


def _abstract_state(task: Task, mesh: jax.sharding.Mesh) -> Any:
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  return meshes.with_shardings(shapes, task.shardings(shapes, mesh))


@contextlib.contextmanager
def _batches(phase: Phase, train_data: Iterable[Any]) -> Iterator[Any]:
  """This process's share of the batches of a phase: an iterator, closed on leaving."""
  if phase.batch is None:
    with contextlib.closing(iter(train_data)) as iterator:  # type: ignore[type-var]
      yield iterator
  else:
    yield itertools.repeat(_local_share(phase.batch))


def _next_batches(iterator: Any, count: int) -> list[Any]:
  """Batches that the iterator will give again. There is but one: each reads ahead for itself."""
  if isinstance(iterator, itertools.repeat):
    return [next(iterator)] * count
  here = copy.deepcopy(iterator.get_state())
  batches = [next(iterator) for _ in range(count)]
  iterator.set_state(here)
  return batches


def _arrays(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
  known = ("images_m11", "weight", "valid", "boxes_xyxy", "boxes_valid", "labels")
  return {key: batch[key] for key in known if key in batch}


def _local_share(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """This process's rows of a batch that every process holds whole."""
  processes, index = jax.process_count(), jax.process_index()
  share = {key: len(value) // processes for key, value in batch.items()}
  return {key: value[index * share[key] : (index + 1) * share[key]] for key, value in batch.items()}


def _global_shapes(local: Any, sharding: jax.sharding.NamedSharding) -> Any:
  processes = jax.process_count()
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (x.shape[0] * processes, *x.shape[1:]), x.dtype, sharding=sharding
    ),
    local,
  )


def _floats(scalars: Mapping[str, Any]) -> dict[str, float]:
  return {key: float(value) for key, value in jax.device_get(dict(scalars)).items()}


def _means(window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Mean of every scalar since the last line; of counters the newest value."""
  rows = [_floats(scalars) for scalars in window]
  means = {key: float(np.mean([row[key] for row in rows])) for key in rows[-1]}
  newest = {key: rows[-1][key] for key in rows[-1] if key.startswith(("skipped", "code_"))}
  return means | newest


def _check_health(values: Mapping[str, float], cadence: Cadence, step: int) -> None:
  if values.get("skipped_in_a_row", 0) >= cadence.max_skipped:
    raise UserError(
      f"{values['skipped_in_a_row']:.0f} updates in a row were not finite (step {step}): "
      "the run has diverged; lower the learning rate or the GAN weight, or train in float32"
    )


def _line(values: Mapping[str, float]) -> str:
  """The few numbers that a person watches."""
  names = {
    "reconstruction": "rec",
    "perceptual": "lpips",
    "gan_weight": "gan",
    "code_usage": "codes",
    "box": "box",
    "classes": "class",
    "cross_entropy": "entropy",
    "dice_loss": "dice",
  }
  return " ".join(f"{short} {values[key]:.3g}" for key, short in names.items() if key in values)
