"""What a network sees of a canvas, and what it says of places laid back over the canvas.

H, W rows and columns of the canvas; S, T of the network's view.
"""

from collections.abc import Callable
from typing import Any

import cv2
import jax
import numpy as np

from hiresmed_jax.data import fit, transforms
from hiresmed_jax.synthesis.canvas import Canvas

# (images_m11 f32[S, T, C], device) -> f32[S / s, T / s] for some stride s
Through = Callable[[np.ndarray, jax.Device], np.ndarray]


def over(scene: Canvas, view: transforms.View, through: Through, device: jax.Device) -> np.ndarray:
  """f32[H, W]: what the network says, linear between its positions."""
  example = transforms.load(_as_record(scene), view)
  said = through(example["images_m11"], device)
  whole = cv2.resize(said, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
  placed = fit.place(scene.shape, view.shape, view.fit)
  (row, column), (rows, columns) = placed.corner, placed.inner
  part = whole[row : row + rows, column : column + columns]
  return cv2.resize(part, scene.shape[::-1], interpolation=cv2.INTER_LINEAR)


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
