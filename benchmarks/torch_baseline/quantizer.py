"""Vector quantisation in PyTorch: by cosine, as HiResMed-VQGAN's, and by distance, as the VQGAN's.

Always in float32 or more. D code width, K number of codes, P latents; "..." = any leading axes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor) -> Tensor:
  """Unit vectors along the last axis."""
  return F.normalize(x, dim=-1, eps=1e-6)


def quantize(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
  """[..., D], [K, D] -> straight-through codes, indices, unit latents, unit codes."""
  unit_latents, unit_codebook = unit(latents), unit(codebook)
  indices = nearest(unit_latents.detach(), unit_codebook.detach())
  unit_codes = F.embedding(indices, unit_codebook)
  straight = unit_codes.detach() + (unit_latents - unit_latents.detach())
  return straight, indices, unit_latents, unit_codes


def nearest(unit_latents: Tensor, unit_codebook: Tensor) -> Tensor:
  """Index of the code with the largest cosine."""
  return (unit_latents @ unit_codebook.T).argmax(-1)


def quantize_by_distance(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
  """[..., D], [K, D] -> straight-through codes, indices, codes with their gradient."""
  with torch.no_grad():
    # The latents' own length is the same for all codes.
    distance = codebook.square().sum(-1) - 2 * (latents @ codebook.T)
    indices = distance.argmin(-1)
  codes = F.embedding(indices, codebook)
  return latents + (codes - latents).detach(), indices, codes


def code_counts(indices: Tensor, num_codes: int) -> Tensor:
  """How often each code was chosen: [...] -> f32[K]; the host does not wait for it."""
  flat = indices.flatten()
  return torch.zeros(num_codes, device=flat.device).index_add_(
    0, flat, torch.ones_like(flat, dtype=torch.float32)
  )


def revive(
  codebook: Tensor, usage: Tensor, latents: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
  """Codes with `usage` f32[K] below `threshold` redrawn from latents [P, D] -> (codebook, bool[K]).

  Distinct unit latents while P >= K; with fewer they are used again in turn.
  """
  num_codes, num_latents = codebook.shape[0], latents.shape[0]
  chosen = torch.randperm(num_latents, device=latents.device)[:num_codes]
  candidates = unit(latents[chosen])
  if num_latents < num_codes:
    turns = torch.arange(num_codes, device=latents.device) % num_latents
    candidates = candidates[turns]
  revived = usage < threshold
  return torch.where(revived[:, None], candidates.to(codebook.dtype), codebook), revived


def kmeans(latents: Tensor, num_codes: int, iterations: int = 10) -> Tensor:
  """Spherical k-means of latents [P, D], empty clusters refilled -> unit centres [K, D]."""
  latents = unit(latents)
  nothing = latents.new_zeros(num_codes, latents.shape[-1])
  centres, _ = revive(nothing, nothing[:, 0], latents, 1.0)
  for _ in range(iterations):
    indices = nearest(latents, centres)
    sums = nothing.index_add(0, indices, latents)
    centres, _ = revive(unit(sums), code_counts(indices, num_codes), latents, 0.5)
  return centres
