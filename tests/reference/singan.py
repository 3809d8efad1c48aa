"""SinGAN in PyTorch, NCHW, one image at a time: what ours must equal, and what it is timed against.

Written from the published description (Shaham et al. 2019) and the numbers of its code: five
unpadded 3x3 convolutions, batch normalisation over one image, zeros around the input once. Two
readings differ from that code: the generator is evaluated anew at each of its steps, and the noise
that must give the image back is drawn once.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

PAD = 5
Draw = Callable[[tuple[int, ...]], torch.Tensor]


def body(channels: int, width: int) -> list[nn.Module]:
  layers: list[nn.Module] = []
  for index in range(4):
    layers += [
      nn.Conv2d(channels if index == 0 else width, width, 3),
      nn.BatchNorm2d(width),
      nn.LeakyReLU(0.2),
    ]
  return layers


class Generator(nn.Module):
  def __init__(self, channels: int, width: int):
    super().__init__()
    self.net = nn.Sequential(*body(channels, width), nn.Conv2d(width, channels, 3), nn.Tanh())
    self.apply(initialise)

  def forward(self, z: torch.Tensor, prev: torch.Tensor, amp: float | torch.Tensor) -> torch.Tensor:
    return self.net(nn.functional.pad(amp * z + prev, [PAD] * 4)) + prev


class Critic(nn.Module):
  def __init__(self, channels: int, width: int):
    super().__init__()
    self.net = nn.Sequential(*body(channels, width), nn.Conv2d(width, 1, 3))
    self.apply(initialise)

  def forward(self, image: torch.Tensor) -> torch.Tensor:
    return self.net(image)


def initialise(module: nn.Module) -> None:
  if isinstance(module, nn.Conv2d):
    nn.init.normal_(module.weight, 0.0, 0.02)
  elif isinstance(module, nn.BatchNorm2d):
    nn.init.normal_(module.weight, 1.0, 0.02)
    nn.init.zeros_(module.bias)


def gradient_penalty(
  critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor, weight: float
) -> torch.Tensor:
  """Pixel by pixel: the norm is over channels alone."""
  between = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
  out = critic(between)
  (grad,) = torch.autograd.grad(out.sum() / 1.0, between, create_graph=True)
  return weight * ((grad.norm(2, dim=1) - 1) ** 2).mean()


def critic_loss(
  critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor, weight: float
) -> torch.Tensor:
  loss = critic(fake.detach()).mean() - critic(real).mean()
  return loss + gradient_penalty(critic, real, fake, alpha, weight)


def critic_step(critic, optimiser, real, fake, alpha, *, penalty: float = 0.1) -> torch.Tensor:
  optimiser.zero_grad(set_to_none=True)
  loss = critic_loss(critic, real, fake, alpha, penalty)
  loss.backward()
  optimiser.step()
  return loss.detach()


def generator_step(
  generator, critic, optimiser, real, z, prev, amp, z_rec, prev_rec, *, alpha: float = 10.0
) -> tuple[torch.Tensor, torch.Tensor]:
  """-> (adversarial loss, reconstruction's mean squared error)."""
  optimiser.zero_grad(set_to_none=True)
  critic.requires_grad_(False)
  adversarial = -critic(generator(z, prev, amp)).mean()
  rec = nn.functional.mse_loss(generator(z_rec, prev_rec, amp), real)
  (adversarial + alpha * rec).backward()
  critic.requires_grad_(True)
  optimiser.step()
  return adversarial.detach(), rec.detach()


def adam(net: nn.Module, lr: float = 5e-4) -> torch.optim.Adam:
  return torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999))


def width(level: int, base: int = 32, most: int = 128) -> int:
  return min(base * 2 ** (level // 4), most)


class Level:
  """One level while it trains, on top of the finished ones."""

  def __init__(self, below: Sequence["Level"], real: torch.Tensor, resize, *, base: int = 32):
    self.below, self.real, self.resize = list(below), real, resize
    number, channels = len(below), real.shape[1]
    self.generator = Generator(channels, width(number, base)).to(real.device)
    self.critic = Critic(channels, width(number, base)).to(real.device)
    if below and width(number, base) == width(number - 1, base):
      self.generator.load_state_dict(below[-1].generator.state_dict())
      self.critic.load_state_dict(below[-1].critic.state_dict())
    self.z_rec = torch.zeros_like(real)
    self.amp: float | torch.Tensor = 1.0
    self.prev_rec = torch.zeros_like(real)
    if below:
      self.prev_rec = resize(below[-1].reconstruction(), number)
      self.amp = 0.1 * torch.sqrt(nn.functional.mse_loss(self.prev_rec, real))
    else:
      self.z_rec = self.noise()

  def noise(self) -> torch.Tensor:
    one, channels, height, width = self.real.shape
    drawn = torch.randn(one, 1 if not self.below else channels, height, width).to(self.real.device)
    return drawn.expand(one, channels, height, width)

  @torch.no_grad()
  def draw_below(self) -> torch.Tensor:
    """A new image of the level below, at this level's size."""
    image = torch.zeros_like(self.below[0].real if self.below else self.real)
    for number, level in enumerate(self.below):
      image = self.resize(level.generator(level.noise(), image, level.amp), number + 1)
    return image

  @torch.no_grad()
  def reconstruction(self) -> torch.Tensor:
    return self.generator(self.z_rec, self.prev_rec, self.amp)

  def train(self, steps: int, *, lr: float = 5e-4, decay_at: float = 0.8) -> None:
    optimisers = adam(self.generator, lr), adam(self.critic, lr)
    for step in range(steps):
      if step == round(decay_at * steps):
        for group in [g for o in optimisers for g in o.param_groups]:
          group["lr"] *= 0.1
      self.step(*optimisers)
    self.freeze()

  def step(self, generator_optimiser, critic_optimiser) -> None:
    z = self.noise()
    for _ in range(3):
      prev = self.draw_below()
      with torch.no_grad():
        fake = self.generator(z, prev, self.amp)
      alpha = torch.rand(()).to(self.real.device)
      critic_step(self.critic, critic_optimiser, self.real, fake, alpha)
    for _ in range(3):
      generator_step(
        self.generator,
        self.critic,
        generator_optimiser,
        *(self.real, z, prev, self.amp, self.z_rec, self.prev_rec),
      )

  def freeze(self) -> None:
    self.generator.eval().requires_grad_(False)


def sizes(side: int, *, least: float, most: int, factor: float = 0.75) -> list[int]:
  """Sides of a square image's pyramid, coarsest first, by the published formulas."""

  def scales(ratio: float) -> int:
    return math.ceil(round(math.log(ratio, factor), 9))

  stop = scales(least / side) + 1 - scales(min(most, side) / side)
  top = math.ceil(side * min(most / side, 1))
  ratio = (least / top) ** (1 / stop)
  return [math.ceil(round(top * ratio ** (stop - n), 6)) for n in range(stop + 1)]


def resize_matrix(length: int, size: int, scale: float) -> np.ndarray:
  """Rows that resample `length` values: MATLAB's bicubic, one output value after the other."""
  shrink = min(scale, 1.0)
  matrix = np.zeros((size, length))
  for i in range(size):
    centre = (i + 0.5) / scale - 0.5
    reach = 2.0 / shrink
    taps = range(math.floor(centre - reach) - 1, math.ceil(centre + reach) + 2)
    weights = np.array([keys((centre - tap) * shrink) for tap in taps])
    weights /= weights.sum()
    for tap, weight in zip(taps, weights):
      mirrored = tap % (2 * length)  # ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
      matrix[i, min(mirrored, 2 * length - 1 - mirrored)] += weight
  return matrix


def keys(x: float) -> float:
  """Keys' cubic kernel, a = -1/2."""
  x = abs(x)
  if x <= 1:
    return 1.5 * x**3 - 2.5 * x**2 + 1
  return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resizer(side_sizes: Sequence[int], ratio: float, device="cpu"):
  """-> (image of level n - 1, n) -> the same at level n's size."""
  matrices = {
    n: torch.tensor(resize_matrix(side_sizes[n - 1], side_sizes[n], 1 / ratio), dtype=torch.float32)
    for n in range(1, len(side_sizes))
  }
  matrices = {n: matrix.to(device) for n, matrix in matrices.items()}

  def resize(image: torch.Tensor, number: int) -> torch.Tensor:
    return matrices[number] @ image @ matrices[number].T

  return resize
