"""DDPM of PyTorch's own layers, its schedules and its sampler as the papers write them.

Modules have the names of our parameters. Source: Ho, Jain and Abbeel, arXiv 2006.11239; Nichol and
Dhariwal, arXiv 2102.09672; Song, Meng and Ermon, arXiv 2010.02502.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F


class Linear(nn.Module):
  """x W + b, W [inputs, outputs]."""

  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.weight = nn.Parameter(torch.zeros(inputs, outputs))
    self.bias = nn.Parameter(torch.zeros(outputs))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return x @ self.weight + self.bias


def norm(channels: int) -> nn.GroupNorm:
  groups = next(n for n in range(min(32, channels), 0, -1) if channels % n == 0)
  return nn.GroupNorm(groups, channels, eps=1e-6)


class Block(nn.Module):
  def __init__(self, inputs: int, features: int, embedding: int):
    super().__init__()
    self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, features, 3, padding=1)
    self.embed = Linear(embedding, features)
    self.norm2, self.conv2 = norm(features), nn.Conv2d(features, features, 3, padding=1)
    if inputs != features:
      self.skip = nn.Conv2d(inputs, features, 1)

  def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    h = self.conv1(F.silu(self.norm1(x)))
    h = h + self.embed(F.silu(embedding)).unsqueeze(-1).unsqueeze(-1)
    h = self.conv2(F.silu(self.norm2(h)))
    return h + (self.skip(x) if hasattr(self, "skip") else x)


class Attention(nn.Module):
  def __init__(self, channels: int):
    super().__init__()
    self.norm = norm(channels)
    self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
    self.output = nn.Conv2d(channels, channels, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    q, k, v = self.query_key_value(self.norm(x)).reshape(n, 3, c, h * w).unbind(1)
    share = torch.softmax(torch.einsum("ncp,ncq->npq", q, k) / math.sqrt(c), dim=-1)
    return x + self.output(torch.einsum("npq,ncq->ncp", share, v).reshape(n, c, h, w))


class DDPM(nn.Module):
  """[N, C, H, W], of the levels [N] that are set -> the noise in it."""

  def __init__(
    self,
    channels: int,
    size: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
  ):
    super().__init__()
    self.width, self.blocks, self.depth = width, blocks, len(multipliers)
    self.levels = torch.zeros(1)
    widths = [width * m for m in multipliers]
    self.embed1, self.embed2 = Linear(width, 4 * width), Linear(4 * width, 4 * width)
    self.input = nn.Conv2d(channels, width, 3, padding=1)
    now, beside = width, [width]

    def block(name: str, inputs: int, features: int, rows: int) -> None:
      self.add_module(name, Block(inputs, features, 4 * width))
      if rows in attention:
        self.add_module(f"{name}_attention", Attention(features))

    for level, features in enumerate(widths):
      if level:
        self.add_module(f"halve{level}", nn.Conv2d(now, now, 3, stride=2))
        beside.append(now)
      for number in range(blocks):
        block(f"down{level}_{number}", now, features, size >> level)
        now = features
        beside.append(now)
    self.middle1, self.middle2 = Block(now, now, 4 * width), Block(now, now, 4 * width)
    self.middle_attention = Attention(now)
    for level in range(self.depth - 1, -1, -1):
      for number in range(blocks + 1):
        block(f"up{level}_{number}", now + beside.pop(), widths[level], size >> level)
        now = widths[level]
      if level:
        self.add_module(f"double{level}", nn.Conv2d(now, now, 3, padding=1))
    self.norm, self.output = norm(now), nn.Conv2d(now, channels, 3, padding=1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    half = self.width // 2
    rates = [10_000 ** (-i / (half - 1)) for i in range(half)]
    angles = torch.stack([self.levels.to(x.dtype) * rate for rate in rates], dim=1)
    embedding = self.embed1(torch.cat([angles.sin(), angles.cos()], dim=1))
    embedding = self.embed2(F.silu(embedding))

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
      x = getattr(self, name)(x, embedding)
      attention = getattr(self, f"{name}_attention", None)
      return x if attention is None else attention(x)

    x = self.input(x)
    beside = [x]
    for level in range(self.depth):
      if level:
        x = getattr(self, f"halve{level}")(F.pad(x, (0, 1, 0, 1)))
        beside.append(x)
      for number in range(self.blocks):
        x = block(f"down{level}_{number}", x)
        beside.append(x)
    x = self.middle2(self.middle_attention(self.middle1(x, embedding)), embedding)
    for level in range(self.depth - 1, -1, -1):
      for number in range(self.blocks + 1):
        x = block(f"up{level}_{number}", torch.cat([x, beside.pop()], dim=1))
      if level:
        x = getattr(self, f"double{level}")(F.interpolate(x, scale_factor=2, mode="nearest"))
    return self.output(F.silu(self.norm(x)))


def betas(schedule: str, count: int) -> list[float]:
  """Variance that each level adds to the one before."""
  if schedule == "linear":
    scale = 1000 / count
    rising = (scale * (1e-4 + (0.02 - 1e-4) * t / (count - 1)) for t in range(count))
    return [min(beta, 0.999) for beta in rising]
  bars = [math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(count + 1)]
  return [min(1 - bars[t + 1] / bars[t], 0.999) for t in range(count)]


def alpha_bars(schedule: str, count: int) -> list[float]:
  """Share of the image's variance that is left at each level."""
  found, left = [], 1.0
  for beta in betas(schedule, count):
    left *= 1 - beta
    found.append(left)
  return found


def sample(
  x: torch.Tensor,
  eps: Callable[[torch.Tensor, int], torch.Tensor],
  fresh: Sequence[torch.Tensor],
  *,
  schedule: str,
  count: int,
  chosen: Sequence[int],
  sampler: str,
  variance: str,
) -> torch.Tensor:
  """From noise to images through the levels `chosen`, which rise; `fresh` is for each step."""
  bars = [1.0, *(alpha_bars(schedule, count)[t] for t in chosen)]
  for number, i in enumerate(range(len(chosen), 0, -1)):
    bar, before = bars[i], bars[i - 1]
    found = eps(x, chosen[i - 1])
    image = ((x - math.sqrt(1 - bar) * found) / math.sqrt(bar)).clamp(-1, 1)
    if sampler == "ddim":
      found = (x - math.sqrt(bar) * image) / math.sqrt(1 - bar)
      x = math.sqrt(before) * image + math.sqrt(1 - before) * found
      continue
    # Ho et al., Eqs. 6 and 7, between the chosen levels.
    alpha = bar / before
    mean = math.sqrt(before) * (1 - alpha) / (1 - bar) * image
    mean = mean + math.sqrt(alpha) * (1 - before) / (1 - bar) * x
    posterior = (1 - before) / (1 - bar) * (1 - alpha)
    spread = 1 - alpha if variance == "large" else posterior
    x = mean + (math.sqrt(spread) * fresh[number] if i > 1 else 0)
  return x
