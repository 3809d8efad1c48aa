"""Losses of the VQGANs in PyTorch, one number per example where there is one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def l1(pred: Tensor, target: Tensor) -> Tensor:
  return functional.l1_loss(pred, target, reduction="none").flatten(1).mean(1)


def mse(pred: Tensor, target: Tensor) -> Tensor:
  return functional.mse_loss(pred, target, reduction="none").flatten(1).mean(1)


def commitment(unit_latents: Tensor, unit_codes: Tensor) -> Tensor:
  """From the cosine, not from the difference: 2 - 2 cos for unit vectors."""
  return (2 - 2 * functional.cosine_similarity(unit_latents, unit_codes.detach(), -1)).mean((1, 2))


def codebook(unit_latents: Tensor, unit_codes: Tensor) -> Tensor:
  return commitment(unit_codes, unit_latents)


def entropy(unit_latents: Tensor, codebook: Tensor, temperature: float) -> Tensor:
  """Mean entropy of the positions' assignments minus the entropy of the mean assignment."""
  unit_codes = functional.normalize(codebook, dim=-1)
  cosine = unit_latents.flatten(0, -2) @ unit_codes.T
  log_share = torch.log_softmax(2 * cosine / temperature, -1)
  share = log_share.exp()
  each = -(share * log_share).sum(-1).mean()
  return each + torch.xlogy(share.mean(0), share.mean(0)).sum()


def legacy_codebook(latents: Tensor, codes: Tensor, beta: float = 0.25) -> Tensor:
  """The VQGAN's published order: the weight `beta` is on the codes' side, 1 on the latents'.

  Means over all numbers: f32[].
  """
  latents_move = functional.mse_loss(latents, codes.detach())
  return latents_move + beta * functional.mse_loss(codes, latents.detach())


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
  scales = [
    (functional.relu(1 - r) / 2).flatten(1).mean(1)
    + (functional.relu(1 + f) / 2).flatten(1).mean(1)
    for r, f in zip(real, fake, strict=True)
  ]
  return torch.stack(scales).mean(0)


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
  return -torch.stack([f.flatten(1).mean(1) for f in fake]).mean(0)


def adaptive_weight(reconstruction_grad: Tensor, gan_grad: Tensor, cap: float) -> Tensor:
  ratio = torch.norm(reconstruction_grad) / (torch.norm(gan_grad) + 1e-4)
  return torch.clamp(ratio, 0.0, cap)
