"""LPIPS in PyTorch, from the same file of weights as hiresmed_jax.convert.features.

Images [N,1 or 3,H,W] in [-1, 1]. Source: Zhang et al., arXiv 1801.03924, version 0.1.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiresmed_jax.convert import arrays
from hiresmed_jax.convert.features import LAYERS, cache_path
from hiresmed_jax.errors import UserError

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Output channels of each convolution; "pool" before it, "tap" after its ReLU.
VGG16: tuple[int | str, ...] = (
  64, 64, "tap", "pool", 128, 128, "tap", "pool", 256, 256, 256, "tap", "pool",
  512, 512, 512, "tap", "pool", 512, 512, 512, "tap",
)  # fmt: skip


class LPIPS(nn.Module):
  """(prediction_m11, target_m11) -> f32[N]; VGG16 trunk, frozen, gradients to the prediction."""

  def __init__(self, heads: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> None:
    super().__init__()
    widths = [w for w in VGG16 if isinstance(w, int)]
    pairs = zip((3, *widths[:-1]), widths, strict=True)
    self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)
    for index, head in enumerate(heads):
      self.register_buffer(f"head{index}", head.reshape(1, -1, 1, 1))
    self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1))
    self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1))
    self.dtype = dtype
    self.requires_grad_(False)
    self.to(memory_format=torch.channels_last)

  def forward(self, prediction_m11: Tensor, target_m11: Tensor) -> Tensor:
    with torch.no_grad():
      targets = [_unit(tap) for tap in self.taps(target_m11)]
    total = torch.zeros(prediction_m11.shape[0], device=prediction_m11.device)
    for index, (tap, target) in enumerate(zip(self.taps(prediction_m11), targets, strict=True)):
      squared = (_unit(tap) - target).square() * self.get_buffer(f"head{index}")
      total = total + squared.sum(1).mean((1, 2))
    return total

  def taps(self, images_m11: Tensor) -> list[Tensor]:
    """The activations that are compared, finest first."""
    x = (images_m11 - self.get_buffer("shift")) / self.get_buffer("scale")
    taps, convs = [], iter(self.convs)
    enabled = self.dtype != torch.float32
    with torch.autocast(x.device.type, dtype=self.dtype, enabled=enabled):
      for layer in VGG16:
        if layer == "tap":
          taps.append(x)
        elif layer == "pool":
          x = F.max_pool2d(x, 2)
        else:
          x = F.relu(next(convs)(x), inplace=True)
    return taps

  def with_random_heads(self) -> "LPIPS":
    """The same trunk, with the heads that a 1x1 convolution of PyTorch starts from."""
    heads = []
    for index in range(5):
      width = self.get_buffer(f"head{index}").numel()
      heads.append(nn.Conv2d(width, 1, 1, bias=False).weight.detach())
    other = LPIPS(heads, self.dtype)
    other.convs = self.convs
    return other.to(self.get_buffer("shift").device)


def load(net: str, *, folder: Path | None = None, dtype: torch.dtype = torch.float32) -> LPIPS:
  """The network with its published weights, out of the cache folder.

  Raises:
    UserError: another network than VGG16, or no file.
  """
  if net != "vgg16":
    raise UserError(f"the PyTorch baseline has no perceptual network {net}: use vgg16, or none")
  path = cache_path(net, folder)
  if not path.is_file():
    raise UserError(
      f"no weights of {net} at {path}: run `python -m hiresmed_jax.weights fetch {net}`"
    )
  found = arrays.read(path)
  network = LPIPS([torch.tensor(found[f"lin{i}"]) for i in range(5)], dtype)
  for name, conv in zip(LAYERS[net].values(), network.convs, strict=True):
    conv.weight.data.copy_(torch.tensor(found[f"{name}/kernel"].transpose(3, 2, 0, 1).copy()))
    conv.bias.data.copy_(torch.tensor(found[f"{name}/bias"]))
  return network


def _unit(x: Tensor) -> Tensor:
  """Unit vectors over channels, float32; 0 where all channels are (the ReLU stops the gradient)."""
  x = x.float()
  length = x.square().sum(1, keepdim=True).clamp_min(1e-24).sqrt()
  return x / (length + 1e-10)
