"""The FID network's published files -> nets/inception.py, and the way images are fed to it.

Three layouts are read: torch names as in pytorch-fid's file and torchvision's ("Mixed_5b.branch1x1.
conv.weight"), ours ("Mixed_5b/branch1x1/conv/kernel"), and the scopes of the graph of 2015-12-05
with "_" for "/" and batch norms folded into kernels ("mixed_tower_conv/kernel", to mixed_8). A file
that holds the network to some block only serves the taps up to there. The file in the cache folder
has our names.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from hiresmed_jax.convert import arrays
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets import inception
from hiresmed_jax.nets.features import FeatureNet
from hiresmed_jax.ops.resize import resize, to_channels
from hiresmed_jax.types import Array, Params

NAME = "inception-2015-12-05"
# Name of a way to feed the network -> (method of ops/resize.py, words for the protocol).
RESIZES = {
  "legacy": ("bilinear", "bilinear 299 without antialias (pytorch-fid)"),
  "tf1": ("tf1", "TF1 bilinear 299 without antialias"),
  "clean": ("bicubic", "antialiased bicubic 299 (clean-fid)"),
}
# The layer or block that ends each feature vector.
_LAST = {64: "Conv2d_2b_3x3", 192: "Conv2d_4a_3x3", 768: "Mixed_6e", 2048: "Mixed_7c"}
_COMMAND = "python -m hiresmed_jax.weights"
_TORCH = re.compile(r"(.+)\.(conv|bn)\.(weight|bias|running_mean|running_var)")
_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
# Block of the graph, then tower and index of the convolution in it -> our branch.
_BLOCKS = {f"mixed_{i}" if i else "mixed": f"Mixed_{b}" for i, b in enumerate(
  ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a")
)}  # fmt: skip
_TOWERS = {
  "5": {
    "": ("branch1x1",),
    "tower": ("branch5x5_1", "branch5x5_2"),
    "tower_1": ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    "tower_2": ("branch_pool",),
  },
  "6a": {"": ("branch3x3",), "tower": ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")},
  "6": {
    "": ("branch1x1",),
    "tower": ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    "tower_1": tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
    "tower_2": ("branch_pool",),
  },
  "7a": {
    "tower": ("branch3x3_1", "branch3x3_2"),
    "tower_1": tuple(f"branch7x7x3_{i}" for i in range(1, 5)),
  },
}
_SCOPE = re.compile(r"(?:(mixed(?:_\d+)?)_)?(?:(tower(?:_\d+)?)_)?conv(?:_(\d+))?/(kernel|bias)")


def load(path: Path, *, tap: int = 2048, how: str = "legacy") -> FeatureNet:
  """The network with the weights of a file.

  Args:
    path: .npz, .safetensors, .pth or .pt in one of the layouts above.
    tap: 64, 192, 768, 2048, or 1008 for logits. Only 2,048 may be called FID (`distances.label`).
    how: the resize, a key of RESIZES.

  Raises:
    UserError: an unreadable file, one that does not reach the tap, an unknown tap or resize.
  """
  _check(tap, how)
  return _network(_read(path), path.name, tap, how)


def load_cached(*, tap: int = 2048, how: str = "legacy", folder: Path | None = None) -> FeatureNet:
  """The network from the cache folder (`folder` when given); arguments as for `load`.

  Raises:
    UserError: no file, one that does not reach the tap, an unknown tap or resize.
  """
  _check(tap, how)
  path = cache_path(folder)
  if not path.is_file():
    raise UserError(
      f"no weights of the Inception network at {path}: run `{_COMMAND} fetch inception`, or with a "
      f"file you have `{_COMMAND} convert FILE --net inception`"
    )
  found = _read(path)
  reached = _reach(found)
  if tap in _LAST and tap > reached:
    raise UserError(
      f"{path} reaches {reached} features, not {tap}: run `{_COMMAND} fetch inception`, or ask for "
      f"a number that carries its tap (FID@{reached})"
    )
  return _network(found, str(path), tap, how)


def cache_path(folder: Path | None = None) -> Path:
  """The file that `weights fetch inception` and `weights convert --net inception` write."""
  return (folder or arrays.cache_folder()) / "inception_2015_12_05.npz"


def convert(paths: Sequence[Path]) -> dict[str, np.ndarray]:
  """The arrays of one file under our names, whole or to the end of some block.

  Raises:
    UserError: not one file, an unreadable one, a layer that is missing before one that is there,
      foreign, or of a wrong shape; fewer layers than 64 features need; another Inception v3.
  """
  if len(paths) != 1:
    raise UserError(f"the Inception network is one file, not {len(paths)}")
  found = _read(paths[0])
  if problem := difference(found):
    raise UserError(f"{paths[0].name}, as the FID network, {problem}")
  return {name: found[name] for name in _layout() if name in found}


def difference(found: Mapping[str, np.ndarray]) -> str:
  """What is wrong with arrays as the network or its beginning; empty when nothing is."""
  layout = _layout()
  if foreign := arrays.foreign(found, layout):
    return foreign
  # The names of blocks sort as the blocks follow each other.
  last = max([_block(name) for name in found] + [_LAST[64]])
  return arrays.difference(found, {n: s for n, s in layout.items() if _block(n) <= last})


def reach(path: Path) -> int:
  """The longest feature vector that a file serves: 64, 192, 768 or 2,048.

  Raises:
    UserError: an unreadable file, or one that is not the network or its beginning.
  """
  found = _read(path)
  if problem := difference(found):
    raise UserError(f"{path.name}, as the FID network, {problem}")
  return _reach(found)


def prepare(images_255: Array, how: str) -> Array:
  """[N, H, W, 1 or 3] in 0 .. 255 -> what the network is fed: f32[N, 299, 299, 3] in about [-1, 1].

  Raises:
    ValueError: other than 1 or 3 channels.
  """
  if images_255.shape[-1] not in (1, 3):
    raise ValueError(f"images need 1 or 3 channels, these have {images_255.shape[-1]}")
  x = resize(images_255, inception.SIZE, inception.SIZE, RESIZES[how][0])
  if how == "legacy":
    x = x / 127.5 - 1.0
  else:
    x = (jnp.clip(x, 0.0, 255.0) - 128.0) / 128.0
  return to_channels(x, 3)


def _check(tap: int, how: str) -> None:
  if tap not in inception.TAPS:
    raise UserError(f"the Inception network has no tap of {tap}: {inception.TAPS}")
  if how not in RESIZES:
    raise UserError(f"no resize is called {how}: {', '.join(RESIZES)}")


def _read(path: Path) -> dict[str, np.ndarray]:
  found = _unfolded(arrays.read_as_ours(path, _our_name))
  if "fc/bias" in found and found["fc/bias"].shape == (1000,):
    raise UserError(
      f"{path.name} is an Inception v3 of 1,000 classes, not the network of 2015-12-05 with 1,008: "
      "distances between its features are no FID"
    )
  return found


def _network(found: Mapping[str, np.ndarray], name: str, tap: int, how: str) -> FeatureNet:
  net = inception.InceptionFeatures(tap=tap)
  expected = arrays.layout(net, inception.SIZE)
  weights = arrays.variables(found, expected, f"{name}, as Inception to {tap} features,")

  def features(weights: Params, images_255: Array) -> Array:
    return net.apply(weights, prepare(images_255, how))  # type: ignore[return-value]

  return FeatureNet(NAME, tap, RESIZES[how][1], features, weights)


@functools.cache
def _layout() -> dict[str, tuple[int, ...]]:
  return arrays.layout(inception.InceptionFeatures(tap=1008), inception.SIZE)


def _block(name: str) -> str:
  return name.partition("/")[0]


def _reach(found: Mapping[str, np.ndarray]) -> int:
  blocks = {_block(name) for name in found}
  return max((tap for tap, last in _LAST.items() if last in blocks), default=0)


def _our_name(name: str) -> str | None:
  """Of a torch tensor."""
  if name.startswith("AuxLogits.") or name.endswith("num_batches_tracked"):
    return None
  if name in ("fc.weight", "fc.bias"):
    return "fc/kernel" if name == "fc.weight" else "fc/bias"
  if not (parts := _TORCH.fullmatch(name)):
    return name
  kind = "conv" if parts[2] == "conv" else "norm"
  leaf = arrays.LEAVES[kind].get(parts[3])
  return f"{parts[1].replace('.', '/')}/{parts[2]}/{leaf}"


def _unfolded(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A graph's scopes under our names, their biases as batch norms that do nothing else."""
  out: dict[str, np.ndarray] = {}
  for name, value in found.items():
    layer = layer_of(name)
    if layer is None:
      out[name] = value
    elif name.endswith("/kernel"):
      out[f"{layer}/conv/kernel"] = value
    else:
      one = np.ones_like(value)
      out[f"{layer}/bn/bias"] = value
      out[f"{layer}/bn/scale"] = one
      out[f"{layer}/bn/mean"] = 0.0 * one
      out[f"{layer}/bn/var"] = one - np.float32(inception.EPSILON)
  return out


def layer_of(name: str) -> str | None:
  """Our layer of a graph's scope such as "mixed_4_tower_1_conv_2/kernel"; None for other names."""
  if not (parts := _SCOPE.fullmatch(name)):
    return None
  block, tower, index = parts[1], parts[2] or "", int(parts[3] or 0)
  if block is None:
    return f"Conv2d_{_STEM[index]}" if not tower and index < len(_STEM) else None
  ours = _BLOCKS.get(block, "")
  number = ours.removeprefix("Mixed_")
  branches = (_TOWERS.get(number) or _TOWERS.get(number[:1], {})).get(tower, ())
  return f"{ours}/{branches[index]}" if index < len(branches) else None
