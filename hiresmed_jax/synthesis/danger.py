"""Tissue in which no lesion can be, as the U-Net of the route `danger` sees it in a background."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.synthesis.canvas import Canvas
from hiresmed_jax.synthesis.seen import Through, over, through_network
from hiresmed_jax.tasks import danger

_FORBIDDEN = 0.5  # chance from which on a pixel is


class Danger(NamedTuple):
  """The network as it is used.

  Attributes:
    view: how it sees a canvas.
    through: see `seen.through_network`; chances in [0, 1].
  """

  view: transforms.View
  through: Through


def mask(net: Danger, scene: Canvas, device: jax.Device) -> np.ndarray:
  """bool[H, W]: forbidden (1 - M_danger, Eq. 15)."""
  return over(scene, net.view, net.through, device) > _FORBIDDEN


def through_unet(net: Any, variables: Any, *, channels: int, options: Any) -> Through:
  """The U-Net of `workdir.Danger`, as `seen.through_network`."""
  says = functools.partial(danger.forbidden, net=net)
  return through_network(says, variables, channels=channels, options=options)
