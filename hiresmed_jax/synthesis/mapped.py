"""A background and where lesions may lie in it: made once for all images that use it, and kept.

H, W rows and columns of the canvas.
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import places
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.placement import body, paper
from hiresmed_jax.placement.atlas import Atlas
from hiresmed_jax.synthesis.background import Background

_PAPER_POINTS = 50  # peaks of the detector's scores in Eq. 14, at most
_ENTRY_BYTES = 100  # of what is kept beside arrays


class MappedBackground(NamedTuple):
  """A background and where lesions may lie in it.

  Attributes:
    item: the record of the background.
    ground: the background.
    allowed: bool[H, W], pixels that a lesion may cover; with the paper's placement M_danger of
      Eq. 15, of which only the centre is tested.
    density: how likely a lesion is there; None with the paper's placement.
    points: f64[n, 2] (x, y), candidates of Eq. 14; None but with the paper's placement.
  """

  item: dict[str, Any]
  ground: Background
  allowed: np.ndarray
  density: places.Density | None
  points: np.ndarray | None


def make(
  item: dict[str, Any],
  ground: Background,
  *,
  prior: places.Prior,
  atlas: Atlas,
  danger: Model | None,
  user_mask: np.ndarray | None,
  margin_px: float,
  is_paper: bool,
  device: jax.Device,
) -> MappedBackground | None:
  """Lays the prior and what is forbidden over a background; None: lesions can live nowhere in it.

  Args:
    item: the background's record.
    ground: the background.
    prior: over places.
    atlas: of the training split.
    danger: of `workdir.forbidden_chances`; None: only masks say what is forbidden.
    user_mask: bool[H, W], True where the user forbids lesions; None: nowhere.
    margin_px: between a lesion and what is forbidden.
    is_paper: placement as in the paper.
    device: for the networks.

  Raises:
    UserError: a user's mask of another size; see `atlas.score_map`.
  """
  canvas = ground.canvas
  forbidden = _forbidden(ground, danger, user_mask, device)
  if not is_paper:
    allowed = places.allowed(canvas, forbidden, margin_px)
    density = places.density(prior, atlas, canvas, device)
    if not density.score.any():
      return None
    return MappedBackground(item, ground, allowed, density, None)
  if prior.detector is not None:
    points = paper.locate(places.detector_scores(prior.detector, canvas, device), _PAPER_POINTS)
  else:
    points = body.in_pixels(atlas.centres, body.box(canvas.content))
  return MappedBackground(item, ground, paper.danger(forbidden), None, points)


def share_placed(mapped: MappedBackground, prior: places.Prior, diameter_px: float) -> float:
  """Share of lesions of this size to place here; the others are drawn again. 1 and more: all."""
  if mapped.density is None:
    return 1.0
  return places.plenty(prior, mapped.density, mapped.ground.canvas, mapped.allowed, diameter_px)


def _forbidden(
  ground: Background, danger: Model | None, user_mask: np.ndarray | None, device: jax.Device
) -> np.ndarray:
  """bool[H, W]: forbidden tissue, what the user forbids, and the background's own lesions.

  Forbidden tissue is that of the image's own mask where it is known, else what the network finds.
  """
  canvas = ground.canvas
  forbidden = np.zeros(canvas.shape, bool)
  if canvas.forbidden_mask.size:
    forbidden |= canvas.forbidden_mask > 0
  elif danger is not None:
    forbidden |= places.forbidden(danger, canvas, device)
  if user_mask is not None:
    if user_mask.shape != canvas.shape:
      (height, width), (rows, columns) = canvas.shape, user_mask.shape
      raise UserError(
        f"--mask is of {columns} x {rows} pixels, and this image is of {width} x {height}"
      )
    forbidden |= user_mask
  for own in ground.own_lesions:
    forbidden |= own
  return forbidden


class Kept:
  """Values by key; at a number of bytes those that were not used for longest are dropped.

  Threads may share it. Arrays in what it gives cannot be written to.

  Attributes:
    most_bytes: of all values.
    bytes: of those that are there.
  """

  def __init__(self, most_bytes: int) -> None:
    self.most_bytes = most_bytes
    self._values: collections.OrderedDict[Hashable, tuple[Any, int]] = collections.OrderedDict()
    self.bytes, self._lock = 0, threading.Lock()

  def __len__(self) -> int:
    return len(self._values)

  def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
    """The value of a key, made where it is not there. Two threads may make the same one."""
    with self._lock:
      if key in self._values:
        self._values.move_to_end(key)
        return self._values[key][0]
    value = make()
    arrays = {id(leaf): leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, np.ndarray)}
    for array in arrays.values():
      array.flags.writeable = False
    size = sum((array.nbytes for array in arrays.values()), start=_ENTRY_BYTES)
    with self._lock:
      if key not in self._values and size <= self.most_bytes:
        self._values[key] = value, size
        self.bytes += size
      while self.bytes > self.most_bytes:
        _, (_, dropped) = self._values.popitem(last=False)
        self.bytes -= dropped
    return value
