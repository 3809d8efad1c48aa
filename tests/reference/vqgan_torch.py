"""HiResMed-VQGAN's networks in plain PyTorch, NCHW, float32: the oracle of tests/nets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
  groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
  return nn.GroupNorm(groups, channels, eps=1e-6)


class MSConvFE(nn.Module):
  def __init__(self, channels: int, activation: str) -> None:
    super().__init__()
    self.norm = group_norm(channels)
    self.conv = nn.Conv2d(channels, channels, 3, padding=1)
    self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
    self.pointwise = nn.Conv2d(channels, channels, 1)
    self.activation = nn.ReLU() if activation == "relu" else nn.GELU()

  def forward(self, x: Tensor) -> Tensor:
    return x + self.pointwise(self.depthwise(self.activation(self.conv(self.norm(x)))))


class HDFB(nn.Module):
  def __init__(self, inputs: int, channels: int, activation: str = "relu") -> None:
    super().__init__()
    self.norm1 = group_norm(inputs)
    self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
    self.norm2 = group_norm(channels)
    self.msconvfe = MSConvFE(channels, activation)
    self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

  def forward(self, x: Tensor) -> Tensor:
    h = F.silu(self.norm2(self.conv(F.silu(self.norm1(x)))))
    return self.skip(x) + self.msconvfe(h)


class Residual(nn.Module):
  def __init__(self, inputs: int, channels: int, activation: str = "") -> None:
    super().__init__()
    self.norm1 = group_norm(inputs)
    self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
    self.norm2 = group_norm(channels)
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
    return x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class DetailEnhancement(nn.Module):
  def __init__(self, channels: int) -> None:
    super().__init__()
    self.norm = group_norm(channels)
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
  """A transposed convolution of the image with its border repeated, cut back to twice the size."""

  def __init__(self, inputs: int, channels: int) -> None:
    super().__init__(inputs, channels, 4, stride=2, padding=1)

  def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
    return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))[:, :, 2:-2, 2:-2]


class Resize(nn.Conv2d):
  def __init__(self, inputs: int, channels: int) -> None:
    super().__init__(inputs, channels, 3)

  def forward(self, x: Tensor) -> Tensor:
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))


class SubPixel(nn.Module):
  """Channels come as (row phase, column phase, output); PyTorch's shuffle wants output first."""

  def __init__(self, inputs: int, channels: int) -> None:
    super().__init__()
    self.weight = nn.Parameter(torch.zeros(4 * channels, inputs, 3, 3))
    self.bias = nn.Parameter(torch.zeros(channels))

  def forward(self, x: Tensor) -> Tensor:
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.weight)
    n, channels, height, width = x.shape
    x = x.view(n, 4, channels // 4, height, width).transpose(1, 2)
    x = F.pixel_shuffle(x.reshape(n, channels, height, width), 2)
    return x + self.bias[:, None, None]


UPSAMPLING = {"transposed": Transposed, "resize": Resize, "subpixel": SubPixel}


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


class EncoderStage(nn.Module):
  def __init__(self, inputs: int, channels: int, steps: int, blocks: nn.Module) -> None:
    super().__init__()
    self.down = Downsample(inputs, channels, steps) if steps else nn.Identity()
    self.blocks = blocks

  def forward(self, x: Tensor) -> Tensor:
    return self.blocks(self.down(x))


class DecoderStage(nn.Module):
  def __init__(
    self, inputs: int, channels: tuple[int, ...], method: str, ratio: int, blocks: nn.Module
  ) -> None:
    super().__init__()
    self.up = Upsample(inputs, channels, method)
    self.blocks = blocks
    self.attention = ChannelAttention(channels[-1], ratio)

  def forward(self, x: Tensor) -> Tensor:
    return self.attention(self.blocks(self.up(x)))


class DecoderTail(nn.Module):
  def __init__(self, channels: int) -> None:
    super().__init__()
    self.detail = DetailEnhancement(channels)
    self.norm = group_norm(channels)

  def forward(self, x: Tensor) -> Tensor:
    return F.silu(self.norm(self.detail(x)))


class VQGAN(nn.Module):
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
    upsampling: str = "transposed",
    se_ratio: int = 16,
  ) -> None:
    super().__init__()

    def blocks(inputs: int, width: int, count: int) -> nn.Sequential:
      kind = {"hdfb": HDFB, "residual": Residual}[block]
      return nn.Sequential(*(kind(width if i else inputs, width, activation) for i in range(count)))

    steps = [{2: 1, 4: 2, 8: 3}[s] for s in strides]
    self.stem = nn.Conv2d(in_channels, stem_channels, 3, stride=2, padding=1)
    self.encoder_stages = nn.ModuleList()
    width = stem_channels
    for index, (count, new) in enumerate(zip(steps, channels, strict=True)):
      halvings = count - 1 if index == 0 else count
      inner = blocks(new if halvings else width, new, encoder_blocks)
      self.encoder_stages.append(EncoderStage(width, new, halvings, inner))
      width = new
    self.encoder_middle = blocks(width, width, middle_blocks)
    self.latent_norm = group_norm(width)
    self.latent_conv = nn.Conv2d(width, code_dim, 1)

    self.code_conv = nn.Conv2d(code_dim, width, 1)
    self.decoder_middle = blocks(width, width, middle_blocks)
    self.decoder_stages = nn.ModuleList()
    targets = [stem_channels, *channels[:-1]]
    for index in range(len(channels) - 1, -1, -1):
      ways = [targets[index]] * steps[index]
      if index == 0:
        ways[-1] = full_resolution_channels
      inner = blocks(ways[-1], ways[-1], decoder_blocks)
      self.decoder_stages.append(DecoderStage(width, tuple(ways), upsampling, se_ratio, inner))
      width = ways[-1]
    self.decoder_tail = DecoderTail(width)
    self.output = nn.Conv2d(width, out_channels, 3, padding=1)

  def encode(self, images: Tensor) -> Tensor:
    x = self.stem(images)
    for stage in self.encoder_stages:
      x = stage(x)
    return self.latent_conv(F.silu(self.latent_norm(self.encoder_middle(x))))

  def decode(self, codes: Tensor) -> Tensor:
    x = self.decoder_middle(self.code_conv(codes))
    for stage in self.decoder_stages:
      x = stage(x)
    return self.output(self.decoder_tail(x))

  def forward(self, images: Tensor) -> Tensor:
    return self.decode(self.encode(images))


class PatchDiscriminator(nn.Module):
  def __init__(self, inputs: int, features: tuple[int, int]) -> None:
    super().__init__()
    self.layer = nn.ModuleList(
      [
        nn.Conv2d(inputs, features[0], 4, stride=2, padding=1),
        nn.Conv2d(features[0], features[1], 4, stride=2, padding=1),
      ]
    )
    self.norm = group_norm(features[1])
    self.head = nn.Conv2d(features[1], 1, 4, padding=1)

  def forward(self, x: Tensor) -> Tensor:
    x = F.leaky_relu(self.layer[0](x), 0.2)
    return self.head(F.leaky_relu(self.norm(self.layer[1](x)), 0.2))


class MultiScaleDiscriminator(nn.Module):
  def __init__(self, inputs: int, scales: int, features: tuple[int, int]) -> None:
    super().__init__()
    self.scale = nn.ModuleList(PatchDiscriminator(inputs, features) for _ in range(scales))

  def forward(self, images: Tensor) -> list[Tensor]:
    return [net(F.avg_pool2d(images, 2**i)) for i, net in enumerate(self.scale)]
