"""The optimisers of the baseline: our chains of updates with PyTorch's fused kernels."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Rate = Callable[[int], float]


def schedule(name: str, learning_rate: float, *, warmup: int, total: int) -> Rate:
  """Rate of update i: linear from 0 over `warmup`, then constant or a cosine to 0 at `total`."""
  if name not in ("constant", "cosine"):
    raise ValueError(f"unknown schedule {name!r}: constant or cosine")

  def rate(update: int) -> float:
    if update < warmup:
      return learning_rate * update / warmup
    if name == "constant":
      return learning_rate
    share = min((update - warmup) / (total - warmup), 1.0)
    return learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))

  return rate


class Updates:
  """One player's parameters, what moves them, and how far it has come.

  Weight decay touches convolutions alone. With `accumulate` = n, the mean gradient of n calls
  moves the parameters at every n-th.
  """

  def __init__(
    self,
    modules: nn.Module,
    rate: Rate,
    *,
    betas: tuple[float, float],
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float = 0.0,
    accumulate: int = 1,
  ) -> None:
    self.parameters = [p for p in modules.parameters() if p.requires_grad]
    kernels = [p for p in self.parameters if p.ndim == 4]
    others = [p for p in self.parameters if p.ndim != 4]
    groups: list[dict[str, Any]] = [{"params": kernels, "weight_decay": weight_decay}]
    if others:
      groups.append({"params": others, "weight_decay": 0.0})
    # AdamW without decay is Adam.
    self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)
    self.rate, self.clip, self.accumulate = rate, clip, accumulate
    self.calls = 0

  def step(self) -> Tensor | None:
    """Moves the parameters by the gradients that lie in them -> their norm, where it is clipped."""
    self.calls += 1
    if self.calls % self.accumulate:
      return None
    norm = None
    gradients = [p.grad for p in self.parameters if p.grad is not None]
    if self.accumulate > 1:
      torch._foreach_mul_(gradients, 1.0 / self.accumulate)
    if self.clip:
      norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
    for group in self.optimizer.param_groups:
      group["lr"] = self.rate(self.calls // self.accumulate - 1)
    self.optimizer.step()
    self.optimizer.zero_grad(set_to_none=True)
    return norm

  def zero_rows(self, parameter: Tensor, rows: Tensor) -> None:
    """Forgets the moments of some rows (bool[K]) of a parameter [K, D]."""
    state = self.optimizer.state.get(parameter, {})
    for name in ("exp_avg", "exp_avg_sq"):
      if name in state:
        state[name].masked_fill_(rows[:, None], 0.0)
    if parameter.grad is not None:
      parameter.grad.masked_fill_(rows[:, None], 0.0)


@torch.no_grad()
def ema_update(ema: list[Tensor], parameters: Iterable[Tensor], decay: float, step: int) -> None:
  """Running average after update `step`, from 0; it forgets the start as ours does."""
  kept = min(decay, (1.0 + step) / (10.0 + step))
  torch._foreach_lerp_(ema, list(parameters), 1.0 - kept)
