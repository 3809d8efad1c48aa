"""Named arrays in files, and the variables of a network made of them.

.npz and .safetensors are plain numbers; .pth is read by torch. No file can run code here: .npz
without pickles, .pth with `weights_only=True`.

Our flat names are the modules' paths and the leaf: "Mixed_5b/branch1x1/bn/mean". Kernels are HWIO,
those of dense layers IO, all float32.
"""

import importlib.util
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pooch
import safetensors
import safetensors.numpy

from hiresmed_jax.errors import UserError

TORCH_SUFFIXES = (".pth", ".pt")
SUFFIXES = (".npz", ".safetensors", *TORCH_SUFFIXES)
# Of a torch layer -> of ours.
LEAVES = {
  "conv": {"weight": "kernel", "bias": "bias"},
  "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
}
_MAX_BYTES = 1 << 34  # of one array: the largest network here has a tenth


def cache_folder() -> Path:
  """Where converted weights lie: $HIRESMED_CACHE, else hiresmed_jax in the user's cache folder."""
  return Path(os.environ.get("HIRESMED_CACHE") or pooch.os_cache("hiresmed_jax")).expanduser()


def read(path: Path) -> dict[str, np.ndarray]:
  """All arrays of a file by name, as stored.

  Raises:
    UserError: the file is missing, of another kind, damaged, or needs torch and there is none.
  """
  if not path.is_file():
    raise UserError(f"{path} is not a file")
  if path.suffix not in SUFFIXES:
    raise UserError(f"{path.name} is none of {', '.join(SUFFIXES)}")
  if path.suffix in TORCH_SUFFIXES:
    return _read_torch(path)
  try:
    if path.suffix == ".safetensors":
      return safetensors.numpy.load_file(path)
    # An open file: given a path, np.load leaves it open where the content is no archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      _check_sizes(archive.zip)
      return {name: archive[name] for name in archive.files}
  except (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
  ) as error:
    raise UserError(f"{path} is damaged or holds other than float32 or float16 arrays") from error


def _check_sizes(archive: zipfile.ZipFile) -> None:
  """Raises ValueError where an array claims more bytes than its part of an .npz holds."""
  for part in archive.infolist():
    with archive.open(part) as file:
      header = np.lib.format.read_magic(file)
      read_header = np.lib.format.read_array_header_1_0
      if header != (1, 0):
        read_header = np.lib.format.read_array_header_2_0
      shape, _, dtype = read_header(file)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > part.file_size or part.file_size > _MAX_BYTES:
      raise ValueError("an array that claims more than the file holds")


def need_torch(name: str) -> None:
  """Raises UserError when torch is not installed; `name` is the file that needs it."""
  if importlib.util.find_spec("torch") is None:
    raise UserError(
      f"{name} can only be read by torch: pip install torch (any build; needed this once), "
      "or convert a .safetensors or .npz file with the same tensors"
    )


def _read_torch(path: Path) -> dict[str, np.ndarray]:
  need_torch(path.name)
  import torch

  try:
    state = torch.load(path, map_location="cpu", weights_only=True)
  # Its message tells the reader to switch the protection off: not passed on.
  except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
    raise UserError(f"{path} is damaged or holds more than tensors; it was not opened") from error
  if not isinstance(state, Mapping) or not all(isinstance(t, torch.Tensor) for t in state.values()):
    raise UserError(f"{path} is no state dict: a mapping of names to tensors is needed")
  return {str(name): tensor.detach().float().numpy() for name, tensor in state.items()}


def read_as_ours(path: Path, rename: Callable[[str], str | None]) -> dict[str, np.ndarray]:
  """All arrays of a .npz, .safetensors, .pth or .pt under our names and in our order, float32.

  `rename` gives our name of a torch name, or None for what is not needed; a name that has a "/" is
  ours already.

  Raises:
    UserError: an unreadable file, or an array given twice.
  """
  found: dict[str, np.ndarray] = {}
  for name, value in read(path).items():
    key = name if "/" in name else rename(name)
    if key is None:
      continue
    if key in found:
      raise UserError(f"{path.name}: {name} was already given")
    found[key] = value.astype(np.float32) if "/" in name else in_our_order(value)
  return found


def in_our_order(value: np.ndarray) -> np.ndarray:
  """A torch tensor as float32, contiguous: kernels OIHW -> HWIO, OI -> IO."""
  order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
  return np.ascontiguousarray(value.transpose(order) if order else value, np.float32)


def layout(net: nn.Module, size: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
  """Flat name -> shape of every array that a network needs for images of size x size pixels."""
  image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  return {
    name: leaf.shape
    for collection in variables.values()
    for name, leaf in flax.traverse_util.flatten_dict(collection, sep="/").items()
  }


def difference(found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
  """What is wrong with arrays that a network needs, in a few words; empty when nothing is.

  Arrays that it does not need are not looked at: see `foreign`.
  """
  for name in filter(found.__contains__, expected):
    if found[name].shape != expected[name]:
      return f"does not fit: {name} is {found[name].shape}, and {expected[name]} is needed"
    if not np.isfinite(found[name]).all():
      return f"is damaged: {name} holds NaN or infinite numbers"
  missing = [name for name in expected if name not in found]
  return f"lacks {_few(missing)}" if missing else ""


def foreign(found: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> str:
  """Names of arrays that a network does not have, in a few words; empty when there are none."""
  names = [name for name in found if name not in expected]
  return f"has {_few(names)}, which is not part of it" if names else ""


def variables(
  found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, Any]:
  """{"params", "batch_stats"} of a network; arrays that it does not need are left out.

  Raises:
    UserError: an array is missing, of another shape, or not finite.
  """
  if problem := difference(found, expected):
    raise UserError(f"{what} {problem}")
  parts: dict[str, dict[str, np.ndarray]] = {"params": {}, "batch_stats": {}}
  for name in expected:
    kind = "batch_stats" if name.endswith(("/mean", "/var")) else "params"
    parts[kind][name] = found[name]
  return {
    kind: flax.traverse_util.unflatten_dict(part, sep="/") for kind, part in parts.items() if part
  }


def _few(names: Sequence[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
