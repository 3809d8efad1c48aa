"""A background: the pixels of a training image, or what the trained model makes of them.

H, W rows and columns of the canvas, C channels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.inference import canvas, emptied, reconstruct
from hiresmed_jax.lesions import outline


class Background(NamedTuple):
  """A background.

  Attributes:
    canvas: with the source's own lesions where they are labelled, without them otherwise.
    bare: f32[H, W, C], the canvas' values without any lesion.
    own: bool[H, W] of each lesion of its own that is labelled.
  """

  canvas: canvas.Canvas
  bare: np.ndarray
  own: list[np.ndarray]


class Maker(NamedTuple):
  """How backgrounds are made.

  Attributes:
    view: the model's; None: the pixels themselves.
    through: the model; None with them.
    label_own: whether own lesions are kept and labelled, and not taken out.
    least_contrast: share of an own lesion's contrast that must be left for that.
  """

  view: transforms.View | None
  through: reconstruct.Through | None
  label_own: bool
  least_contrast: float

  def make(self, item: Mapping[str, Any], key: jax.Array, device: jax.Device) -> Background | None:
    """The background of a record; None when a lesion of its own was half lost on the way.

    Args:
      item: of `records.Records`, training split.
      key: of the noise where lesions are taken out.
      device: for the model.
    """
    if not self.label_own:
      made = self._canvas(emptied.taken_out_of(item, key), device)
      return Background(made, made.values, [])
    before, made = self._canvas(item, None), self._canvas(item, device)
    own = emptied.masks(before.values, before.boxes, before.lesion_mask, before.value_range)
    for mask in own:
      was, left = (emptied.contrast(one.values, mask) for one in (before, made))
      if left < self.least_contrast * was:
        return None
    bare = emptied.without(made.values, own, key, reach=outline.REACH)
    return Background(made, bare, own)

  def _canvas(self, item: Mapping[str, Any], device: jax.Device | None) -> canvas.Canvas:
    """Through the model on a device; None: as the model would see it."""
    through = self.through
    if self.view is None or through is None:
      return canvas.real(item)
    return canvas.viewed(
      item, self.view, lambda image: image if device is None else through(image, device)
    )
