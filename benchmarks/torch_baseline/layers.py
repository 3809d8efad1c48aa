"""What the PyTorch HiResMed-VQGAN's blocks share: normalisation, stochastic depth, recomputing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class GroupNorm(nn.GroupNorm):
  """`groups`, or the largest divisor of the channels below; statistics float32.

  Autocast would hand float32 on to whatever follows, twice the traffic at full resolution: the
  result keeps the type of the input.
  """

  def __init__(self, channels: int, groups: int = 32) -> None:
    groups = next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
    super().__init__(groups, channels, eps=1e-6)

  def forward(self, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
      weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
      return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class DropPath(nn.Module):
  """Stochastic depth: in training, an example's branch is zeroed with probability `rate`."""

  def __init__(self, rate: float) -> None:
    super().__init__()
    self.rate = rate

  def forward(self, x: Tensor) -> Tensor:
    if not self.training or self.rate == 0.0:
      return x
    kept = torch.empty(x.shape[0], 1, 1, 1, device=x.device).bernoulli_(1.0 - self.rate)
    return x * (kept / (1.0 - self.rate)).to(x.dtype)


def recomputed(module: nn.Module, x: Tensor, remat: bool) -> Tensor:
  """module(x); if `remat`, it keeps its input alone and is computed again on the way back."""
  if remat and module.training:
    return checkpoint(module, x, use_reentrant=False)
  return module(x)


def exactly(conv: nn.Conv2d, x: Tensor) -> Tensor:
  """`conv` of x in the type of its parameters, whatever the rest computes in."""
  with torch.autocast(x.device.type, enabled=False):
    return conv(x.to(conv.weight.dtype))
