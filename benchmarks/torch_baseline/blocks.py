"""Blocks and resampling of HiResMed-VQGAN in PyTorch, NCHW: the twins of hiresmed_jax.nets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_baseline.layers import DropPath, GroupNorm, exactly


class MSConvFE(nn.Module):
  def __init__(self, channels: int, activation: str = "relu", drop_path_rate: float = 0.0) -> None:
    super().__init__()
    self.norm = GroupNorm(channels)
    self.conv = nn.Conv2d(channels, channels, 3, padding=1)
    self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
    self.pointwise = nn.Conv2d(channels, channels, 1)
    self.activation = nn.ReLU(inplace=True) if activation == "relu" else nn.GELU()
    self.drop_path = DropPath(drop_path_rate)

  def forward(self, x: Tensor) -> Tensor:
    h = self.activation(self.conv(self.norm(x)))
    return x + self.drop_path(self.pointwise(self.depthwise(h)))


class HDFB(nn.Module):
  def __init__(
    self, inputs: int, channels: int, activation: str = "relu", drop_path_rate: float = 0.0
  ) -> None:
    super().__init__()
    self.norm1 = GroupNorm(inputs)
    self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
    self.norm2 = GroupNorm(channels)
    self.msconvfe = MSConvFE(channels, activation, drop_path_rate)
    self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

  def forward(self, x: Tensor) -> Tensor:
    h = F.silu(self.norm2(self.conv(F.silu(self.norm1(x)))))
    return self.skip(x) + self.msconvfe(h)


class Residual(nn.Module):
  """As there, it has neither the activation nor the stochastic depth of HDFB."""

  def __init__(
    self, inputs: int, channels: int, activation: str = "", drop_path_rate: float = 0.0
  ) -> None:
    super().__init__()
    self.norm1 = GroupNorm(inputs)
    self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
    self.norm2 = GroupNorm(channels)
    self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
    self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

  def forward(self, x: Tensor) -> Tensor:
    h = self.conv1(F.silu(self.norm1(x)))
    return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class ChannelAttention(nn.Module):
  def __init__(self, channels: int, ratio: int = 16) -> None:
    super().__init__()
    self.squeeze = nn.Conv2d(channels, max(channels // ratio, 1), 1)
    self.excite = nn.Conv2d(max(channels // ratio, 1), channels, 1)

  def forward(self, x: Tensor) -> Tensor:
    h = exactly(self.squeeze, F.adaptive_avg_pool2d(x, 1))
    h = exactly(self.excite, F.relu(h, inplace=True))
    return x * torch.sigmoid(h).to(x.dtype)


class DetailEnhancement(nn.Module):
  def __init__(self, channels: int) -> None:
    super().__init__()
    self.norm = GroupNorm(channels)
    self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    self.pointwise = nn.Conv2d(channels, channels, 1)
    self.conv = nn.Conv2d(channels, channels, 3, padding=1)

  def forward(self, x: Tensor) -> Tensor:
    h = F.silu(self.norm(x))
    return self.pointwise(self.depthwise(h)) + x + self.conv(h)


class Downsample(nn.Module):
  def __init__(self, inputs: int, channels: int, steps: int) -> None:
    super().__init__()
    self.factor = 2**steps
    self.shortcut = nn.Conv2d(inputs, channels, 1)
    self.down = nn.ModuleList(
      nn.Conv2d(channels if i else inputs, channels, 3, stride=2, padding=1) for i in range(steps)
    )

  def forward(self, x: Tensor) -> Tensor:
    shortcut = self.shortcut(F.avg_pool2d(x, self.factor))
    for conv in self.down:
      x = conv(F.silu(x))
    return shortcut + x


class Transposed(nn.ConvTranspose2d):
  """A transposed convolution of the image with its border repeated, to twice the size."""

  def __init__(self, inputs: int, channels: int) -> None:
    super().__init__(inputs, channels, 4, stride=2, padding=3)

  def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
    return super().forward(edge_pad(x))


class Resize(nn.Conv2d):
  """Nearest to twice the size, then 3x3. The border is repeated before, on a quarter of pixels."""

  def __init__(self, inputs: int, channels: int) -> None:
    super().__init__(inputs, channels, 3)

  def forward(self, x: Tensor) -> Tensor:
    x = F.interpolate(edge_pad(x), scale_factor=2, mode="nearest")
    return super().forward(x)[:, :, 1:-1, 1:-1]


class SubPixel(nn.Module):
  """Channels come as (row phase, column phase, output); PyTorch's shuffle wants output first."""

  def __init__(self, inputs: int, channels: int) -> None:
    super().__init__()
    self.weight = nn.Parameter(torch.zeros(4 * channels, inputs, 3, 3))
    self.bias = nn.Parameter(torch.zeros(channels))

  def forward(self, x: Tensor) -> Tensor:
    weight = self.weight.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)
    bias = self.bias.repeat_interleave(4)
    return F.pixel_shuffle(F.conv2d(edge_pad(x), weight, bias), 2)


def edge_pad(x: Tensor) -> Tensor:
  if torch.compiler.is_compiling():
    # The compiler (2.13) is wrong about the layout of the other one's gradient, and fuses this one.
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return torch.cat([x[..., :1], x, x[..., -1:]], 3)
  return F.pad(x, (1, 1, 1, 1), mode="replicate")


UPSAMPLING: dict[str, type[nn.Module]] = {
  "transposed": Transposed,
  "resize": Resize,
  "subpixel": SubPixel,
}


class Upsample(nn.Module):
  def __init__(self, inputs: int, channels: tuple[int, ...], method: str) -> None:
    super().__init__()
    self.shortcut = nn.Conv2d(inputs, channels[-1], 1)
    pairs = zip((inputs, *channels[:-1]), channels, strict=True)
    self.up = nn.ModuleList(UPSAMPLING[method](i, o) for i, o in pairs)

  def forward(self, x: Tensor) -> Tensor:
    shortcut = self.shortcut(x)
    for up in self.up:
      x = up(F.silu(x))
      shortcut = F.interpolate(shortcut, scale_factor=2, mode="bilinear", align_corners=False)
    return shortcut + x
