"""HiResMed-VQGAN with its codebook and the losses of its codes, as a training step calls it."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_baseline import losses, quantizer
from benchmarks.torch_baseline.hiresmed import VQGAN
from benchmarks.torch_baseline.rules import Made


class Autoencoder(nn.Module):
  """images_m11 [N,C,H,W] -> `Made`; the code loss has the weights of `config.loss`."""

  def __init__(self, net: VQGAN, num_codes: int, code_dim: int, loss: Any) -> None:
    super().__init__()
    self.net = net
    self.codebook = nn.Parameter(quantizer.unit(torch.randn(num_codes, code_dim)))
    self._commitment, self._codebook = float(loss.commitment), float(loss.codebook)
    self._entropy, self._temperature = float(loss.entropy), float(loss.entropy_temperature)

  @property
  def last(self) -> nn.Conv2d:
    """The convolution whose output is the image."""
    return self.net.output

  def encode(self, images_m11: Tensor) -> Tensor:
    """-> latents f32[N,h,w,D]."""
    return self.net.encode(images_m11).permute(0, 2, 3, 1)

  def forward(self, images_m11: Tensor) -> Made:
    latents = self.encode(images_m11)
    with torch.autocast(latents.device.type, enabled=False):
      codes, indices, unit_latents, unit_codes = quantizer.quantize(latents, self.codebook)
      terms = {
        "commitment": losses.commitment(unit_latents, unit_codes).mean(),
        "codebook": losses.codebook(unit_latents, unit_codes).mean(),
      }
      total = self._commitment * terms["commitment"] + self._codebook * terms["codebook"]
      if self._entropy:
        terms["entropy"] = losses.entropy(unit_latents, self.codebook, self._temperature)
        total = total + self._entropy * terms["entropy"]
    features = self.net.decode_features(codes.permute(0, 3, 1, 2))
    recon = self.net.head(features)
    scalars = {name: term.detach() for name, term in terms.items()}
    return Made(recon, features, total, scalars, latents, indices)
