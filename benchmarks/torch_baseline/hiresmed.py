"""HiResMed-VQGAN in plain PyTorch, NCHW: the twin of hiresmed_jax.nets, written to be fast.

It is both the oracle of the Linen networks and the baseline of the benchmarks. Modules and
constructor arguments are called as there, so that weights go over (convert.py).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_baseline.blocks import (
  HDFB,
  ChannelAttention,
  DetailEnhancement,
  Downsample,
  Residual,
  SubPixel,
  Transposed,
  Upsample,
)
from benchmarks.torch_baseline.layers import GroupNorm, exactly, recomputed


class Stack(nn.Sequential):
  """Blocks in sequence, one per drop-path rate."""

  def __init__(
    self, inputs: int, channels: int, rates: Sequence[float], block: str, activation: str
  ) -> None:
    kind = {"hdfb": HDFB, "residual": Residual}[block]
    super().__init__(
      *(kind(channels if i else inputs, channels, activation, r) for i, r in enumerate(rates))
    )
    self.remat = False

  def forward(self, x: Tensor) -> Tensor:
    for module in self:
      x = recomputed(module, x, self.remat)
    return x


class EncoderStage(nn.Module):
  def __init__(self, inputs: int, channels: int, steps: int, blocks: Stack) -> None:
    super().__init__()
    self.down = Downsample(inputs, channels, steps) if steps else nn.Identity()
    self.blocks = blocks
    self.remat = False

  def forward(self, x: Tensor) -> Tensor:
    return self.blocks(recomputed(self.down, x, self.remat))


class DecoderStage(nn.Module):
  def __init__(
    self, inputs: int, channels: tuple[int, ...], method: str, ratio: int, blocks: Stack
  ) -> None:
    super().__init__()
    self.up = Upsample(inputs, channels, method)
    self.blocks = blocks
    self.attention = ChannelAttention(channels[-1], ratio)
    self.remat = False

  def forward(self, x: Tensor) -> Tensor:
    return self.attention(self.blocks(recomputed(self.up, x, self.remat)))


class DecoderTail(nn.Module):
  def __init__(self, channels: int) -> None:
    super().__init__()
    self.detail = DetailEnhancement(channels)
    self.norm = GroupNorm(channels)
    self.remat = False

  def forward(self, x: Tensor) -> Tensor:
    return F.silu(self.norm(recomputed(self.detail, x, self.remat)))


class VQGAN(nn.Module):
  """hiresmed_jax.nets.vqgan.VQGAN; computes in the type that autocast asks for.

  Latents, head and images are float32. `remat` recomputes blocks on the way back.
  """

  def __init__(
    self,
    *,
    in_channels: int = 3,
    out_channels: int = 3,
    stem_channels: int = 64,
    channels: tuple[int, ...] = (128, 256, 512),
    strides: tuple[int, ...] = (4, 4, 4),
    encoder_blocks: int = 2,
    middle_blocks: int = 1,
    decoder_blocks: int = 1,
    full_resolution_channels: int = 32,
    code_dim: int = 256,
    block: str = "hdfb",
    activation: str = "relu",
    drop_path_rate: float = 0.0,
    upsampling: str = "transposed",
    se_ratio: int = 16,
    kernel_init_std: float | None = None,
    remat: bool = False,
  ) -> None:
    super().__init__()

    def blocks(inputs: int, width: int, rates: Sequence[float]) -> Stack:
      return Stack(inputs, width, rates, block, activation)

    steps = [s.bit_length() - 1 for s in strides]
    rates = linear(drop_path_rate, len(channels) * encoder_blocks + middle_blocks)
    self.stem = nn.Conv2d(in_channels, stem_channels, 3, stride=2, padding=1)
    self.encoder_stages = nn.ModuleList()
    width = stem_channels
    for index, (count, new) in enumerate(zip(steps, channels, strict=True)):
      halvings = count - 1 if index == 0 else count
      own = rates[index * encoder_blocks :][:encoder_blocks]
      inner = blocks(new if halvings else width, new, own)
      self.encoder_stages.append(EncoderStage(width, new, halvings, inner))
      width = new
    self.encoder_middle = blocks(width, width, rates[len(channels) * encoder_blocks :])
    self.latent_norm = GroupNorm(width)
    self.latent_conv = nn.Conv2d(width, code_dim, 1)

    before = middle_blocks + (len(channels) - 1) * decoder_blocks
    rates = linear(drop_path_rate, before + 1)[:0:-1] + [0.0] * decoder_blocks
    self.code_conv = nn.Conv2d(code_dim, width, 1)
    self.decoder_middle = blocks(width, width, rates[:middle_blocks])
    self.decoder_stages = nn.ModuleList()
    targets = [stem_channels, *channels[:-1]]
    for number, index in enumerate(range(len(channels) - 1, -1, -1)):
      ways = [targets[index]] * steps[index]
      if index == 0:
        ways[-1] = full_resolution_channels
      own = rates[middle_blocks + number * decoder_blocks :][:decoder_blocks]
      inner = blocks(ways[-1], ways[-1], own)
      self.decoder_stages.append(DecoderStage(width, tuple(ways), upsampling, se_ratio, inner))
      width = ways[-1]
    self.decoder_tail = DecoderTail(width)
    self.output = nn.Conv2d(width, out_channels, 3, padding=1)
    initialise(self, kernel_init_std)
    for module in self.modules():
      if hasattr(module, "remat"):
        module.remat = remat

  def encode(self, images_m11: Tensor) -> Tensor:
    """[N,C,H,W] -> latents f32[N,code_dim,h,w]."""
    x = self.stem(images_m11)
    for stage in self.encoder_stages:
      x = stage(x)
    return exactly(self.latent_conv, F.silu(self.latent_norm(self.encoder_middle(x))))

  def decode_features(self, codes: Tensor) -> Tensor:
    """[N,code_dim,h,w] -> what the last convolution reads."""
    x = self.decoder_middle(self.code_conv(codes))
    for stage in self.decoder_stages:
      x = stage(x)
    return self.decoder_tail(x)

  def head(self, features: Tensor) -> Tensor:
    """The last convolution, float32."""
    return exactly(self.output, features)

  def decode(self, codes: Tensor) -> Tensor:
    """[N,code_dim,h,w] -> images_m11 f32[N,C,H,W], not bounded."""
    return self.head(self.decode_features(codes))

  def forward(self, images_m11: Tensor) -> Tensor:
    return self.decode(self.encode(images_m11))


def linear(rate: float, blocks: int) -> list[float]:
  """Linear in depth, 0 to `rate`."""
  return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def initialise(net: nn.Module, kernel_init_std: float | None) -> None:
  """The distributions that the Linen network starts from; its biases are 0, its scales 1."""
  for module in net.modules():
    if isinstance(module, GroupNorm) or not hasattr(module, "weight"):
      continue
    weight = module.weight
    nn.init.zeros_(module.bias)
    with torch.no_grad():
      if isinstance(module, Transposed):
        matrix = torch.empty(*weight.shape[:2], 1, 1)
        _draw(matrix, weight.shape[0], kernel_init_std)
        taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
        weight.copy_(matrix * taps[:, None] * taps)
      elif isinstance(module, SubPixel):
        phase = torch.empty(weight.shape[0] // 4, *weight.shape[1:])
        _draw(phase, phase[0].numel(), kernel_init_std)
        weight.copy_(phase.repeat(4, 1, 1, 1))
      else:
        _draw(weight, weight[0].numel(), kernel_init_std)


def _draw(weight: Tensor, fan_in: int, std: float | None) -> None:
  if std is None:
    # A normal cut at two deviations has 0.88 of its deviation left.
    std = 1.0 / math.sqrt(fan_in) / 0.87962566103423978
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)
  else:
    nn.init.normal_(weight, 0.0, std)
