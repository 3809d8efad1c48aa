"""Networks of places over one picture: where a lesion is likely, and where none can be.

The scores of YOLO11 are taken before any detection is thrown away (the reading of C_loc, Eq. 14);
the U-Net gives M_danger (Eq. 15). H, W rows and columns of the canvas; S, T of the network's view.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.inference.canvas import Canvas
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.routes.settings import PRIORS

# (images_m11 f32[S, T, C], device) -> f32[S / s, T / s] for some stride s
Through = Callable[[np.ndarray, jax.Device], np.ndarray]


def over(scene: Canvas, view: transforms.View, through: Through, device: jax.Device) -> np.ndarray:
  """f32[H, W]: what the network says, linear between its positions."""
  example = transforms.load(_as_record(scene), view)
  said = through(example["images_m11"], device)
  whole = cv2.resize(said, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
  placed = transforms.place(scene.shape, view.shape, view.fit)
  return cv2.resize(whole[placed.filled], scene.shape[::-1], interpolation=cv2.INTER_LINEAR)


def through_network(
  says: Callable[[Any, Any], Any], variables: Any, *, channels: int, options: Any
) -> Through:
  """A network on a device, one image at a time: batched programs round differently.

  Args:
    says: (variables, images_m11 f32[1, S, T, C]) -> f32[1, S / s, T / s].
    variables: each device gets its copy on its first image.
    channels: C that the network sees; grey is repeated.
    options: of the compiler.
  """
  copies: dict[Any, Any] = {}
  program = jax.jit(lambda held, images_m11: says(held, images_m11)[0], compiler_options=options)

  def through(image_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    if device not in copies:
      copies[device] = jax.device_put(variables, device)
    shown = transforms.with_channels(image_m11, channels)[None]
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


NAMES = PRIORS


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
