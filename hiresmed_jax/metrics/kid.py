"""Kernel inception distance: the squared maximum mean discrepancy of two sets, unbiased, float64.

Kernel (x.y / D + 1)^3. Its expectation is 0 for equal distributions at any number of images, so it
may come out below 0; that is what makes it the number to read first for few images.

Source: Binkowski et al., arXiv 1801.01401.
"""

from typing import NamedTuple

import numpy as np


class Kid(NamedTuple):
  """Mean and SD over subsets; the SD is of a subset of that size, not of the mean."""

  value: float
  sd: float
  subsets: int
  size: int


def mmd2(first: np.ndarray, second: np.ndarray) -> float:
  """The unbiased estimate from all vectors of both sets: [N, D], [M, D]. Nothing is drawn.

  Raises:
    ValueError: fewer than two vectors, other lengths, or a number that is not finite.
  """
  x, y = _checked(first, second)
  return _mmd2(x, y)


def kid(
  first: np.ndarray,
  second: np.ndarray,
  *,
  subsets: int = 100,
  size: int | None = None,
  seed: int = 0,
) -> Kid:
  """As published: mean over random subsets of `size` vectors of each set, drawn without repeats.

  Args:
    first: [N, D].
    second: [M, D].
    subsets: how many.
    size: vectors of a subset; None: 1,000 as published, or half of the smaller set.
    seed: of the subsets.

  Raises:
    ValueError: as for `mmd2`, or a set that is smaller than a subset.
  """
  x, y = _checked(first, second)
  fewest = min(len(x), len(y))
  if size is None:
    size = min(1000, max(2, fewest // 2))
  if not 2 <= size <= fewest:
    raise ValueError(f"subsets of {size} cannot be drawn from {fewest} vectors")
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(subsets):
    rows = (rng.choice(len(z), size, replace=False) for z in (x, y))
    found.append(_mmd2(*(z[chosen] for z, chosen in zip((x, y), rows))))
  sd = float(np.std(found, ddof=1)) if subsets > 1 else float("nan")
  return Kid(float(np.mean(found)), sd, subsets, size)


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
  n, m = len(x), len(y)
  xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
  within_x = (xx.sum() - np.trace(xx)) / (n * (n - 1))
  within_y = (yy.sum() - np.trace(yy)) / (m * (m - 1))
  return float(within_x + within_y - 2.0 * xy.mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return (x @ y.T / x.shape[1] + 1.0) ** 3


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
    raise ValueError(f"two or more vectors of one length are needed, not {x.shape} and {y.shape}")
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise ValueError("a feature is NaN or infinite")
  return x, y
