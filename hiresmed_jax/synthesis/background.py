"""A background: the pixels of a training image, or its reconstruction by the trained model.

H, W rows and columns of the canvas; C channels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.inference import canvas, emptied
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.lesions import outline


class Background(NamedTuple):
  """A background.

  Attributes:
    canvas: with the source's own lesions where they are labelled, else without them.
    lesion_free: f32[H, W, C], the canvas' values without any lesion.
    own_lesions: bool[H, W] of each own lesion that is labelled.
  """

  canvas: canvas.Canvas
  lesion_free: np.ndarray
  own_lesions: list[np.ndarray]


class Maker(NamedTuple):
  """How backgrounds are made.

  Attributes:
    model: of `workdir.reconstruction`; None: the pixels of the record.
    label_own: whether own lesions are kept and labelled, and not inpainted.
    least_contrast: share of an own lesion's contrast that must be left to keep it.
  """

  model: Model | None
  label_own: bool
  least_contrast: float

  def make(self, item: Mapping[str, Any], key: jax.Array, device: jax.Device) -> Background | None:
    """The background of a record.

    None when an own lesion that is kept has lost too much contrast or would have no label, or when
    something of one that is taken out still stands out.

    Args:
      item: of `records.Records`, training split.
      key: of the noise where lesions are inpainted.
      device: for the model.
    """
    if not self.label_own:
      bare = emptied.without_lesions(item, key)
      if bare is None:
        return None
      made = self._canvas(bare, device)
      return Background(made, made.values, [])
    before, made = self._canvas(item, None), self._canvas(item, device)
    own = emptied.lesion_masks(before.values, before.boxes, before.lesion_mask, before.value_range)
    bounds = emptied.bounds(before.values, before.boxes, before.lesion_mask)
    stands = emptied.standing(before.values, bounds, bounds.halves)
    labelled = emptied.dilated(np.any(own, axis=0), outline.REACH) if own else np.zeros_like(stands)
    if len(own) < len(before.boxes) or (stands & ~labelled).any():
      return None  # a box with two lesions, of which one would be without a label
    for mask in own:
      was, left = (emptied.contrast(one.values, mask) for one in (before, made))
      if left < self.least_contrast * was:
        return None
    left_over = emptied.bounds(made.values, made.boxes, made.lesion_mask)
    lesion_free = emptied.cleared(made.values, own, left_over, key, reach=outline.REACH)
    return None if lesion_free is None else Background(made, lesion_free, own)

  def _canvas(self, item: Mapping[str, Any], device: jax.Device | None) -> canvas.Canvas:
    """The model's output on a device; None: what the model sees."""
    model = self.model
    if model is None:
      return canvas.real(item)
    if device is None:
      return canvas.viewed(item, model.view)
    return canvas.viewed(item, model.view, lambda image: model.network(image, device))
