"""Distances of two sets of features: KID, precision, recall, density and coverage, in float64.

KID is the unbiased squared maximum mean discrepancy with the kernel (x y / D + 1)^3. Precision and
recall are shares of vectors inside the balls of the other set; density counts the balls.

Sources: Binkowski et al., arXiv 1801.01401; Kynkaanniemi et al., arXiv 1904.06991; Naeem et al.,
arXiv 2002.09797.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hiresmed_jax.metrics.fid import vectors

ROWS = 1024  # vectors whose distances are in memory at once


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
  x, y = _pair(first, second)
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

  `size` None: 1,000 as published, or half of the smaller set.

  Raises:
    ValueError: as for `mmd2`, or a set that is smaller than a subset.
  """
  x, y = _pair(first, second)
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


class Prdc(NamedTuple):
  """Four numbers; the first two and the last in [0, 1]."""

  precision: float
  recall: float
  density: float
  coverage: float


def prdc(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> Prdc:
  """Of two sets of feature vectors [N, D], [M, D], in memory of 1,024 rows of distances.

  A ball reaches neighbour number `k`, itself not counted; its border does not belong to it.

  Raises:
    ValueError: k or fewer vectors in a set, other lengths, or a number that is not finite.
  """
  real, generated = _pair(real, generated)
  if not 1 <= k < min(len(real), len(generated)):
    raise ValueError(f"{min(len(real), len(generated))} vectors have no neighbour number {k}")
  radius_real, radius_generated = _radii(real, k), _radii(generated, k)
  inside_real = np.zeros(len(generated))  # real balls around each generated vector
  recalled = covered = 0
  for rows, squares in _squares(real, generated):
    within = squares < radius_real[rows, None]
    inside_real += within.sum(axis=0)
    covered += int(within.any(axis=1).sum())
    recalled += int((squares < radius_generated).any(axis=1).sum())
  return Prdc(
    precision=float((inside_real > 0).mean()),
    recall=recalled / len(real),
    density=float(inside_real.mean() / k),
    coverage=covered / len(real),
  )


def _radii(vectors: np.ndarray, k: int) -> np.ndarray:
  """Squared distance to the k-th neighbour, oneself not counted: f64[N]."""
  out = np.empty(len(vectors))
  for rows, squares in _squares(vectors, vectors):
    squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = -1.0  # oneself, first
    out[rows] = np.partition(squares, k, axis=1)[:, k]
  return out


def _squares(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """Squared distances of a part of x to all of y, part by part."""
  centre = x.mean(axis=0)  # |a|^2 - 2ab + |b|^2 loses the fewest digits around it
  x, y = x - centre, y - centre
  of_x, of_y = (np.einsum("nd,nd->n", z, z) for z in (x, y))
  for start in range(0, len(x), ROWS):
    rows = slice(start, min(start + ROWS, len(x)))
    squares = of_x[rows, None] - 2.0 * (x[rows] @ y.T) + of_y
    yield rows, np.maximum(squares, 0.0)


def _pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  x, y = vectors(first), vectors(second)
  if x.shape[1] != y.shape[1]:
    raise ValueError(f"vectors of one length are needed, not {x.shape} and {y.shape}")
  return x, y
