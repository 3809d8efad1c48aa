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
    steps_per_call: steps that one call of `Task.train_step` makes; it divides `steps`.
    begin: (last state of the phase before, batch) -> state. None: the first phase, which begins
      with `Task.init`.
    batch: arrays on the host that every step trains on and every evaluation judges, whole on
      every process. None: batches come from a dataset.
  """

  name: str
  steps: int
  batch_size: int
  steps_per_call: int = 1
  begin: Callable[[Any, Batch], Any] | None = None
  batch: Mapping[str, Any] | None = None


class Task(NamedTuple):
  """One route as pure functions of its state, whose shapes may differ from phase to phase.

  Attributes:
    name: the route.
    phases: trained one after another.
    frozen: weights that are read but never trained; they are not in checkpoints.
    init: key -> state, with no data.
    warm_start: (state, [images_m11 of each of the first batches], frozen) -> state, once before
      step 0.
    train_step: (state, batch, frozen) -> (state, scalars).
    eval_step: (state, batch, frozen) -> (totals, pictures_m11). Totals of batches add up, so that
      padding (batch["weight"] 0) stays exact; pictures are f32[N, H, W, C], for figures.
    summarise: added-up totals -> named numbers, on the host.
    select: the number of `summarise` by which the best checkpoint is kept; +1: more is better.
      None: the last one is what counts.
    shardings: (shapes of a state, mesh) -> where each of its leaves lives.
  """

  name: str
  phases: tuple[Phase, ...]
  frozen: Params
  init: Callable[[Array], Any]
  warm_start: Callable[[Any, Sequence[Array], Params], Any] | None
  train_step: Callable[[Any, Batch, Params], tuple[Any, Metrics]]
  eval_step: Callable[[Any, Batch, Params], tuple[Mapping[str, Array], Array]]
  summarise: Callable[[Mapping[str, Any]], dict[str, float]]
  select: tuple[str, int] | None
  shardings: Callable[[Any, Any], Any] = meshes.state_shardings
