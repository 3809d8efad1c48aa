"""Named arrays in files: .npz and .safetensors are plain numbers; .pth is read by torch.

No file can run code here: .npz without pickles, .pth with `weights_only=True`.
"""

import importlib.util
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from hiresmed_jax.errors import UserError

TORCH_SUFFIXES = (".pth", ".pt")
SUFFIXES = (".npz", ".safetensors", *TORCH_SUFFIXES)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
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
