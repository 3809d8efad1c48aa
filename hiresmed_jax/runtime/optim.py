"""Optimisers, and the few operations on their state that a VQ-GAN's training step needs.

Everything here is pure and may be called inside `jit`. A pytree below is any pytree of arrays.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import optax

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.mesh import MIN_SHARDED_ELEMENTS
from hiresmed_jax.types import Array

Tree = TypeVar("Tree")


def make_schedule(
  *,
  learning_rate: float,
  schedule: Literal["constant", "cosine", "linear"] = "constant",
  warmup_steps: int = 0,
  total_steps: int = 0,
) -> optax.Schedule:
  """Learning rate of update i, i = 0, 1, ...: linear from 0 over `warmup_steps`, then as named.

  "cosine" falls from `learning_rate` to 0 at `total_steps` (the warm-up is part of them). "linear"
  falls from `learning_rate` at update 0 to a hundredth of it at `total_steps`; during the warm-up a
  share of that line.

  Raises:
    UserError: an unknown name, or a cosine that would end before its warm-up does.
  """
  if schedule == "linear":
    line = optax.linear_schedule(learning_rate, 0.01 * learning_rate, max(1, total_steps))
    if not warmup_steps:
      return line
    return lambda step: line(step) * jnp.minimum(1.0, step / warmup_steps)
  if schedule == "cosine":
    if total_steps <= warmup_steps:
      raise UserError(
        f"a cosine schedule needs more steps in all ({total_steps}) than warm-up steps "
        f"({warmup_steps}): train longer or set a shorter warm-up"
      )
    if not warmup_steps:
      return optax.cosine_decay_schedule(learning_rate, total_steps)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, total_steps)
  if schedule == "constant":
    if not warmup_steps:
      return optax.constant_schedule(learning_rate)
    return optax.linear_schedule(0.0, learning_rate, warmup_steps)
  raise UserError(f"unknown schedule {schedule!r}: use 'constant', 'cosine' or 'linear'")


def make_optimizer(
  *,
  name: Literal["adam", "adamw", "sgd"] = "adam",
  learning_rate: float,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  schedule: Literal["constant", "cosine", "linear"] = "constant",
  warmup_steps: int = 0,
  total_steps: int = 0,
  accumulate: int = 1,
  clip: float = 0.0,
) -> optax.GradientTransformation:
  """Adam, AdamW or SGD, with a schedule, gradient accumulation and clipping by global norm.

  SGD has Nesterov's momentum `b1`, and its decay is part of the gradient. AdamW's decay is
  decoupled (Loshchilov and Hutter 2019). Either touches leaves named "kernel" only: a decayed
  norm scale, bias or unit-length code would only shrink. `warmup_steps` and `total_steps` count
  calls of `update`, so a config keeps its meaning whatever `accumulate` is. With `accumulate` = n
  the gradients of n calls are averaged (then clipped) and the parameters move on every n-th call.
  `clip` is the largest norm of all gradients together; 0: any.

  A step whose gradients are not finite is left out by `select` on the whole state: the accumulator
  keeps its sum and its counter, so the average is still over n finite gradients, one call later.

  Raises:
    UserError: an unknown name, decay asked of plain Adam, `accumulate` < 1, a bad schedule.
  """
  if accumulate < 1:
    raise UserError(f"accumulate must be 1 or more, not {accumulate}")
  if name not in ("adam", "adamw", "sgd"):
    raise UserError(f"unknown optimiser {name!r}: use 'adam', 'adamw' or 'sgd'")
  if name == "adam" and weight_decay:
    raise UserError("weight decay belongs to 'adamw': set name to 'adamw' or weight_decay to 0")
  rate = make_schedule(
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps // accumulate,
    total_steps=total_steps // accumulate,
  )
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  decay = optax.add_decayed_weights(weight_decay, mask=_is_kernel)
  if name == "sgd":
    parts += [decay, optax.trace(decay=b1, nesterov=True)]
  else:
    parts += [optax.scale_by_adam(b1=b1, b2=b2, eps=eps), *([decay] if weight_decay else ())]
  parts.append(optax.scale_by_learning_rate(rate))
  optimizer = optax.chain(*parts)
  if accumulate == 1:
    return optimizer
  return optax.MultiSteps(optimizer, every_k_schedule=accumulate).gradient_transformation()


def zero_rows(opt_state: Tree, path: str, mask: Array) -> Tree:
  """Forgets what the optimiser remembers of some rows of one parameter [K, ...], where bool[K].

  A revived code must not move by the moments, or by the half-accumulated gradients, of the code
  that it replaces. `opt_state` is that of any optax optimiser; `path` the parameter's name, or the
  end of its path with "/" between keys.

  Returns:
    `opt_state` with those rows of every array that stands for the parameter set to 0.

  Raises:
    ValueError: no array of the state belongs to the parameter.
  """
  matched = []

  def zero(key_path: Any, leaf: Array) -> Array:
    name = jax.tree_util.keystr(key_path, simple=True, separator="/")
    if not f"/{name}".endswith(f"/{path}"):
      return leaf
    matched.append(name)
    rows = mask.reshape(mask.shape + (1,) * (leaf.ndim - 1))
    return jnp.where(rows, jnp.zeros_like(leaf), leaf)

  result = jax.tree_util.tree_map_with_path(zero, opt_state)
  if not matched:
    raise ValueError(f"no moment in the optimiser's state belongs to a parameter {path!r}")
  return result


def all_finite(tree: Any) -> Array:
  """bool[]: True when no floating-point leaf of the pytree holds a NaN or an infinity."""
  leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
  if not leaves:
    return jnp.array(True)
  broken = jnp.stack([jnp.any(~jnp.isfinite(x)) for x in leaves]).astype(jnp.float32)
  # A product, not `any`: XLA unrolls that into a chain of as many terms as there are leaves, and
  # copies the chain into the update of every leaf that depends on it (65,000 instructions).
  return jnp.dot(broken, jnp.ones_like(broken)) == 0.0


def select(finite: Array, new: Tree, old: Tree) -> Tree:
  """`new` where `finite` (bool[]) is True, else `old`, leaf by leaf: a skipped update."""
  return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def update(
  tx: optax.GradientTransformation,
  grads: Any,
  params: Tree,
  opt_state: Any,
  accept: Array | None = None,
  *,
  apart: tuple[str, ...] = (),
) -> tuple[Tree, Any]:
  """One update of the parameters by packed gradients: two large vectors in place of many leaves.

  `tx` and `opt_state` are of packed parameters, `params` are not packed. Where bool[] `accept` is
  False nothing changes. `apart`: see `pack`.

  Returns:
    (params, opt_state).
  """
  old = pack(params, apart=apart)
  updates, new_state = tx.update(grads, opt_state, old)
  new = optax.apply_updates(old, updates)
  if accept is not None:
    new, new_state = select(accept, new, old), select(accept, new_state, opt_state)
  return unpack(new, params, apart=apart), new_state


SKIPPED = ("skipped", "skipped_in_a_row")  # names of the two counts


def count_skipped(counts: Array, finite: Array) -> Array:
  """Updates that were left out, i32[2]: in all, and in a row."""
  return jnp.where(finite, counts * jnp.array([1, 0]), counts + 1)


def ema_update(ema: Tree, params: Tree, decay: float, step: Array | int) -> Tree:
  """Exponential moving average of weights after update number `step`, counted from 0.

  The decay is min(decay, (1 + step) / (10 + step)), so that the average forgets its random start
  within the first few hundred steps.
  """
  step = jnp.asarray(step, jnp.float32)
  kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda e, p: e + (1.0 - kept) * (p - e), ema, params)


def _is_kernel(params: Any) -> Any:
  def named_kernel(key_path: Any, _: Array) -> bool:
    name = jax.tree_util.keystr(key_path, simple=True, separator="/")
    return name.rsplit("/", 1)[-1] == "kernel"

  return jax.tree_util.tree_map_with_path(named_kernel, params)


_KERNELS, _OTHERS = "kernel", "other"  # decay touches leaves named "kernel"


def pack(tree: Any, *, apart: tuple[str, ...] = ()) -> dict[str, Array]:
  """Joins the small leaves of a pytree of one dtype into two vectors: kernels, and all others.

  `apart` are paths ("/" between keys) of leaves that stay by themselves, because something is done
  to their rows. Leaves that a mesh may shard stay by themselves too.

  Returns:
    {"kernel": f32[...], "other": f32[...], path: leaf, ...}; a group without members is left out.
  """
  alone, groups = {}, _grouped(tree, apart)
  for name, leaf in _named(tree):
    if not any(name in names for names in groups.values()):
      alone[name] = leaf
  leaves = dict(_named(tree))
  return alone | {
    group: jnp.concatenate([leaves[name].reshape(-1) for name in names])
    for group, names in groups.items()
    if names
  }


def unpack(packed: dict[str, Array], like: Any, *, apart: tuple[str, ...] = ()) -> Any:
  """Undoes `pack`: a pytree of the structure and shapes of `like`."""
  where: dict[str, tuple[str, int]] = {}
  for group, names in _grouped(like, apart).items():
    offset, leaves = 0, dict(_named(like))
    for name in names:
      where[name] = (group, offset)
      offset += leaves[name].size
  restored = []
  for name, leaf in _named(like):
    if name in where:
      group, offset = where[name]
      restored.append(packed[group][offset : offset + leaf.size].reshape(leaf.shape))
    else:
      restored.append(packed[name])
  return jax.tree.unflatten(jax.tree.structure(like), restored)


def _named(tree: Any) -> list[tuple[str, Any]]:
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in paths]


def _grouped(tree: Any, apart: tuple[str, ...]) -> dict[str, list[str]]:
  groups: dict[str, list[str]] = {_KERNELS: [], _OTHERS: []}
  for name, leaf in _named(tree):
    if name not in apart and leaf.size < MIN_SHARDED_ELEMENTS:
      groups[_KERNELS if name.endswith("kernel") else _OTHERS].append(name)
  return groups
