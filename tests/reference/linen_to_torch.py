"""Linen parameters under the names and layouts of a PyTorch module of the same structure."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import torch


def torch_name(path: tuple[str, ...]) -> str:
  """("decoder_stages_0", "blocks", "block1", "norm", "scale") -> decoder_stages.0.blocks.1...."""
  *modules, leaf = path
  modules = [re.sub(r"^block(\d+)$", r"\1", m) for m in modules]
  modules = [re.sub(r"^(up|down|layer|scale|\w+_stages)_?(\d+)$", r"\1.\2", m) for m in modules]
  return ".".join([*modules, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])


def state_dict(params: Mapping[str, Any], net: torch.nn.Module) -> dict[str, torch.Tensor]:
  """Weights (or gradients) as `net.load_state_dict` takes them; the type decides the layout."""
  result = {}
  for path, value in flax.traverse_util.flatten_dict(dict(params)).items():
    name = torch_name(path)
    array = np.asarray(value)
    if array.ndim == 4:
      module = net.get_submodule(name.rpartition(".")[0])
      up = isinstance(module, torch.nn.ConvTranspose2d)
      array = array.transpose(2, 3, 0, 1) if up else array.transpose(3, 2, 0, 1)
    result[name] = torch.tensor(array)
  return result


def random_params(shapes: Any, seed: int = 0) -> Any:
  """Values for abstract parameters: no bias is zero, no scale one, kernels keep the variance."""
  rng = np.random.default_rng(seed)

  def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    noise = rng.standard_normal(leaf.shape)
    name = path[-1].key
    if name == "kernel":
      noise = noise / np.sqrt(np.prod(leaf.shape[:-1]))
    elif name == "scale":
      noise = 1.0 + 0.3 * noise
    else:
      noise = 0.3 * noise
    return noise.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)
