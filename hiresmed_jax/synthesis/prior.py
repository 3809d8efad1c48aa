"""Where a lesion is likely in this very image: what YOLO11 sees, and where patients have them.

Of the detector all class scores count, before any is thrown away: where it would find nothing it
still finds some places likelier than others (the reading of C_loc, Eq. 14). H, W rows and columns
of the canvas.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.synthesis.canvas import Canvas
from hiresmed_jax.synthesis.seen import Through, over, through_network
from hiresmed_jax.tasks import location

NAMES = ("uniform", "atlas", "yolo", "atlas x yolo")


class Prior(NamedTuple):
  """A prior over places.

  Attributes:
    name: one of `NAMES`; of "uniform" and "atlas" the rest is not used.
    view: the detector's.
    through: the detector.
    power: of its scores: below 1 they are taken less seriously.
  """

  name: str = "atlas"
  view: transforms.View | None = None
  through: Through | None = None
  power: float = 1.0


def score_map(
  prior: Prior, where: atlases.Atlas, scene: Canvas, device: jax.Device | None = None
) -> np.ndarray:
  """The prior laid over a canvas: f32[H, W], >= 0, any scale.

  Raises:
    UserError: see `atlas.score_map`.
  """
  score = np.ones(scene.shape, np.float32)
  if prior.name in ("yolo", "atlas x yolo"):
    score = seen(prior, scene, device or jax.devices()[0]) ** np.float32(prior.power)
  if prior.name in ("atlas", "atlas x yolo"):
    score = score * atlases.score_map(where, scene.content)
  return score


def seen(prior: Prior, scene: Canvas, device: jax.Device) -> np.ndarray:
  """What the detector makes of a canvas: f32[H, W] in [0, 1].

  Raises:
    ValueError: a prior without a detector.
  """
  if prior.view is None or prior.through is None:
    raise ValueError(f"the prior {prior.name} has no detector")
  return np.maximum(over(scene, prior.view, prior.through, device), np.float32(0.0))


def through_detector(net: Any, variables: Any, *, channels: int, options: Any) -> Through:
  """The detector of `workdir.Location`, as `seen.through_network`."""
  says = functools.partial(location.score_map, net=net)
  return through_network(says, variables, channels=channels, options=options)
