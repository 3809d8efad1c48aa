"""Differentiable augmentation in PyTorch: hiresmed_jax.ops.diffaugment, with its own random draws.

Source: Zhao et al. 2020.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Change = Callable[[Tensor], Tensor]


def draw(images: Tensor, policy: Sequence[str]) -> Change:
  """Random changes for a batch of the shape of `images` [N,C,H,W]; each call makes the same ones.

  `policy` names "color", "translation", "cutout", in the order in which they are made.
  """
  changes = [{"color": _color, "translation": _translation, "cutout": _cutout}[p] for p in policy]
  drawn = [change(images.shape, images.device) for change in changes]

  def apply(x: Tensor) -> Tensor:
    for change in drawn:
      x = change(x)
    return x

  return apply


def _color(shape: torch.Size, device: torch.device) -> Change:
  brightness, saturation, contrast = torch.rand(3, shape[0], 1, 1, 1, device=device)

  def change(x: Tensor) -> Tensor:
    x = x + (brightness - 0.5)
    if x.shape[1] > 1:
      grey = x.mean(1, keepdim=True)
      x = grey + (x - grey) * (2.0 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)

  return change


def _translation(shape: torch.Size, device: torch.device) -> Change:
  pads, places = [], []
  for side in shape[2:]:
    reach = int(side / 8 + 0.5)
    start = torch.randint(0, 2 * reach + 1, (shape[0], 1), device=device)
    places.append(start + torch.arange(side, device=device))
    pads.append(reach)
  rows, columns = places[0][:, None, :, None], places[1][:, None, None, :]

  def change(x: Tensor) -> Tensor:
    # Two gathers: their gradients need no sorting, as that of an index into both axes does.
    x = F.pad(x, (pads[1], pads[1], pads[0], pads[0]))
    x = x.gather(2, rows.expand(-1, x.shape[1], -1, x.shape[3]))
    return x.gather(3, columns.expand(-1, x.shape[1], x.shape[2], -1))

  return change


def _cutout(shape: torch.Size, device: torch.device) -> Change:
  inside = torch.ones(shape[0], 1, 1, 1, dtype=torch.bool, device=device)
  for axis, side in enumerate(shape[2:]):
    half = int(side * 0.5 + 0.5)
    centre = torch.randint(0, side + (1 - half % 2), (shape[0], 1), device=device)
    position = torch.arange(side, device=device) - (centre - half // 2)
    along = (position >= 0) & (position < half)
    inside = inside & (along[:, None, :, None] if axis == 0 else along[:, None, None, :])
  return lambda x: x.masked_fill(inside, 0.0)
