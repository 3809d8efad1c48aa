"""Weights of our SinGAN into the PyTorch one, and its gradients and weights back into our names."""

from typing import Any

import jax
import numpy as np
import torch


def drawn(shapes: Any, seed: int = 0) -> Any:
  """Values for abstract parameters: nothing is zero, nothing saturates, gradients are not tiny."""
  rng = np.random.default_rng(seed)

  def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    noise, name = rng.standard_normal(leaf.shape), path[-1].key
    if name.startswith("kernel"):
      noise = noise / np.sqrt(np.prod(leaf.shape[:-1]))
    else:
      noise = 0.3 * noise + (name == "scale")
    return noise.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def to_torch(params: Any, twin: torch.nn.Module) -> None:
  """Parameters of a Generator or a Critic; statistics stay as they are."""
  with torch.no_grad():
    for name, (tensor, value) in _pairs(params["body"], twin).items():
      if tensor.shape != value.shape:
        raise ValueError(f"{name}: {tuple(tensor.shape)} and {value.shape}")
      tensor.copy_(torch.tensor(np.array(value)))


def names_and_tensors(params: Any, twin: torch.nn.Module) -> dict[str, tuple[torch.Tensor, Any]]:
  """Our name -> (PyTorch's parameter, our value in its layout)."""
  return _pairs(params["body"], twin)


def _pairs(body: Any, twin: torch.nn.Module) -> dict[str, tuple[torch.Tensor, np.ndarray]]:
  pairs = {}
  for index in range(5):
    convolution = twin.net[3 * index]
    kernel = np.asarray(body[f"kernel{index}"]).transpose(3, 2, 0, 1)
    pairs[f"kernel{index}"] = (convolution.weight, kernel)
    pairs[f"bias{index}"] = (convolution.bias, np.asarray(body[f"bias{index}"]))
    if index < 4:
      norm, ours = twin.net[3 * index + 1], body[f"norm{index}"]
      pairs[f"norm{index}/scale"] = (norm.weight, np.asarray(ours["scale"]))
      pairs[f"norm{index}/shift"] = (norm.bias, np.asarray(ours["shift"]))
  return pairs
