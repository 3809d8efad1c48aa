"""The training loop: one task, its batches, a folder. It knows nothing of what is trained.

Order of a run, the same whether it is new or goes on:
  1. what lies in the folder is from this config and these data, or the run does not begin;
  2. the state is made on the mesh, or restored onto it from the newest checkpoint;
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
from hiresmed_jax.routes.programs import (
  Programs,
  abstract_state,
  compile_programs,
  evaluate,
  first_state,
  local_share,
  next_state,
)
from hiresmed_jax.routes.report import Examples
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import checkpoint, interrupt, run_folder
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.runtime.throughput import Rate
from hiresmed_jax.runtime.writer import Writer, truncate

_WARM_START = 4  # batches


class Cadence(NamedTuple):
  """How often things happen, in steps. `evaluate`: validation, figures and a checkpoint."""

  log: int
  evaluate: int
  keep: int
  max_skipped: int


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
  val_batches: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
  cadence: Cadence,
  examples: int,
  draw: Callable[[int, Examples], None],
  finish: Callable[[Any, Programs], dict[str, Any]],
) -> dict[str, Any]:
  """Trains a task to its end, phase after phase; returns what DONE.json holds.

  Args:
    task: what is trained.
    folder: <workdir>/<route>.
    identity: what makes the run this run: "config" (nested values), "config_hash" and "data"
      (fingerprint).
    seed: of the first state.
    mesh: of all devices.
    train_data: grain dataset of this process's share of each batch, endless; for phases without
      a batch of their own.
    val_batches: host batches of validation images, at each call anew, whole on every process, each
      with "weight"; for the same phases.
    cadence: how often to log, evaluate and save.
    examples: rows of a figure.
    draw: (step, examples of an evaluation) writes a figure; called on process 0.
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
  made_by = {"config_hash": identity["config_hash"], "data": identity["data"]}
  ends = list(itertools.accumulate(phase.steps for phase in task.phases))
  with contextlib.ExitStack() as stack:
    manager = stack.enter_context(_open_checkpoints(task, folder, cadence.keep))
    # Left before the checkpoints are: closing them waits for a process that may be gone.
    stack.enter_context(interrupt.leave_together(unless=(Stopped,)))
    step = manager.latest_step() or 0
    truncate(folder / "metrics.jsonl", step)
    writer = stack.enter_context(contextlib.closing(Writer(folder)))
    stop = stack.enter_context(interrupt.Interrupt())
    progress = stack.enter_context(Progress(ends[-1], task.name, done=step))
    state: Any = None
    window: list[Mapping[str, Any]] = []  # scalars of the steps since the last line

    def save(data_state: Any, metrics: Mapping[str, float] | None) -> None:
      about = {**made_by, "window": [_floats(scalars) for scalars in window]}
      checkpoint.save(manager, step, state, data_state=data_state, metadata=about, metrics=metrics)

    for number in range(_phase_at(ends, step), len(ends)):
      phase, end = task.phases[number], ends[number]
      batches = stack.enter_context(_batches(phase, train_data))
      validation = val_batches if phase.batch is None else functools.partial(iter, [phase.batch])
      first = _peek(batches, _WARM_START if task.warm_start else 1)
      programs = compile_programs(task, number, mesh, first[0], next(iter(validation())))

      if state is None and step:
        saved_in = abstract_state(task, bisect.bisect_left(ends, step), mesh)
        state, data_state, about = checkpoint.restore(manager, saved_in, expect=made_by)
        window = about["window"]
        if data_state is not None:
          batches.set_state(data_state)
      if state is None:
        state = first_state(task, programs, seed, first)
      elif phase.begin is not None and step == end - phase.steps:
        state = next_state(phase.begin, programs, state, programs.put(first[0]))
      del first
      if step == end:  # the run was stopped after its last step
        break
      if len(ends) > 1:
        progress.print(phase.name)

      rate = Rate(phase.batch_size, programs.flops_per_call / phase.steps_per_call, step=step)
      for batch, data_state in meshes.prefetch_to_device(batches, programs.put):
        state, scalars = programs.step(state, batch, programs.frozen)
        window.append(scalars)
        before, step = step, step + phase.steps_per_call
        progress.update(step)
        last = step == end
        if step // cadence.log > before // cadence.log or last:
          values = _line(task, window)
          window.clear()
          writer.write_scalars(step, values | rate.measure(step))
          shown = {short: values[name] for name, short in task.shown.items() if name in values}
          progress.describe(" ".join(f"{short} {value:.3g}" for short, value in shown.items()))
          _check_health(values.get(task.in_a_row, 0), cadence.max_skipped, step)
        if step // cadence.evaluate > before // cadence.evaluate or last:
          with rate.paused():
            drawn = Examples(examples)
            numbers, _ = evaluate(task, programs, state, validation(), drawn.add)
            writer.write_scalars(step, {f"val_{key}": value for key, value in numbers.items()})
            writer.flush()
            if jax.process_index() == 0:
              draw(step, drawn)
            save(data_state, numbers)
        if step == ends[-1]:
          break
        # Several processes agree by a collective, which is not for every step.
        asks = jax.process_count() == 1 or step // phase.steps_per_call % 10 == 0
        if asks and interrupt.agree(stop.requested):
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


def _open_checkpoints(
  task: Task, folder: pathlib.Path, keep: int
) -> contextlib.AbstractContextManager[checkpoint.Manager]:
  name, sign = task.select or (None, 1)
  return checkpoint.open(
    folder / "checkpoints", keep=keep, best=name, best_mode="max" if sign > 0 else "min"
  )


def _phase_at(ends: Sequence[int], step: int) -> int:
  """The phase in which the step after `step` is made; the last one when all are."""
  return min(bisect.bisect_right(ends, step), len(ends) - 1)


@contextlib.contextmanager
def _batches(phase: Phase, train_data: Iterable[Any]) -> Iterator[Any]:
  """This process's share of the batches of a phase: an iterator, closed on leaving."""
  if phase.batch is None:
    with contextlib.closing(iter(train_data)) as iterator:  # type: ignore[type-var]
      yield iterator
  else:
    yield itertools.repeat(local_share(phase.batch))


def _peek(batches: Any, count: int) -> list[Any]:
  """The next batches; the iterator gives them again."""
  if isinstance(batches, itertools.repeat):
    return [next(batches)] * count
  here = copy.deepcopy(batches.get_state())
  found = [next(batches) for _ in range(count)]
  batches.set_state(here)
  return found


def _floats(scalars: Mapping[str, Any]) -> dict[str, float]:
  return {key: float(value) for key, value in jax.device_get(dict(scalars)).items()}


def _line(task: Task, window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Mean of every scalar since the last line; the newest value of `task.newest`."""
  rows = [_floats(scalars) for scalars in window]
  means = {key: float(np.mean([row[key] for row in rows])) for key in rows[-1]}
  return means | {key: rows[-1][key] for key in task.newest}


def _check_health(in_a_row: float, most: int, step: int) -> None:
  if in_a_row >= most:
    raise UserError(
      f"{in_a_row:.0f} updates in a row were not finite (step {step}): "
      "the run has diverged; lower the learning rate or the GAN weight, or train in float32"
    )
