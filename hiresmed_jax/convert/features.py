"""Published LPIPS weights -> the trunks of nets/features.py and their heads.

A converted network is one .npz in the cache folder, float32, kernels HWIO, named as the modules
are ("conv1_1/kernel"), heads "lin0" .. one weight per channel. Torch names are understood beside
these: torchvision's ("features.0.weight"), those of LPIPS' heads ("lin0.model.1.weight") and of a
whole LPIPS network ("net.slice1.0.weight").
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from hiresmed_jax.convert import arrays
from hiresmed_jax.errors import UserError
from hiresmed_jax.metrics import lpips
from hiresmed_jax.nets import features
from hiresmed_jax.types import Array, Params

TRUNKS: dict[str, type[nn.Module]] = {
  "vgg16": features.VGG16Features,
  "alexnet": features.AlexNetFeatures,
  "squeezenet": features.SqueezeNetFeatures,
}
# Position in torchvision's `features` -> our layer.
LAYERS = {
  "vgg16": {
    0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2",
    10: "conv3_1", 12: "conv3_2", 14: "conv3_3", 17: "conv4_1", 19: "conv4_2", 21: "conv4_3",
    24: "conv5_1", 26: "conv5_2", 28: "conv5_3",
  },
  "alexnet": {0: "conv1", 3: "conv2", 6: "conv3", 8: "conv4", 10: "conv5"},
  "squeezenet": {
    0: "conv1", 3: "fire2", 4: "fire3", 6: "fire4", 7: "fire5",
    9: "fire6", 10: "fire7", 11: "fire8", 12: "fire9",
  },
}  # fmt: skip
TORCH_NAME = re.compile(
  r"(?:features|net\.slice\d+)\.(\d+)\.((?:squeeze|expand1x1|expand3x3)\.)?(weight|bias)"
)
TORCH_HEAD = re.compile(r"lin(\d+)\.model\.1\.weight")
# Classifiers, input scaling, and a second listing of the heads: known and not needed.
UNUSED = ("classifier.", "pre_logits.", "head.", "scaling_layer.", "lins.")


def cache_path(net: str, folder: Path | None = None) -> Path:
  """The file of a network: the one name that `fetch`, `convert` and `load_perceptual` share."""
  return (folder or arrays.cache_folder()) / f"lpips_{net}_v0.1.npz"


def need(net: str, *, folder: Path | None = None, instead: str = "") -> Path:
  """The file of a network; `instead` is what the user may do without it, for the message.

  Raises:
    UserError: there is none.
  """
  path = cache_path(net, folder)
  if not path.is_file():
    raise UserError(
      f"no weights of the perceptual network {net} at {path}: "
      f"run `python -m hiresmed_jax.weights fetch {net}`, or with files you have "
      f"`python -m hiresmed_jax.weights convert TRUNK HEADS --net {net}`"
      + (f"; or {instead}" if instead else "")
    )
  return path


def load_perceptual(
  net: str,
  *,
  folder: Path | None = None,
  dtype: DTypeLike = jnp.float32,
  precision: jax.lax.PrecisionLike = "highest",
  at_once: int | None = None,
) -> tuple[lpips.Distance, Params]:
  """A perceptual distance with its published weights.

  Args:
    net: "vgg16" (the loss's default), "alexnet" (the metric's) or "squeezenet".
    folder: where the file lies; the cache folder when None.
    dtype: of the trunk's convolutions; distances are float32.
    precision: of float32 convolutions. As it is for metrics; None, the device's own way, is enough
      for losses and faster (nets/features.py has the figures).
    at_once: examples per part, to bound the memory of a gradient (metrics/lpips.py, in_parts);
      None takes the batch at once.

  Returns:
    (distance(weights, images_m11 [N,H,W,1 or 3], targets_m11) -> f32[N], with gradients to the
    images; weights as float32 arrays on the host, to be copied to the devices once).

  Raises:
    UserError: unknown network, no file, a missing layer or a wrong shape.
  """
  if net not in TRUNKS:
    raise UserError(f"no perceptual network is called {net}: {', '.join(TRUNKS)}")
  path = need(net, folder=folder)
  found = arrays.read_as_ours(path, lambda name: name)
  if problem := difference(found, net):
    raise UserError(
      f"{path}, as {net}, {problem}; run `python -m hiresmed_jax.weights fetch {net}`"
    )
  trunk = TRUNKS[net](dtype=dtype, precision=precision)
  number_of_heads = sum(name.startswith("lin") for name in found)
  weights: dict[str, Any] = {
    "heads": [found.pop(f"lin{i}") for i in range(number_of_heads)],
    "trunk": flax.traverse_util.unflatten_dict(found, sep="/"),
  }

  def distance(weights: Params, images_m11: Array, targets_m11: Array) -> Array:
    def taps(images: Array) -> Any:
      return trunk.apply({"params": weights["trunk"]}, images)

    return lpips.lpips(taps, weights["heads"], images_m11, targets_m11)

  return (lpips.in_parts(distance, at_once=at_once) if at_once else distance), weights


def layout(net: str) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every array that a network's file must hold, and of no other."""
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  taps, _ = jax.eval_shape(TRUNKS[net]().init_with_output, jax.random.key(0), image)
  heads = {f"lin{i}": (tap.shape[-1],) for i, tap in enumerate(taps)}
  return arrays.layout(TRUNKS[net](), 64) | heads


def difference(found: Mapping[str, np.ndarray], net: str) -> str:
  """What is wrong with arrays as the file of `net`, in a few words; empty when nothing is."""
  expected = layout(net)
  return arrays.foreign(found, expected) or arrays.difference(found, expected)


def convert(paths: Sequence[Path], net: str) -> dict[str, np.ndarray]:
  """Reads a network from one file, or trunk and heads from several. See the module's docstring.

  Raises:
    UserError: unreadable file, a layer that is missing, foreign, given twice or of a wrong shape.
  """
  merged: dict[str, np.ndarray] = {}
  for path in paths:
    for name, value in arrays.read_as_ours(path, functools.partial(_our_name, net)).items():
      if name in merged:
        raise UserError(f"{path.name}: {name} was already given")
      merged[name] = value.reshape(-1) if name.startswith("lin") else value
  if problem := difference(merged, net):
    is_head = {name.startswith("lin") for name in merged}
    hint = "; give trunk and heads together" if len(is_head) == 1 else ""
    raise UserError(f"{', '.join(path.name for path in paths)}, as {net}, {problem}{hint}")
  return {name: merged[name] for name in layout(net)}


def _our_name(net: str, name: str) -> str | None:
  """Of a torch tensor; None for what is not needed."""
  if name.startswith(UNUSED):
    return None
  if head := TORCH_HEAD.fullmatch(name):
    return f"lin{head[1]}"
  if not (layer := TORCH_NAME.fullmatch(name)) or int(layer[1]) not in LAYERS[net]:
    return name
  part = (layer[2] or "").replace(".", "/")
  return f"{LAYERS[net][int(layer[1])]}/{part}{arrays.LEAVES['conv'][layer[3]]}"
