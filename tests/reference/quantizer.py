"""Cosine vector quantisation in PyTorch, float64."""

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
  return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def quantize(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
  """[..., D], [K, D] -> straight-through codes, indices, unit latents, unit codes."""
  unit_latents, unit_codebook = unit(latents), unit(codebook)
  distance = ((unit_latents[..., None, :] - unit_codebook) ** 2).sum(-1)
  indices = distance.argmin(-1)
  unit_codes = unit_codebook[indices]
  straight = unit_latents + (unit_codes - unit_latents).detach()
  return straight, indices, unit_latents, unit_codes
