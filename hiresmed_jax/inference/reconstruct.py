"""The trained background model over one picture: encoder, codebook, decoder."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.routes.background import task as route

# (images_m11 f32[S, T, C], device) -> what the model makes of them there, the same shape
Through = Callable[[np.ndarray, jax.Device], np.ndarray]


def through_model(net: Any, params: Any, *, channels: int, options: dict[str, Any]) -> Through:
  """Encoder, codebook and decoder, one image at a time.

  One image, whatever the number of devices: batched programs round differently.

  Args:
    net: of `workdir.Model`.
    params: see there; each device gets its copy on its first image.
    channels: that the network sees.
    options: of the compiler.
  """
  copies: dict[Any, Any] = {}

  def reconstruct(held: Any, images_m11: Any) -> Any:
    return route.reconstruct(held, images_m11, net=net)[0]

  program = jax.jit(reconstruct, compiler_options=options)

  def through(image_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    if device not in copies:
      copies[device] = jax.device_put(params, device)
    seen = transforms.with_channels(image_m11, channels)[None]
    return np.asarray(program(copies[device], jax.device_put(seen, device)))[0]

  return through
