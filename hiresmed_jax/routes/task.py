"""What the loop needs to know of a thing that is trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.types import Array, Batch, Metrics, Params


class Phase(NamedTuple):
  """A stretch of training with one program and batch shape. Most routes have one."""

  name: str  # for the progress line
  steps: int  # its length
  batch_size: int  # images of one step, over all processes
  # Steps that a call of `Task.train_step` can make; the loop chooses how many, by the time that
  # they take. 0: a call makes one step.
  most_steps: int = 0
  # (last state of the phase before, batch) -> state. None: the first phase, which begins with
  # `Task.init`.
  begin: Callable[[Any, Batch], Any] | None = None
  # Arrays on the host, whole on every process, for every step and every evaluation. None: batches
  # come from a dataset.
  batch: Mapping[str, Any] | None = None


class Task(NamedTuple):
  """One route as pure functions of its state, whose shapes may differ from phase to phase."""

  name: str  # the route
  phases: tuple[Phase, ...]  # trained one after another
  init: Callable[[Array], Any]  # key -> state, with no data
  # (state, batch, frozen) -> (state, scalars f32[]); in a phase with `most_steps`: (state, batch,
  # frozen, count i32[]) -> (state, scalars f32[most_steps] of each step, of which `count` are
  # valid).
  train_step: Callable[..., tuple[Any, Metrics]]
  # (state, batch, frozen) -> (totals, pictures). Totals of batches add up, so that padding
  # (batch["weight"] 0) stays exact; pictures are f32[N, ...], for figures.
  eval_step: Callable[[Any, Batch, Params], tuple[Mapping[str, Array], Array]]
  eval_arrays: tuple[str, ...]  # names of what `eval_step` reads of a batch
  # Added-up totals -> named numbers, on the host.
  summarise: Callable[[Mapping[str, Any]], dict[str, float]]
  # The number of `summarise` by which the best checkpoint is kept; +1: more is better. None: the
  # last one is what counts.
  select: tuple[str, int] | None = None
  # Weights that are read but never trained; they are not in checkpoints.
  frozen: Params = {}  # noqa: RUF012
  # (state, the first batches, frozen) -> state, once before step 0; None: nothing.
  warm_start: Callable[[Any, Sequence[Batch], Params], Any] | None = None
  shown: Mapping[str, str] = {}  # {scalar: its short name} for the progress line
  # Scalars that are logged as they are; of the others the mean since the last line.
  newest: tuple[str, ...] = ()
  in_a_row: str = ""  # the scalar that counts the steps in a row that were skipped; "": none does
  # (shapes of a state, mesh) -> where each of its leaves lives.
  shardings: Callable[[Any, Any], Any] = meshes.state_shardings
