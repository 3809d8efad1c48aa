"""Where a lesion is likely in this very image: what YOLO11 sees, and where patients have them.

Of the detector all class scores count, before any is thrown away: where it would find nothing it
still finds some places likelier than others (spec: C_loc, the reading of Eq. 14). H, W rows and
columns of the canvas; S side of the detector's view; s its finest stride.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from hiresmed_jax.data import fit, transforms
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.synthesis.canvas import Canvas
from hiresmed_jax.tasks import location

# (images_m11 f32[S, S, C], device) -> scores f32[S / s, S / s] in [0, 1]
Through = Callable[[np.ndarray, jax.Device], np.ndarray]
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
  """What the detector makes of a canvas: f32[H, W] in [0, 1], linear between its positions.

  Raises:
    ValueError: a prior without a detector.
  """
  if prior.view is None or prior.through is None:
    raise ValueError(f"the prior {prior.name} has no detector")
  view = prior.view
  example = transforms.load(_as_record(scene), view)
  scores = prior.through(example["images_m11"], device)
  whole = cv2.resize(scores, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
  placed = fit.place(scene.shape, view.shape, view.fit)
  (row, column), (rows, columns) = placed.corner, placed.inner
  part = whole[row : row + rows, column : column + columns]
  laid = cv2.resize(part, scene.shape[::-1], interpolation=cv2.INTER_LINEAR)
  return np.maximum(laid, np.float32(0.0))


def through_detector(net: Any, variables: Any, *, channels: int, options: Any) -> Through:
  """The detector, one image at a time: batched programs round differently.

  Args:
    net: of `workdir.Location`.
    variables: see there; each device gets its copy on its first image.
    channels: that the network sees.
    options: of the compiler.
  """
  copies: dict[Any, Any] = {}

  def scores(held: Any, images_m11: Any) -> Any:
    return location.score_map(held, images_m11, net=net)[0]

  program = jax.jit(scores, compiler_options=options)

  def through(image_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    if device not in copies:
      copies[device] = jax.device_put(variables, device)
    shown = np.repeat(image_m11, channels // image_m11.shape[-1], axis=-1)[None]
    return np.asarray(program(copies[device], jax.device_put(shown, device)))

  return through


def _as_record(scene: Canvas) -> dict[str, Any]:
  """A canvas as `transforms.load` takes it."""
  nothing = np.zeros((0, 0), np.uint16)
  return {
    "image": scene.values,
    "rescale_slope": 1.0,
    "rescale_intercept": 0.0,
    "value_range": np.asarray(scene.value_range, np.float32),
    "photometric": "MONOCHROME2",
    "boxes": np.zeros((0, 4), np.float32),
    "lesion_mask": nothing,
    "forbidden_mask": nothing,
    "spacing_mm": np.asarray(scene.spacing_mm, np.float32),
    "group": "",
    "image_id": "",
  }
