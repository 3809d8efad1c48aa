"""What routes with one network share: a loss of a batch, one optimiser.

A route gives the network, the loss of a batch and its evaluation. The state, the update, what is
skipped and the running average are here.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.routes.task import Phase, Task
from hiresmed_jax.runtime import optim
from hiresmed_jax.runtime.optim import pack, unpack
from hiresmed_jax.types import Array, Batch, Metrics, Params

# ({"params", "batch_stats"}, batch, key of the step) -> (loss f32[], (scalars, new batch_stats))
Loss: TypeAlias = Callable[[Params, Batch, Array], tuple[Array, tuple[Metrics, Params]]]
# ({"params", "batch_stats"}, batch) -> (totals, pictures), see `Task.eval_step`
Evaluate: TypeAlias = Callable[[Params, Batch], tuple[Mapping[str, Array], Array]]
Average: TypeAlias = Callable[..., dict[str, Array]]  # (average, new values, step=), all packed


@flax.struct.dataclass
class State:
  """All that a resumed run needs, and only arrays."""

  step: Array  # i32[]
  params: Params
  stats: Params  # running statistics of the batch norms; {} without any
  opt: optax.OptState  # of the packed parameters
  ema: Params  # {"params", "batch_stats"}, packed; {} without averaging
  skipped: Array  # i32[2], non-finite updates: in all, and in a row
  key: Array


def task(
  name: str,
  *,
  net: Any,
  shapes: Sequence[Sequence[int]],
  steps: int,
  batch_size: int,
  tx: optax.GradientTransformation,
  loss: Loss,
  average: Average | None,
  evaluate: Evaluate,
  start_from: Params | None = None,
  **about: Any,
) -> Task:
  """Makes the task of a route that has one network, a Linen module.

  Args:
    name: the route.
    net: of images in [-1, 1] or [0, 1], and perhaps more.
    shapes: of its arguments, (1, rows, columns, channels) first, for the shapes of the parameters.
    steps: length of the run.
    batch_size: over all processes.
    tx: optimiser of packed parameters.
    loss: what is differentiated.
    average: the running average of the weights; None: there is none.
    evaluate: of the averaged weights.
    start_from: {"params", "batch_stats"} to begin with; None: random.
    **about: the other fields of `Task`.
  """
  averages = average is not None
  return Task(
    name=name,
    phases=(Phase(name, steps, batch_size),),
    init=functools.partial(
      _init, net=net, tx=tx, averages=averages, shapes=shapes, start_from=start_from
    ),
    train_step=functools.partial(_train_step, loss=loss, tx=tx, average=average),
    eval_step=functools.partial(_eval_step, evaluate=evaluate),
    newest=optim.SKIPPED,
    in_a_row=optim.SKIPPED[1],
    **about,
  )


def averaged(state: State) -> dict[str, Params]:
  """{"params", "batch_stats"} to use: their running average where the run keeps one."""
  here = {"params": state.params, "batch_stats": state.stats}
  return unpack(dict(state.ema), here) if state.ema else here


def _init(
  key: Array,
  *,
  net: Any,
  tx: optax.GradientTransformation,
  averages: bool,
  shapes: Sequence[Sequence[int]],
  start_from: Params | None,
) -> State:
  net_key, key = jax.random.split(key)
  if start_from is None:
    variables = net.init(net_key, *(jnp.zeros(shape) for shape in shapes))
  else:
    variables = jax.tree.map(jnp.asarray, dict(start_from))
  here = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
  return State(
    step=jnp.zeros((), jnp.int32),
    params=here["params"],
    stats=here["batch_stats"],
    opt=tx.init(pack(here["params"])),
    ema=jax.tree.map(jnp.copy, pack(here)) if averages else {},
    skipped=jnp.zeros((2,), jnp.int32),
    key=key,
  )


def _train_step(
  state: State,
  batch: Batch,
  frozen: Params,
  *,
  loss: Loss,
  tx: optax.GradientTransformation,
  average: Average | None,
) -> tuple[State, Metrics]:
  """One update; none where a gradient is not finite."""
  del frozen
  key = jax.random.fold_in(state.key, state.step)

  def of_params(params: Params) -> tuple[Array, tuple[Metrics, Params]]:
    return loss({"params": params, "batch_stats": state.stats}, batch, key)

  grads, (scalars, stats) = jax.grad(of_params, has_aux=True)(state.params)
  grads = pack(grads)
  finite = optim.all_finite(grads)
  params, opt = optim.update(tx, grads, state.params, state.opt, finite)
  stats = optim.select(finite, stats, state.stats)
  ema = state.ema
  if average is not None:
    ema = average(dict(ema), pack({"params": params, "batch_stats": stats}), step=state.step)
  skipped = optim.count_skipped(state.skipped, finite)
  new = dataclasses.replace(
    state, step=state.step + 1, params=params, stats=stats, opt=opt, ema=ema, skipped=skipped
  )
  counts = dict(zip(optim.SKIPPED, skipped))
  return new, scalars | counts | {"gradient_norm": optax.tree.norm(grads)}


def _eval_step(
  state: State, batch: Batch, frozen: Params, *, evaluate: Evaluate
) -> tuple[Mapping[str, Array], Array]:
  del frozen
  return evaluate(averaged(state), batch)
