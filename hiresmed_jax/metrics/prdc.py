"""Precision, recall, density and coverage of generated against real features, float64 on the host.

Around each vector lies the ball that reaches its k-th neighbour of the same set. Precision: share
of generated vectors inside a real ball; recall: share of real ones inside a generated ball; density
counts the real balls around a generated vector, over k (it may exceed 1, and one outlier's large
ball does not save a set); coverage: share of real balls that hold a generated vector.

Sources: Kynkaanniemi et al., arXiv 1904.06991; Naeem et al., arXiv 2002.09797.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ROWS = 1024  # vectors whose distances are held at once


class Prdc(NamedTuple):
  """Four numbers; the first two and the last in [0, 1]."""

  precision: float
  recall: float
  density: float
  coverage: float


def prdc(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> Prdc:
  """Of two sets of feature vectors [N, D], [M, D], in memory of 1,024 rows of distances.

  Args:
    real: the reference.
    generated: what is judged.
    k: the neighbour, itself not counted, that a ball reaches; its border does not belong to it.

  Raises:
    ValueError: k or fewer vectors in a set, other lengths, or a number that is not finite.
  """
  real, generated = (np.asarray(z, np.float64) for z in (real, generated))
  if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
    raise ValueError(f"vectors of one length are needed: {real.shape} and {generated.shape}")
  if not 1 <= k < min(len(real), len(generated)):
    raise ValueError(f"{min(len(real), len(generated))} vectors have no neighbour number {k}")
  if not (np.isfinite(real).all() and np.isfinite(generated).all()):
    raise ValueError("a feature is NaN or infinite")
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
