"""Sums over positions, several at once, in one pass over the memory.

XLA's CPU backend turns a long sum into a tree of windows whose input it writes out first; a sum of
a square takes three passes so, none of them quick. What reduces several arrays at once is left as
it is and computed where its inputs are. In short steps the compiler unrolls it and takes channels
by vectors, also where much arithmetic leads to it: 1.0 ms instead of 11.9 for sum and sum of
squares of 16 x 160 x 160 x 16, two cores.
"""

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

_STEP = 8


def sums(*values: Array) -> tuple[Array, ...]:
  """f32[N, P, C] each, at least two of one shape -> sums over positions f32[N, C] each."""
  n, length, channels = values[0].shape
  while (step := _step(length)) > 1:
    length //= step
    values = _together(tuple(v.reshape(n, length, step, channels) for v in values))
  return tuple(jnp.sum(value, 1) for value in values)


def _step(length: int) -> int:
  """The largest divisor that is not above 8."""
  return max(n for n in range(1, _STEP + 1) if length % n == 0)


def _together(values: tuple[Array, ...]) -> tuple[Array, ...]:
  """Sums over axis 2 by one reduction."""

  def add(some: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(a + b for a, b in zip(some, more, strict=True))

  zeros = tuple(jnp.zeros((), value.dtype) for value in values)
  return tuple(jax.lax.reduce(values, zeros, add, (2,)))
