"""Lesions inserted into a canvas, and their masks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hiresmed_jax.ops import insertion
from hiresmed_jax.placement.candidates import Site
from hiresmed_jax.synthesis.fitting import Fitted


def inserted(
  values: np.ndarray, lesions: Sequence[Fitted], sites: Sequence[Site], *, mode: str
) -> np.ndarray:
  """A copy of f32[H, W, C] with the lesions at their sites; `mode` as of `insertion.insert`."""
  values = values.copy()
  for lesion, site in zip(lesions, sites, strict=True):
    side = len(lesion.mask)
    around = window(values, site.origin, side)
    made = np.asarray(
      _insert(
        around,
        lesion.values,
        lesion.surround,
        lesion.alpha,
        np.float32(lesion.ceiling),
        mode=mode,
      )
    )
    in_canvas, in_window = _overlap(site.origin, side, values.shape[:2])
    values[in_canvas] = made[in_window]
  return values


def instances(
  lesions: Sequence[Fitted], sites: Sequence[Site], shape: tuple[int, int]
) -> np.ndarray:
  """uint16[H, W] instance ids, 1 for the first lesion, 0 elsewhere."""
  ids = np.zeros(shape, np.uint16)
  for number, (lesion, site) in enumerate(zip(lesions, sites, strict=True), 1):
    in_canvas, in_window = _overlap(site.origin, len(lesion.mask), shape)
    ids[in_canvas][lesion.mask[in_window]] = number
  return ids


@functools.partial(jax.jit, static_argnames="mode")
def _insert(around: Any, values: Any, surround: Any, alpha: Any, ceiling: Any, *, mode: str) -> Any:
  return insertion.insert(around, values, surround, alpha, mode=mode, ceiling=ceiling)


def window(values: np.ndarray, origin: tuple[int, int], side: int) -> np.ndarray:
  """A copy of a square window of f32[H, W, C]; beyond the border the image is mirrored."""
  rows, columns = (_mirrored(start, side, size) for start, size in zip(origin, values.shape[:2]))
  return values[np.ix_(rows, columns)]


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
  """Indices start .. start + length - 1 on an axis of `size`, mirrored at its ends."""
  index = np.abs(np.arange(start, start + length))
  if size == 1:
    return np.zeros_like(index)
  index %= 2 * (size - 1)
  return np.minimum(index, 2 * (size - 1) - index)


def _overlap(
  origin: tuple[int, int], side: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
  """(slices of the canvas, slices of the window) where the two overlap."""
  in_canvas, in_window = [], []
  for start, size in zip(origin, shape):
    first, last = max(start, 0), min(start + side, size)
    in_canvas.append(slice(first, last))
    in_window.append(slice(first - start, last - start))
  return (in_canvas[0], in_canvas[1]), (in_window[0], in_window[1])
