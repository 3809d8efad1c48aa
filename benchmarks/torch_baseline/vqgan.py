"""The VQGAN of Esser et al. 2021 (arXiv 2012.09841) in its two published recipes, PyTorch, NCHW.

Written from the description of the networks and their counts of parameters. Images are 16 times
as long as latents, sides are multiples of 16; with fewer `levels`, 2 for each but one. `width` is
that of the first layers, 128 as published: it scales every layer, the codes and, below 128, the
groups of the normalisation, so that a group keeps four channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_baseline import losses, quantizer
from benchmarks.torch_baseline.layers import GroupNorm
from benchmarks.torch_baseline.rules import Made

NUM_CODES = 1024
COMMITMENT = 0.25  # "beta"
LEVELS = (1, 1, 2, 2, 4)  # widths, finest first; attention at the coarsest


class ResBlock(nn.Module):
  """GN -> swish -> 3x3 -> GN -> swish -> 3x3, + the input, by 1x1 where the channels change."""

  def __init__(self, inputs: int, outputs: int, groups: int) -> None:
    super().__init__()
    self.norm1 = GroupNorm(inputs, groups)
    self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
    self.norm2 = GroupNorm(outputs, groups)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
    self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

  def forward(self, x: Tensor) -> Tensor:
    h = self.conv1(F.silu(self.norm1(x)))
    return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
  """Every position attends to all, one head; 1x1 queries, keys, values, projection; residual.

  Without `projects` the projection has parameters and no part in the result.
  """

  def __init__(self, channels: int, groups: int, projects: bool = True) -> None:
    super().__init__()
    self.norm = GroupNorm(channels, groups)
    self.queries = nn.Conv2d(channels, channels, 1)
    self.keys = nn.Conv2d(channels, channels, 1)
    self.values = nn.Conv2d(channels, channels, 1)
    self.projection = nn.Conv2d(channels, channels, 1)
    self.projects = projects

  def forward(self, x: Tensor) -> Tensor:
    h = self.norm(x)
    q, k, v = (
      conv(h).flatten(2).transpose(1, 2)[:, None] for conv in (self.queries, self.keys, self.values)
    )
    h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
    return x + (self.projection(h) if self.projects else h)


class Down(nn.Conv2d):
  """3x3, stride 2, one row and one column of zeros at the far ends."""

  def __init__(self, channels: int) -> None:
    super().__init__(channels, channels, 3, stride=2)

  def forward(self, x: Tensor) -> Tensor:
    return super().forward(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
  """Nearest to twice the size, then 3x3."""

  def __init__(self, channels: int) -> None:
    super().__init__(channels, channels, 3, padding=1)

  def forward(self, x: Tensor) -> Tensor:
    return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


def encoder(
  channels: int, width: int, *, levels: Sequence[int] = LEVELS, projects: bool = True
) -> nn.Sequential:
  """Images -> what the 1x1 before the codes reads, 2 x width channels."""
  groups, last = _groups(width), 2 * width
  layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
  inputs = width
  for level, factor in enumerate(levels):
    coarsest = level == len(levels) - 1
    layers += _level(inputs, factor * width, 2, groups, attends=coarsest, projects=projects)
    inputs = factor * width
    if not coarsest:
      layers.append(Down(inputs))
  layers += _middle(inputs, groups, projects)
  layers += [GroupNorm(inputs, groups), nn.SiLU(), nn.Conv2d(inputs, last, 3, padding=1)]
  return nn.Sequential(*layers)


def decoder_taming(width: int, *, levels: Sequence[int] = LEVELS) -> nn.Sequential:
  """Codes, 2 x width channels -> what the last convolution reads, `width` at full resolution.

  A level doubles after its blocks.
  """
  return _decoder(width, levels[::-1], attends=(0,), doubles=range(len(levels) - 1))


def decoder_dome272(
  width: int, *, levels: Sequence[int] = LEVELS, projects: bool = True
) -> nn.Sequential:
  """As `decoder_taming`, but the first level does not double and the last one does.

  The finest blocks run at half the resolution, and the first two levels, of different widths,
  attend at the coarsest.
  """
  doubles = range(1, len(levels))
  return _decoder(width, levels[::-1], attends=(0, 1), doubles=doubles, projects=projects)


class VQGAN(nn.Module):
  """images_m11 [N,C,H,W] -> `Made`. Codes by Euclidean distance, loss in the published order."""

  def __init__(self, channels: int, width: int, encoder: nn.Module, decoder: nn.Module) -> None:
    super().__init__()
    dim = 2 * width
    self.encoder, self.decoder = encoder, decoder
    self.before, self.after = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
    self.last = nn.Conv2d(width, channels, 3, padding=1)
    bound = 1.0 / NUM_CODES
    self.codebook = nn.Parameter(torch.empty(NUM_CODES, dim).uniform_(-bound, bound))

  def forward(self, images_m11: Tensor) -> Made:
    latents = self.before(self.encoder(images_m11)).permute(0, 2, 3, 1)
    with torch.autocast(latents.device.type, enabled=False):
      latents = latents.float()
      codes, indices, chosen = quantizer.quantize_by_distance(latents, self.codebook)
      code_loss = losses.legacy_codebook(latents, chosen, COMMITMENT)
    features = self.decoder(self.after(codes.permute(0, 3, 1, 2)))
    scalars = {"codebook": code_loss.detach()}
    return Made(self.last(features).float(), features, code_loss, scalars, latents, indices)


def taming(channels: int, width: int = 128, *, levels: Sequence[int] = LEVELS) -> VQGAN:
  """The recipe with all layers in use: 72,141,699 parameters for three channels."""
  front = encoder(channels, width, levels=levels)
  return VQGAN(channels, width, front, decoder_taming(width, levels=levels))


def dome272(
  channels: int,
  width: int = 128,
  *,
  levels: Sequence[int] = LEVELS,
  attn_proj_off: bool = False,
) -> VQGAN:
  """The recipe that the paper started from: 70,720,515 parameters for three channels.

  `attn_proj_off`: attention is added without its projection, as published.
  """
  projects = not attn_proj_off
  front = encoder(channels, width, levels=levels, projects=projects)
  return VQGAN(channels, width, front, decoder_dome272(width, levels=levels, projects=projects))


def _decoder(
  width: int,
  factors: Sequence[int],
  *,
  attends: Sequence[int],
  doubles: Sequence[int],
  projects: bool = True,
) -> nn.Sequential:
  groups, inputs = _groups(width), factors[0] * width
  layers: list[nn.Module] = [nn.Conv2d(2 * width, inputs, 3, padding=1)]
  layers += _middle(inputs, groups, projects)
  for level, factor in enumerate(factors):
    options: dict[str, Any] = {"attends": level in attends, "projects": projects}
    layers += _level(inputs, factor * width, 3, groups, **options)
    inputs = factor * width
    if level in doubles:
      layers.append(Up(inputs))
  layers += [GroupNorm(inputs, groups), nn.SiLU()]
  return nn.Sequential(*layers)


def _level(
  inputs: int, outputs: int, blocks: int, groups: int, *, attends: bool, projects: bool
) -> list[nn.Module]:
  layers: list[nn.Module] = []
  for index in range(blocks):
    layers.append(ResBlock(outputs if index else inputs, outputs, groups))
    if attends:
      layers.append(Attention(outputs, groups, projects))
  return layers


def _middle(channels: int, groups: int, projects: bool) -> list[nn.Module]:
  attention = Attention(channels, groups, projects)
  return [ResBlock(channels, channels, groups), attention, ResBlock(channels, channels, groups)]


def _groups(width: int) -> int:
  if width % 4:
    raise ValueError(f"width {width} must be a multiple of 4")
  return min(32, width // 4)
