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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn, TypeAlias

import jax
import numpy as np

from hiresmed_jax.errors import Stopped, UserError
from hiresmed_jax.routes.programs import (
  Programs,
  abstract_state,
  compile_programs,
  evaluate,
  first_state,
  local_share,
  next_state,
)
from hiresmed_jax.routes.report import Examples, Look
from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import checkpoint, interrupt, run_folder
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.cost import Rate
from hiresmed_jax.runtime.progress import Progress, duration
from hiresmed_jax.runtime.run_folder import Writer, truncate_metrics

_WARM_START = 4  # batches
# Scalars of a call, and how many steps they are of: f32[most_steps] each; 0: f32[], of one step.
Window: TypeAlias = tuple[Mapping[str, Any], int]


class Cadence(NamedTuple):
  """How often things happen, in steps. `evaluate`: validation, figures and a checkpoint."""

  log: int
  evaluate: int
  keep: int
  max_skipped: int


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
    # Whether the evaluation of this step is still to be made: the run was stopped in it.
    evaluates = bool(step) and checkpoint.metadata(manager, step).get("evaluates", False)
    truncate_metrics(folder / "metrics.jsonl", step)
    writer = stack.enter_context(contextlib.closing(Writer(folder)))
    progress = stack.enter_context(Progress(ends[-1], task.name, done=step))
    state: Any = None
    data_state: Any = None  # of the iterator of training batches
    window: list[Window] = []  # what was trained since the last line
    compiling = "compiling: may take minutes on a CPU"
    details: dict[str, str] = {}  # at the end of the progress line

    def show(what: str, numbers: str) -> None:
      details[what] = numbers
      progress.describe("  ".join(details.values()))

    def log(rate: Rate) -> None:
      values = _line(task, window)
      window.clear()
      writer.write_scalars(step, values | rate.measure(step))
      show("losses", _shown(task, values))
      _check_health(values.get(task.in_a_row, 0), cadence.max_skipped, step)

    def save(metrics: Mapping[str, float] | None = None) -> None:
      checkpoint.save(
        manager,
        step,
        state,
        data_state=data_state,
        metadata={**made_by, "window": _rows(window), "evaluates": evaluates},
        metrics=metrics,
        replace=metrics is not None,
      )

    def save_and_stop(code: int) -> NoReturn:
      save()
      checkpoint.wait(manager)
      raise Stopped(code, step=step, agreed=True)

    left = range(_phase_at(ends, step, evaluates), len(ends))
    ahead = stack.enter_context(_compiled_ahead(task, left, mesh))
    for number in left:
      phase, end = task.phases[number], ends[number]
      with contextlib.ExitStack() as of_phase:
        iterator = of_phase.enter_context(_iterator(phase, train_data))
        with progress.doing("reading the first images"):
          first = _first_batches(phase, iterator, _WARM_START if task.warm_start else 1)
        validation = val_batches if phase.batch is None else functools.partial(iter, [phase.batch])
        began = time.monotonic()
        with progress.doing(compiling, announce=True):
          programs = (
            ahead.pop(number).result()
            if number in ahead
            else compile_programs(task, number, mesh, first[0], next(iter(validation())))
          )
        took = duration(time.monotonic() - began)
        compiling = f"compiling: the part before took {took}"

        with progress.doing("making the first state"):
          if state is None and step:
            saved_in = abstract_state(task, bisect.bisect_left(ends, step), mesh)
            state, data_state, about = checkpoint.restore(manager, saved_in, expect=made_by)
            window = [(row, 0) for row in about["window"]]
            if data_state is not None:
              iterator.set_state(data_state)
          if state is None:
            state = first_state(task, programs, seed, first)
          elif phase.begin is not None and step == end - phase.steps:
            state = next_state(phase.begin, programs, state, programs.put(first[0]))
        del first
        if len(ends) > 1 and step < end:
          progress.print(f"{task.name}: {phase.name}")

        # From here on a signal waits for the end of a call, and what was trained is saved.
        stop = of_phase.enter_context(interrupt.Interrupt())
        pace = interrupt.Pace(phase.most_steps)
        rate = Rate(phase.batch_size, programs.flops_per_step, step=step)
        feed = _feed(phase, iterator, programs)
        before, count = None, 1  # scalars of the call before, steps of the last one
        while evaluates or step < end:
          if not evaluates:
            batch, data_state = next(feed)
            count = min(pace.steps, _until(step, cadence.log, cadence.evaluate), end - step)
            counts = (np.int32(count),) if phase.most_steps else ()
            state, scalars = programs.step(state, batch, programs.frozen, *counts)
            # The host stays one call ahead of the devices, and none where calls are long: what was
            # dispatched cannot be stopped.
            jax.block_until_ready(scalars if pace.slow else before)
            before, step = scalars, step + count
            window.append((scalars, count if phase.most_steps else 0))
            progress.update(step)
            if step % cadence.log == 0 or step == end:
              log(rate)
            evaluates = step % cadence.evaluate == 0 or step == end
          if evaluates:
            drawn = Examples(examples)
            with rate.paused(), progress.doing("evaluating"):
              try:
                numbers, _ = evaluate(task, programs, state, validation(), _look(drawn, stop))
              except Stopped as stopped:
                save_and_stop(stopped.code)
              writer.write_scalars(step, {f"val_{key}": value for key, value in numbers.items()})
              writer.flush()
              if task.select and task.select[0] in numbers:
                show("score", f"val_{task.select[0]} {numbers[task.select[0]]:.3g}")
              if jax.process_index() == 0:
                draw(step, drawn)
              evaluates = False
              save(numbers)
          if pace.agree(stop.requested, count):
            save_and_stop(stop.exit_code)
        checkpoint.wait(manager)
        if meshes.gather(np.array([stop.requested], np.float32)).any():
          raise Stopped(stop.exit_code, step=step, agreed=True)

    best = manager.latest_step()
    with progress.doing("measuring what was trained"):
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


def _phase_at(ends: Sequence[int], step: int, evaluates: bool) -> int:
  """The phase in which the step after `step` is made, or `step` itself is to be evaluated."""
  if evaluates:
    return bisect.bisect_left(ends, step)
  return min(bisect.bisect_right(ends, step), len(ends) - 1)


@contextlib.contextmanager
def _iterator(phase: Phase, train_data: Iterable[Any]) -> Iterator[Any]:
  """Of this process's share of the batches of a phase, closed on leaving; None: it has but one."""
  if phase.batch is None:
    with contextlib.closing(iter(train_data)) as iterator:  # type: ignore[type-var]
      yield iterator
  else:
    yield None


def _first_batches(phase: Phase, iterator: Any, count: int) -> list[Any]:
  """The next batches; the iterator gives them again."""
  if phase.batch is not None:
    return [local_share(phase.batch)]
  here = copy.deepcopy(iterator.get_state())
  found = [next(iterator) for _ in range(count)]
  iterator.set_state(here)
  return found


@contextlib.contextmanager
def _compiled_ahead(
  task: Task, numbers: Iterable[int], mesh: jax.sharding.Mesh
) -> Iterator[dict[int, Future[Programs]]]:
  """Compiles phases while those before them train, two at a time: {number of a phase: programs}.

  Not where the shapes are not known before the first batch, and not with several processes, whose
  transfers would meet those of training in another order.
  """
  pool, coming = ThreadPoolExecutor(2), {}
  for number in numbers if jax.process_count() == 1 else ():
    if (batch := task.phases[number].batch) is not None:
      coming[number] = pool.submit(compile_programs, task, number, mesh, batch, batch)
  try:
    yield coming
  finally:
    pool.shutdown(wait=False, cancel_futures=True)  # a run that stops waits for no compiler


def _feed(phase: Phase, iterator: Any, programs: Programs) -> Iterator[tuple[Any, Any]]:
  """(batch on the devices, the iterator's state after it) for every call."""
  if phase.batch is None:
    return meshes.prefetch_to_device(iterator, programs.put)
  return itertools.repeat((programs.put(local_share(phase.batch)), None))


def _until(step: int, *every: int) -> int:
  """Steps until the next multiple of one of them."""
  return min(each - step % each for each in every)


def _look(examples: Examples, stop: interrupt.Interrupt) -> Look:
  """Collects examples of an evaluation, and raises `Stopped` when any process is asked to stop."""
  pace = interrupt.Pace()

  def look(batch: Mapping[str, Any], made: np.ndarray) -> None:
    examples.add(batch, made)
    if pace.agree(stop.requested):
      raise Stopped(stop.exit_code, agreed=True)

  return look


def _rows(window: Sequence[Window]) -> list[dict[str, float]]:
  """The scalars of every step."""
  rows = []
  for scalars, count in window:
    values = jax.device_get(dict(scalars))
    steps = [{key: value[i] for key, value in values.items()} for i in range(count)]
    rows += [{key: float(value) for key, value in row.items()} for row in steps or [values]]
  return rows


def _line(task: Task, window: Sequence[Window]) -> dict[str, float]:
  """Mean of every scalar since the last line; the newest value of `task.newest`."""
  rows = _rows(window)
  means = {key: float(np.mean([row[key] for row in rows])) for key in rows[-1]}
  return means | {key: rows[-1][key] for key in task.newest}


def _shown(task: Task, values: Mapping[str, float]) -> str:
  """The few numbers of the progress line."""
  return " ".join(f"{name} {values[key]:.3g}" for key, name in task.shown.items() if key in values)


def _check_health(in_a_row: float, most: int, step: int) -> None:
  if in_a_row >= most:
    raise UserError(
      f"{in_a_row:.0f} updates in a row were not finite (step {step}): "
      "the run has diverged; lower the learning rate or the GAN weight, or train in float32"
    )
