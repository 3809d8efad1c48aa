"""Copies of values that a GPU's compiler takes for different ones.

XLA computes element-wise work inside the sum or pass that reads it, but where two of them share a
float32 value it stores that value, at twice the size of the bfloat16 arrays that it came from.
With a copy of its inputs each reader computes the value for itself: a few operations more, and none
of the traffic. A copy is the value behind one more optimisation barrier, so no memory is copied.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax

from hiresmed_jax.types import Array

Tree = TypeVar("Tree")


def copies(count: int, values: Tree) -> list[Tree]:
  """A pytree of arrays `count` times, with nothing computed before them known to be equal.

  On the CPU, whose compiler decides otherwise, all are the same one. No derivatives.
  """
  return jax.lax.platform_dependent(
    values, cpu=lambda values: one(count, values), default=lambda values: each(count, values)
  )


def again(compute: Callable[..., Array], kept: Array, *values: Array) -> Array:
  """compute(*values), which `kept` holds in a narrower type; on the CPU `kept` is taken."""
  return jax.lax.platform_dependent(
    kept,
    *values,
    cpu=functools.partial(widened, compute),
    default=lambda _, *given: compute(*given),
  )


def widened(compute: Callable[..., Array], kept: Array, *values: Array) -> Array:
  """What `again` is on the CPU."""
  return kept.astype(jax.eval_shape(compute, *values).dtype)


def one(count: int, values: Tree) -> list[Tree]:
  """The same barrier `count` times."""
  return [jax.lax.optimization_barrier(values)] * count


def each(count: int, values: Tree) -> list[Tree]:
  """Barriers of barriers: equal ones the compiler would merge."""
  found = []
  for _ in range(count):
    values = jax.lax.optimization_barrier(values)
    found.append(values)
  return found
