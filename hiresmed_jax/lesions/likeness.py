"""Which lesions to train on, and how near a made one is to those it was made from."""

from collections.abc import Sequence

import numpy as np

from hiresmed_jax.lesions.patch import LesionPatch


def spread(patches: Sequence[LesionPatch], limit: int) -> list[LesionPatch]:
  """At most so many lesions, of as many patient groups as there are: one of each, then a second.

  Args:
    patches: any number, in the order that is kept within a round.
    limit: 0 keeps all of them.
  """
  if not limit or len(patches) <= limit:
    return list(patches)
  seen: dict[str, int] = {}
  rounds = []
  for number, patch in enumerate(patches):
    turn = seen[patch.donor_group] = seen.get(patch.donor_group, -1) + 1
    rounds.append((turn, number))
  return [patches[number] for _, number in sorted(rounds)[:limit]]


def normal(patch: LesionPatch) -> np.ndarray:
  """f32[S, S, C] in [-1, 1]: the lesion in its window, its donor's range of values as the scale."""
  low, high = patch.value_range
  return np.clip(2 * (patch.values - low) / (high - low) - 1, -1, 1).astype(np.float32)


def nearest(
  image: np.ndarray, training: Sequence[np.ndarray], other_than: int = -1
) -> tuple[int, float]:
  """(number, root mean squared difference in [0, 1]) of the training crop most like an image.

  The middle half of the window is compared: the lesion and a rim, not the whole context.

  Args:
    image: f32[S, S, C] in [-1, 1].
    training: the same; those of another S are no candidates.
    other_than: number of one that is left out: the image itself.
  """
  side = image.shape[0]
  core = slice(side // 4, side - side // 4)
  apart = [
    np.inf
    if number == other_than or crop.shape != image.shape
    else float(np.sqrt(np.mean((image - crop)[core, core] ** 2))) / 2
    for number, crop in enumerate(training)
  ]
  return int(np.argmin(apart)), min(apart)
