"""Depthwise convolution in PyTorch, float64, with the gradients of <output, cotangent>."""

import numpy as np
import torch


def depthwise(
  x: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """x, cotangent [N, H, W, C], kernel [kh, kw, 1, C] -> output, d/dx, d/dkernel."""
  data = torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
  weight = torch.tensor(kernel, dtype=torch.float64).permute(3, 2, 0, 1).requires_grad_()
  sides = (kernel.shape[0] // 2, kernel.shape[1] // 2)
  out = torch.nn.functional.conv2d(data, weight, padding=sides, groups=x.shape[-1])
  out.backward(torch.tensor(cotangent, dtype=torch.float64).permute(0, 3, 1, 2))
  assert data.grad is not None
  assert weight.grad is not None
  return (
    out.detach().permute(0, 2, 3, 1).numpy(),
    data.grad.permute(0, 2, 3, 1).numpy(),
    weight.grad.permute(2, 3, 1, 0).numpy(),
  )
