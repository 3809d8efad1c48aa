"""U-Net as a list of PyTorch's own layers, with our parameters under the names of its modules."""

import numpy as np
import torch
from torch import nn


class Twice(nn.Sequential):
  def __init__(self, inputs: int, features: int):
    layers: list[nn.Module] = []
    for channels in (inputs, features):
      layers += [
        nn.Conv2d(channels, features, 3, padding=1, bias=False),
        nn.BatchNorm2d(features),
        nn.ReLU(),
      ]
    super().__init__(*layers)


class UNet(nn.Module):
  """[N, C, H, W] -> logits [N, K, H, W]."""

  def __init__(self, channels: int, classes: int, width: int, depth: int = 4):
    super().__init__()
    widths = [width * 2**level for level in range(depth + 1)]
    self.down = nn.ModuleList(map(Twice, [channels, *widths], widths))
    self.wider = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[:-1])
    self.up = nn.ModuleList(Twice(2 * w, w) for w in widths[:-1])
    self.logits = nn.Conv2d(width, classes, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    beside = []
    for level, block in enumerate(self.down):
      x = block(nn.functional.max_pool2d(x, 2) if level else x)
      beside.append(x)
    for level in reversed(range(len(self.up))):
      x = torch.cat([beside[level], self.wider[level](x)], 1)
      x = self.up[level](x)
    return self.logits(x)


def torch_name(path: str) -> str:
  """Our flat name of a parameter or running statistic -> the twin's."""
  *modules, leaf = path.split("/")
  block = modules[0]
  leaves = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
  }
  if block == "logits":
    return f"logits.{leaves[leaf]}"
  place, _, conv = block.partition("_conv")
  kind, level = place[:-1], place[-1]
  if kind == "double":
    return f"wider.{level}.{leaves[leaf]}"
  layer = 3 * (int(conv) - 1) + ("norm" in modules)
  return f"{kind}.{level}.{layer}.{leaves[leaf]}"


def torch_array(path: str, value: np.ndarray) -> np.ndarray:
  """[kh, kw, I, O] -> [O, I, kh, kw], of a transposed convolution [I, O, kh, kw]."""
  if value.ndim != 4:
    return value
  return value.transpose((2, 3, 0, 1) if path.startswith("double") else (3, 2, 0, 1))
