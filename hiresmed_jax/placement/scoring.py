"""How well a score says where lesions are: the log-chance that it gives their real places.

H, W rows and columns; N lesions. A prior is good when it is surprised little by where real lesions
turn out to be; against the uniform one the gain is in nats a lesion (the logarithmic score, Good
1952).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hiresmed_jax.metrics.significance import Interval, bootstrap
from hiresmed_jax.placement import candidates


def log_scores(
  score: np.ndarray, allowed: np.ndarray, points: np.ndarray, *, floor: float
) -> np.ndarray:
  """Log-chance of each point under a prior, less that under the uniform one.

  Args:
    score: f32[H, W], >= 0, any scale.
    allowed: bool[H, W], where a lesion may be. The points' own pixels are allowed whatever it says:
      a lesion was there.
    points: f64[N, 2] (x, y) pixels.
    floor: share that is uniform.

  Returns:
    f64[N], nats; 0: no better than uniform.
  """
  height, width = score.shape
  columns = np.clip(np.floor(points[:, 0]).astype(int), 0, width - 1)
  rows = np.clip(np.floor(points[:, 1]).astype(int), 0, height - 1)
  free = allowed.copy()
  free[rows, columns] = True
  logs = candidates.log_probabilities(score, free, floor)[rows, columns]
  return logs + np.log(np.count_nonzero(free))


def gains(
  logs: Mapping[str, np.ndarray], groups: Sequence[str], *, against: str = "", seed: int = 0
) -> dict[str, Interval]:
  """Mean of each prior's log-scores, or of what it has over another one, groups resampled.

  Args:
    logs: name -> a log-score of each lesion.
    groups: of each lesion.
    against: name of the other one; "" is the uniform prior.
    seed: of the resampling.

  Returns:
    name -> mean and interval, nats a lesion.
  """
  base = logs[against] if against else np.zeros(len(groups))
  return {
    name: bootstrap(values.tolist(), base.tolist(), groups=groups, seed=seed)
    for name, values in logs.items()
    if name != against
  }
