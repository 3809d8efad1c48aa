"""StyleSwin of PyTorch's own operations. Modules have the names of our parameters.

Source: Zhang et al., arXiv 2112.10762; Karras et al., arXiv 1912.04958; Gal et al., arXiv
2102.06108.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.reference.ddpm import Linear

BLUR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def blur(x: torch.Tensor, before: int, after: int, gain: float = 1.0) -> torch.Tensor:
  kernel = (gain * torch.outer(BLUR, BLUR)).to(x)
  weight = kernel.expand(x.shape[1], 1, 4, 4)
  return F.conv2d(F.pad(x, (before, after, before, after)), weight, groups=x.shape[1])


def doubled_with_blur(x: torch.Tensor) -> torch.Tensor:
  n, c, h, w = x.shape
  wide = torch.zeros(n, c, 2 * h, 2 * w).to(x)
  wide[:, :, ::2, ::2] = x
  return blur(wide, 2, 1, gain=4.0)


def leaky(x: torch.Tensor) -> torch.Tensor:
  return torch.where(x > 0, x, 0.2 * x) * 2**0.5


class Equalised(Linear):
  def __init__(self, inputs: int, outputs: int, rate: float = 1.0):
    super().__init__(inputs, outputs)
    self.rate = rate

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    scale = self.rate / math.sqrt(self.weight.shape[0])
    return x @ (self.weight * scale) + self.bias * self.rate


class Styled(nn.Module):
  def __init__(self, style: int, width: int):
    super().__init__()
    self.of = Equalised(style, 2 * width)

  def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    scale, shift = self.of(style)[:, :, None, None].chunk(2, 1)
    return F.instance_norm(x, eps=1e-5) * scale + shift


class Attention(nn.Module):
  """[N,3,C,H,W] -> [N,C,H,W], window by window."""

  def __init__(self, heads: int, window: int, shift: int):
    super().__init__()
    self.heads, self.window, self.shift = heads, window, shift
    self.places = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    n, _, c, h, w = x.shape
    side, shift, dim = self.window, self.shift, c // self.heads
    moved = torch.roll(x, (-shift, -shift), (3, 4))
    out = torch.zeros_like(moved[:, 0])
    spots = [(i, j) for i in range(side) for j in range(side)]
    index = [
      [(a - c_ + side - 1) * (2 * side - 1) + (b - d + side - 1) for c_, d in spots]
      for a, b in spots
    ]
    bias = self.places[torch.tensor(index)].permute(2, 0, 1)
    for top in range(0, h, side):
      for left in range(0, w, side):
        window = moved[:, :, :, top : top + side, left : left + side]
        q, k, v = window.reshape(n, 3, self.heads, dim, side * side).unbind(1)
        scores = torch.einsum("nhdp,nhdq->nhpq", q, k) / math.sqrt(dim) + bias
        if shift:
          # Whether a row or a column came round from the other side.
          over = torch.tensor(
            [[2 * (top + i >= h - shift) + (left + j >= w - shift)] for i, j in spots]
          )
          scores = scores - 100.0 * (over != over.T)
        found = torch.einsum("nhpq,nhdq->nhdp", scores.softmax(-1), v)
        out[:, :, top : top + side, left : left + side] = found.reshape(n, c, side, side)
    return torch.roll(out, (shift, shift), (2, 3))


class Block(nn.Module):
  def __init__(self, width: int, style: int, size: int):
    super().__init__()
    heads, window = max(width // 32, 4), min(8, size)
    self.style1, self.style2 = Styled(style, width), Styled(style, width)
    self.query_key_value, self.projection = Linear(width, 3 * width), Linear(width, width)
    self.wider, self.narrower = Linear(width, 4 * width), Linear(4 * width, width)
    self.attention0 = Attention(heads // 2, window, 0)
    self.attention1 = Attention(heads // 2, window, window // 2 if size > window else 0)

  def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    parts = last(self.query_key_value, self.style1(x, style)).reshape(n, 3, c, h, w)
    first, second = parts.split(c // 2, dim=2)
    found = torch.cat([self.attention0(first), self.attention1(second)], dim=1)
    x = x + last(self.projection, found)
    h_ = F.gelu(last(self.wider, self.style2(x, style)))
    return x + last(self.narrower, h_)


class Doubled(nn.Module):
  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.norm, self.share = nn.LayerNorm(inputs), nn.Parameter(torch.zeros(1))
    self.linear = nn.Module()
    self.linear.weight = nn.Parameter(torch.zeros(inputs, outputs))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    x = last(lambda h: self.norm(h) @ self.linear.weight, x)
    quarter = x.shape[1] // 4
    places = torch.zeros_like(x[0])
    for feature in range(quarter):
      rate = 10_000 ** (-feature / (quarter - 1))
      column = torch.arange(1, x.shape[3] + 1).to(x) * rate
      row = torch.arange(1, x.shape[2] + 1).to(x)[:, None] * rate
      for part, value in enumerate((column.sin(), column.cos(), row.sin(), row.cos())):
        places[part * quarter + feature] = value
    return x + self.share * places


class Generator(nn.Module):
  def __init__(self, size: int, channels: int, widths: list[int], mapping: int, style: int):
    super().__init__()
    self.widths, self.mapping = widths, mapping
    for number in range(mapping):
      self.add_module(f"mapping{number}", Equalised(style, style, rate=0.01))
    self.input = nn.Parameter(torch.zeros(4, 4, widths[0]))
    for level, width in enumerate(widths):
      for number in range(2):
        self.add_module(f"block{level}_{number}", Block(width, style, 4 << level))
      outputs = width
      if level + 1 < len(widths):
        outputs = widths[level + 1]
        self.add_module(f"double{level}", Doubled(width, outputs))
      self.add_module(f"colour{level}", Linear(outputs, channels))
      self.register_parameter(f"bias{level}", nn.Parameter(torch.zeros(channels)))
    assert 4 << (len(widths) - 1) == size

  def forward(self, latents: torch.Tensor) -> torch.Tensor:
    style = latents / (latents.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for number in range(self.mapping):
      style = leaky(getattr(self, f"mapping{number}")(style))
    x = self.input.permute(2, 0, 1).expand(len(latents), -1, -1, -1)
    image = None
    for level in range(len(self.widths)):
      for number in range(2):
        x = getattr(self, f"block{level}_{number}")(x, style)
      if level + 1 < len(self.widths):
        x = getattr(self, f"double{level}")(x)
        image = None if image is None else doubled_with_blur(image)
      colours = last(getattr(self, f"colour{level}"), x)
      colours = colours + getattr(self, f"bias{level}")[:, None, None]
      image = colours if image is None else image + colours
    return image


def last(layer, x: torch.Tensor) -> torch.Tensor:
  """A layer of the channels of [N,C,H,W]."""
  return layer(x.movedim(1, -1)).movedim(-1, 1)


class Discriminator(nn.Module):
  """[N,C,H,W] -> [N]. `vectors`: of the spectral norms, by the name of the kernel."""

  def __init__(self, size: int, channels: int, width: int):
    super().__init__()
    self.rows = size // 2
    self.vectors: dict[str, torch.Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, side: int) -> None:
      self.add_module(f"{name}_conv", nn.Conv2d(inputs, outputs, side, bias=False))
      self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(outputs)))

    rows = self.rows
    while True:
      conv(f"colour{rows}", 4 * channels, width, 1)
      if rows == 4:
        break
      conv(f"same{rows}", width, width, 3)
      rows //= 2
      conv(f"halve{rows}", width, width, 3)
    conv("last", width + 1, width, 3)
    self.linear1, self.linear2 = Linear(16 * width, width), Linear(width, 1)
    self.linear1_bias = nn.Parameter(torch.zeros(width))

  def normed(self, name: str) -> torch.Tensor:
    weight = getattr(self, name).weight
    matrix = weight.flatten(1) if weight.ndim == 4 else weight.T
    u, v = self.after(name, matrix)
    return weight / (u @ matrix @ v)

  def after(self, name: str, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both vectors of a matrix after a step of the power iteration."""
    with torch.no_grad():
      v = F.normalize(matrix.T @ self.vectors[name], dim=0)
      return F.normalize(matrix @ v, dim=0), v

  def moved(self) -> dict[str, torch.Tensor]:
    """What `vectors` is after a training step with the weights of now."""
    weights = {name: getattr(self, name).weight.detach() for name in self.vectors}
    matrices = {n: w.flatten(1) if w.ndim == 4 else w.T for n, w in weights.items()}
    return {name: self.after(name, matrix)[0] for name, matrix in matrices.items()}

  def conv(self, name: str, x: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    x = F.conv2d(x, self.normed(f"{name}_conv"), stride=stride, padding=padding)
    return leaky(x + getattr(self, f"{name}_bias")[:, None, None])

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    waves, out, rows = haar(images), 0.0, self.rows
    while True:
      out = out + self.conv(f"colour{rows}", waves)
      if rows == 4:
        break
      out = self.conv(f"same{rows}", out, padding=1)
      rows //= 2
      out = self.conv(f"halve{rows}", blur(out, 2, 2), stride=2)
      waves = haar(blur(unhaar(waves), 1, 1)[:, :, ::2, ::2])
    group = min(4, len(out))
    spread = out.reshape(group, -1, *out.shape[1:]).var(0, unbiased=False)
    spread = (spread + 1e-8).sqrt().mean((1, 2, 3)).repeat(group)
    spread = spread[:, None, None, None].expand(-1, 1, *out.shape[2:])
    out = self.conv("last", torch.cat([out, spread], dim=1), padding=1).flatten(1)
    out = leaky(out @ self.normed("linear1") + self.linear1.bias + self.linear1_bias)
    return (out @ self.normed("linear2") + self.linear2.bias)[:, 0]


def haar(x: torch.Tensor) -> torch.Tensor:
  a, b = x[:, :, ::2, ::2], x[:, :, ::2, 1::2]
  c, d = x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2]
  return torch.cat([a + b + c + d, c + d - a - b, b + d - a - c, a + d - b - c], dim=1) / 2


def unhaar(waves: torch.Tensor) -> torch.Tensor:
  mean, rows, columns, both = waves.chunk(4, dim=1)
  out = torch.zeros(waves.shape[0], mean.shape[1], *(2 * side for side in waves.shape[2:]))
  out = out.to(waves)
  out[:, :, ::2, ::2] = (mean - rows - columns + both) / 2
  out[:, :, ::2, 1::2] = (mean - rows + columns - both) / 2
  out[:, :, 1::2, ::2] = (mean + rows - columns - both) / 2
  out[:, :, 1::2, 1::2] = (mean + rows + columns + both) / 2
  return out
