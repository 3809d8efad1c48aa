"""Trained networks over one picture at a time, on any device.

S, T rows and columns of a network's view; C its channels; s its stride.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.runtime import compilation

# (images_m11 f32[S, T, 1 or C], device) -> what the network gives for the image, on the host.
Network = Callable[[np.ndarray, jax.Device], np.ndarray]


class Model(NamedTuple):
  """A trained network and how it sees an image.

  Attributes:
    view: turns a record into the network's input.
    network: see `Network`.
    step: of the checkpoint.
    results: what its training found of it, for JSON.
  """

  view: transforms.View
  network: Network
  step: int = 0
  results: Mapping[str, Any] = {}


def reconstruction(net: Any, params: Any, *, channels: int) -> Network:
  """Encoder, codebook and decoder of the route `background`: f32[S, T, C] in [-1, 1]."""
  return on_one_image(lambda *given: background.reconstruct(*given, net=net)[0], params, channels)


def detection_scores(net: Any, variables: Any, *, channels: int) -> Network:
  """YOLO11 of the route `location`: f32[S / s, T / s] in [0, 1], before any suppression."""
  return on_one_image(functools.partial(location.score_map, net=net), variables, channels)


def forbidden_chances(net: Any, variables: Any, *, channels: int) -> Network:
  """U-Net of the route `danger`: f32[S, T] in [0, 1]."""
  return on_one_image(functools.partial(danger.forbidden, net=net), variables, channels)


def on_one_image(
  apply: Callable[[Any, Any], Any],
  variables: Any,
  channels: int,
  options: Mapping[str, Any] | None = None,
) -> Network:
  """Compiles a network for a batch of one image.

  The batch is one whatever the number of devices: batched programs round differently.

  Args:
    apply: (variables, images_m11 f32[1, S, T, C]) -> [1, ...].
    variables: each device gets a copy with its first image.
    channels: C; grey images are repeated.
    options: of the compiler; None: `compilation.options`.
  """
  copies: dict[Any, Any] = {}
  options = compilation.options() if options is None else dict(options)
  program = jax.jit(apply, compiler_options=options)

  def network(image_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    if device not in copies:
      copies[device] = jax.device_put(variables, device)
    batch = transforms.with_channels(image_m11, channels)[None]
    return np.asarray(program(copies[device], jax.device_put(batch, device)))[0]

  return network
