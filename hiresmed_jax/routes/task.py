"""What the loop needs to know of a thing that is trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.types import Array, Batch, Metrics, Params


class Phase(NamedTuple):
  """A stretch of training with one program and batch shape. Most routes have one.

  Attributes:
    name: for the progress line.
    steps: its length.
    batch_size: images of one step, over all processes.
    most_steps: steps that a call of `Task.train_step` can make; the loop chooses how many, by the
      time that they take. 0: a call makes one step.
    begin: (last state of the phase before, batch) -> state. None: the first phase, which begins
      with `Task.init`.
    batch: arrays on the host, whole on every process, for every step and every evaluation. None:
      batches come from a dataset.
  """

  name: str
  steps: int
  batch_size: int
  most_steps: int = 0
  begin: Callable[[Any, Batch], Any] | None = None
  batch: Mapping[str, Any] | None = None


class Task(NamedTuple):
  """One route as pure functions of its state, whose shapes may differ from phase to phase.

  Attributes:
    name: the route.
    phases: trained one after another.
    init: key -> state, with no data.
    train_step: (state, batch, frozen) -> (state, scalars f32[]); in a phase with `most_steps`:
      (state, batch, frozen, count i32[]) -> (state, scalars f32[most_steps] of each step, of which
      `count` are valid).
    eval_step: (state, batch, frozen) -> (totals, pictures). Totals of batches add up, so that
      padding (batch["weight"] 0) stays exact; pictures are f32[N, ...], for figures.
    eval_arrays: names of what `eval_step` reads of a batch.
    summarise: added-up totals -> named numbers, on the host.
    select: the number of `summarise` by which the best checkpoint is kept; +1: more is better.
      None: the last one is what counts.
    frozen: weights that are read but never trained; they are not in checkpoints.
    warm_start: (state, the first batches, frozen) -> state, once before step 0; None: nothing.
    shown: {scalar: its short name} for the progress line.
    newest: scalars that are logged as they are; of the others the mean since the last line.
    in_a_row: the scalar that counts the steps in a row that were skipped; "": none does.
    shardings: (shapes of a state, mesh) -> where each of its leaves lives.
  """

  name: str
  phases: tuple[Phase, ...]
  init: Callable[[Array], Any]
  train_step: Callable[..., tuple[Any, Metrics]]
  eval_step: Callable[[Any, Batch, Params], tuple[Mapping[str, Array], Array]]
  eval_arrays: tuple[str, ...]
  summarise: Callable[[Mapping[str, Any]], dict[str, float]]
  select: tuple[str, int] | None = None
  frozen: Params = {}  # noqa: RUF012
  warm_start: Callable[[Any, Sequence[Batch], Params], Any] | None = None
  shown: Mapping[str, str] = {}
  newest: tuple[str, ...] = ()
  in_a_row: str = ""
  shardings: Callable[[Any, Any], Any] = meshes.state_shardings
