"""Discriminators in PyTorch, NCHW: HiResMed-VQGAN's three PatchGANs, and that of the VQGAN."""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_baseline.layers import GroupNorm

_INIT_STD = 0.02


class PatchDiscriminator(nn.Module):
  """The twin of hiresmed_jax.nets.vqgan.PatchDiscriminator, two layers."""

  def __init__(self, inputs: int, features: tuple[int, ...]) -> None:
    super().__init__()
    pairs = zip((inputs, *features[:-1]), features, strict=True)
    self.layer = nn.ModuleList(nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairs)
    self.norm = GroupNorm(features[-1])
    self.head = nn.Conv2d(features[-1], 1, 4, padding=1)

  def forward(self, x: Tensor) -> Tensor:
    for conv in self.layer[:-1]:
      x = F.leaky_relu(conv(x), 0.2, inplace=True)
    return self.head(F.leaky_relu(self.norm(self.layer[-1](x)), 0.2)).float()


class MultiScaleDiscriminator(nn.Module):
  """One PatchDiscriminator per scale: images [N,C,H,W] -> logits, finest first, float32."""

  def __init__(self, inputs: int, scales: int = 3, features: tuple[int, ...] = (64, 128)) -> None:
    super().__init__()
    self.scale = nn.ModuleList(PatchDiscriminator(inputs, features) for _ in range(scales))

  def forward(self, images_m11: Tensor) -> list[Tensor]:
    logits = []
    for index, net in enumerate(self.scale):
      if index:
        images_m11 = F.avg_pool2d(images_m11, 2)
      logits.append(net(images_m11))
    return logits


class PatchGAN(nn.Module):
  """The VQGAN's discriminator: one logit for each 70 x 70 pixels (Isola et al. 2017).

  Three 4x4 convolutions of stride 2, two of stride 1, padding 1; batch normalisation but after the
  first; LeakyReLU 0.2. [N,C,H,W] -> [[N,1,H/8 - 2,W/8 - 2]], a list as of the other one's scales.
  2,765,633 parameters for three channels and `width` 64.
  """

  def __init__(self, inputs: int, width: int = 64) -> None:
    super().__init__()
    layers: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for factor, stride in ((2, 2), (4, 2), (8, 1)):
      layers.append(nn.Conv2d(width * factor // 2, width * factor, 4, stride, 1, bias=False))
      layers.append(nn.BatchNorm2d(width * factor))
      layers.append(nn.LeakyReLU(0.2, inplace=True))
    self.layers = nn.Sequential(*layers, nn.Conv2d(width * 8, 1, 4, 1, 1))

  def forward(self, images_m11: Tensor) -> list[Tensor]:
    return [self.layers(images_m11).float()]


def initialise(net: nn.Module) -> None:
  """Kernels N(0, 0.02), batch normalisation's scales N(1, 0.02), biases 0."""
  for module in net.modules():
    if isinstance(module, nn.Conv2d):
      nn.init.normal_(module.weight, 0.0, _INIT_STD)
    elif isinstance(module, nn.BatchNorm2d):
      nn.init.normal_(module.weight, 1.0, _INIT_STD)
    if getattr(module, "bias", None) is not None:
      nn.init.zeros_(module.bias)
