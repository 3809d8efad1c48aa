"""Windows of a canvas, and lesions put into them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hiresmed_jax.ops import insertion
from hiresmed_jax.placement.candidates import Site
from hiresmed_jax.synthesis.fitting import Fitted

MODES = insertion.DEFAULT_MODE  # by physics


def put_in(
  values: np.ndarray, lesions: Sequence[Fitted], sites: Sequence[Site], *, mode: str
) -> np.ndarray:
  """A copy of f32[H, W, C] with the lesions at their sites."""
  values = values.copy()
  for lesion, site in zip(lesions, sites, strict=True):
    rows, columns = (
      _mirrored(start, len(lesion.mask), size) for start, size in zip(site.origin, values.shape[:2])
    )
    window = values[np.ix_(rows, columns)]
    made = np.asarray(_insert(window, lesion.values, lesion.surround, lesion.alpha, mode=mode))
    to, of = _overlap(site.origin, len(lesion.mask), values.shape[:2])
    values[to] = made[of]
  return values


def window(values: np.ndarray, origin: tuple[int, int], side: int) -> np.ndarray:
  """A copy of a square window of f32[H, W, C]; beyond the border the image is mirrored."""
  rows, columns = (_mirrored(start, side, size) for start, size in zip(origin, values.shape[:2]))
  return values[np.ix_(rows, columns)]


def instances(
  lesions: Sequence[Fitted], sites: Sequence[Site], shape: tuple[int, int], *, first: int = 1
) -> np.ndarray:
  """uint16[H, W] instance ids, `first` for the first lesion, 0 elsewhere."""
  ids = np.zeros(shape, np.uint16)
  for number, (lesion, site) in enumerate(zip(lesions, sites, strict=True), first):
    to, of = _overlap(site.origin, len(lesion.mask), shape)
    ids[to][lesion.mask[of]] = number
  return ids


@functools.partial(jax.jit, static_argnames="mode")
def _insert(around: Any, values: Any, surround: Any, alpha: Any, *, mode: str) -> Any:
  return insertion.insert(around, values, surround, alpha, mode=mode)


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
  """Indices of a window that may overhang an axis: beyond the border it is mirrored."""
  index = np.abs(np.arange(start, start + length))
  if size == 1:
    return np.zeros_like(index)
  index %= 2 * (size - 1)
  return np.minimum(index, 2 * (size - 1) - index)


def _overlap(
  origin: tuple[int, int], side: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
  """(where in the canvas, where in the window)."""
  to, of = [], []
  for start, size in zip(origin, shape):
    first, last = max(start, 0), min(start + side, size)
    to.append(slice(first, last))
    of.append(slice(first - start, last - start))
  return (to[0], to[1]), (of[0], of[1])
