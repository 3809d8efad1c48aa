"""RadImageNet's ResNet-50 files -> nets/features.py, and the way images are fed to it.

Names are torchvision's ("layer1.0.conv1.weight"), or those of RadImageNet's own PyTorch file, whose
layers are numbered ("backbone.4.0.conv1.weight"). Keras' weights in the port that MONAI loads have
biases in their convolutions: these are folded into the means of the batch norms behind them.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hiresmed_jax.convert import arrays
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.features import CHANNELS, FeatureNet, ResNet50Features
from hiresmed_jax.ops.resize import resize, to_channels
from hiresmed_jax.types import Array, Params

SIZE = 224  # pixels a side at which RadImageNet was trained
NAME = "RadImageNet ResNet-50"
RESIZE = "bilinear 224 without antialias"
_NUMBERED = {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in range(1, 5)}}
_TORCH = re.compile(r"(?:(layer[1-4])\.(\d+)\.)?(conv\d|bn\d|downsample\.[01])\.(\w+)")
# MONAI takes these from intensities in [0, 1], channels in the order blue, green, red.
MONAI_MEAN = np.array([0.406, 0.456, 0.485], np.float32)


def load(path: Path) -> FeatureNet:
  """The network with the weights of a file; which layout it has shows in its names.

  A file with biases is Keras' by way of MONAI, and fed as there; any other is fed x / 127.5 - 1.

  Raises:
    UserError: an unreadable file, a layer missing or of a wrong shape.
  """
  found = arrays.read_as_ours(path, _our_name)
  keras = _is_keras(found)
  net = ResNet50Features(early_stride=keras)
  weights = arrays.variables(_without_biases(found), _layout(), f"{path.name}, as ResNet-50,")

  def features(weights: Params, images_255: Array) -> Array:
    return net.apply(weights, prepare(images_255, monai=keras))  # type: ignore[return-value]

  way = "MONAI's scaling" if keras else "x / 127.5 - 1"
  return FeatureNet(NAME, CHANNELS, f"{RESIZE}, {way}", features, weights)


def load_cached(*, folder: Path | None = None) -> FeatureNet:
  """The network from the cache folder (`folder` when given).

  Raises:
    UserError: no file, or one that does not fit.
  """
  path = cache_path(folder)
  if not path.is_file():
    raise UserError(
      f"no weights of {NAME} at {path}: with a downloaded file run "
      "`python -m hiresmed_jax.weights convert FILE --net radimagenet`"
    )
  return load(path)


def cache_path(folder: Path | None = None) -> Path:
  """The file that `weights convert --net radimagenet` writes."""
  return (folder or arrays.cache_folder()) / "radimagenet_resnet50.npz"


def convert(paths: Sequence[Path]) -> dict[str, np.ndarray]:
  """The arrays of one file under our names; biases stay, for they show the layout.

  Raises:
    UserError: not one file, an unreadable one, a layer missing, foreign or of a wrong shape.
  """
  if len(paths) != 1:
    raise UserError(f"{NAME} is one file, not {len(paths)}")
  found = arrays.read_as_ours(paths[0], _our_name)
  if problem := difference(found):
    raise UserError(f"{paths[0].name}, as ResNet-50, {problem}")
  return found


def difference(found: Mapping[str, np.ndarray]) -> str:
  """What is wrong with arrays as the network; empty when nothing is."""
  expected = dict(_layout())
  if _is_keras(found):
    kernels = [name for name in expected if name.endswith("/kernel")]
    expected |= {name.replace("/kernel", "/bias"): expected[name][-1:] for name in kernels}
  return arrays.foreign(found, expected) or arrays.difference(found, expected)


def prepare(images_255: Array, *, monai: bool) -> Array:
  """[N, H, W, 1 or 3] in 0 .. 255 -> f32[N, 224, 224, 3], scaled in one of the two ways of `load`.

  Raises:
    ValueError: other than 1 or 3 channels.
  """
  if images_255.shape[-1] not in (1, 3):
    raise ValueError(f"images need 1 or 3 channels, these have {images_255.shape[-1]}")
  x = resize(images_255, SIZE, SIZE, "bilinear")
  x = to_channels(x, 3)
  return x[..., ::-1] / 255.0 - MONAI_MEAN if monai else x / 127.5 - 1.0


@functools.cache
def _layout() -> dict[str, tuple[int, ...]]:
  return arrays.layout(ResNet50Features(), 64)


def _is_keras(found: Mapping[str, np.ndarray]) -> bool:
  return "conv1/bias" in found


def _our_name(name: str) -> str | None:
  """Of a torch tensor; None for heads and counters."""
  if name.startswith("backbone."):
    number, _, rest = name.removeprefix("backbone.").partition(".")
    name = f"{_NUMBERED.get(number, number)}.{rest}"
  if name.startswith("fc.") or name.endswith("num_batches_tracked"):
    return None
  if not (parts := _TORCH.fullmatch(name)):
    return name
  stage, block, layer, leaf = parts.groups()
  layer = {"downsample.0": "convdownsample", "downsample.1": "bndownsample"}.get(layer, layer)
  leaf = arrays.LEAVES["conv" if layer.startswith("conv") else "norm"].get(leaf, leaf)
  return f"{stage}_{block}/{layer}/{leaf}" if stage else f"{layer}/{leaf}"


def _without_biases(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """(conv + bias - mean) = conv - (mean - bias): the biases move into the means."""
  out = dict(found)
  for name in found:
    head, _, layer = name.removesuffix("/bias").rpartition("/")
    if not (name.endswith("/bias") and layer.startswith("conv")):
      continue
    mean = f"{head}/{layer.replace('conv', 'bn')}/mean".lstrip("/")
    if mean not in found or found[mean].shape != found[name].shape:
      raise UserError(f"{name} has no batch norm behind it that fits")
    out[mean] = out[mean] - out.pop(name)
  return out
