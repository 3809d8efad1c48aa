"""Linen parameters under the names and layouts of the PyTorch network, and the way back."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import torch


def torch_name(path: tuple[str, ...]) -> str:
  """("decoder_stages_0", "blocks", "block1", "norm", "scale") -> decoder_stages.0.blocks.1...."""
  *modules, leaf = path
  modules = [re.sub(r"^block(\d+)$", r"\1", m) for m in modules]
  modules = [re.sub(r"^(up|down|layer|scale|\w+_stages)_?(\d+)$", r"\1.\2", m) for m in modules]
  return ".".join([*modules, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])


def linen_path(name: str, ndim: int) -> tuple[str, ...]:
  """The way back: "decoder_stages.0.blocks.1.norm.weight", 1 axis -> ("decoder_stages_0", ...)."""
  modules, _, leaf = name.rpartition(".")
  modules = re.sub(r"(^|\.)(up|down|layer|scale)\.(\d+)", r"\1\2\3", modules)
  modules = re.sub(r"(_stages)\.(\d+)", r"\1_\2", modules)
  modules = re.sub(r"\.(\d+)(?=\.|$)", r".block\1", modules)
  if leaf == "weight":
    leaf = "kernel" if ndim == 4 else "scale"
  return (*modules.split("."), leaf)


def state_dict(params: Mapping[str, Any], net: torch.nn.Module) -> dict[str, torch.Tensor]:
  """Weights (or gradients) as `net.load_state_dict` takes them; the type decides the layout.

  Args:
    params: nested Linen parameters, kernels HWIO, of jax or NumPy arrays.
    net: whose submodules tell a convolution from a transposed one.
  """
  result = {}
  for path, value in flax.traverse_util.flatten_dict(dict(params)).items():
    name = torch_name(path)
    array = np.asarray(value)
    if array.ndim == 4:
      array = array.transpose(2, 3, 0, 1) if _up(net, name) else array.transpose(3, 2, 0, 1)
    result[name] = torch.tensor(array)
  return result


def linen_params(state: Mapping[str, torch.Tensor], net: torch.nn.Module) -> dict[str, Any]:
  """Undoes `state_dict`: nested Linen parameters as NumPy arrays on the host."""
  result = {}
  for name, value in state.items():
    array = value.detach().cpu().numpy()
    if array.ndim == 4:
      array = array.transpose(2, 3, 0, 1) if _up(net, name) else array.transpose(2, 3, 1, 0)
    result[linen_path(name, array.ndim)] = np.array(array, order="C")
  return flax.traverse_util.unflatten_dict(result)


def _up(net: torch.nn.Module, name: str) -> bool:
  return isinstance(net.get_submodule(name.rpartition(".")[0]), torch.nn.ConvTranspose2d)
