"""The frozen networks of a report. One without weights is noted as missing, with the reason."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hiresmed_jax.convert import features, inception, resnet
from hiresmed_jax.errors import UserError
from hiresmed_jax.metrics.lpips import Distance
from hiresmed_jax.nets.features import FeatureNet
from hiresmed_jax.nets.inception import SIZE
from hiresmed_jax.ops.resize import resize_matrix
from hiresmed_jax.types import Params

FEATURE_NETS = ("inception", "radimagenet")
LPIPS_NETS = ("alexnet", "vgg16", "squeezenet")


class Features(NamedTuple):
  """A network whose features are compared, and the size and method of its resize."""

  net: FeatureNet
  size: int
  method: str

  def feed(self, image: np.ndarray) -> np.ndarray:
    """f32[H, W, C] in [0, 1] -> f32[size, size, C] in 0 .. 255, resized as the network does it.

    The resize is done on the host, with the same matrices, so that images of any size share one
    program; the network's own resize then changes nothing.
    """
    rows = resize_matrix(image.shape[0], self.size, self.method)
    columns = resize_matrix(image.shape[1], self.size, self.method)
    channels = [rows @ (image[..., c] @ columns.T) for c in range(image.shape[-1])]
    return np.float32(255.0) * np.stack(channels, axis=-1)


class Networks(NamedTuple):
  """The networks that have weights."""

  lpips: Mapping[str, tuple[Distance, Params]]  # (distance, weights) by network
  features: Features | None  # for distances between sets; None where missing
  missing: Mapping[str, str]  # the reason by name of a missing number, or "features"


def load(
  lpips: Sequence[str],
  *,
  network: str = "inception",
  tap: int = 2048,
  how: str = "legacy",
  file: Path | None = None,
) -> Networks:
  """Opens networks of LPIPS_NETS and FEATURE_NETS; `tap` and `how` (the resize) are Inception's.

  A reason for missing weights holds the command that gets them. Without `file` the weights are
  those in the cache folder.

  Raises:
    UserError: a file that was named cannot be used.
  """
  distances, missing = {}, {}
  for name in lpips:
    try:
      distances[name] = features.load_perceptual(name)
    except UserError as error:
      missing[f"lpips_{name}"] = _without_home(error)
  found = None
  try:
    found = _features(network, tap, how, file)
  except UserError as error:
    if file is not None:
      raise
    missing["features"] = _without_home(error)
  return Networks(distances, found, missing)


def _features(network: str, tap: int, how: str, file: Path | None) -> Features:
  if network == "radimagenet":
    net = resnet.load_cached() if file is None else resnet.load(file)
    return Features(net, resnet.SIZE, "bilinear")
  net = (
    inception.load_cached(tap=tap, how=how)
    if file is None
    else inception.load(file, tap=tap, how=how)
  )
  return Features(net, SIZE, inception.RESIZES[how][0])


def _without_home(error: UserError) -> str:
  """The message without the path of the user's home, for a report that others read."""
  return str(error).replace(str(Path.home()), "~")
