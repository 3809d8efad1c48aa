"""One training step of a VQGAN in PyTorch: both players, in the order that costs least.

The generator runs forward once. Each grader gives its gradient with respect to the reconstruction;
their sum goes back through the generator once. The adaptive GAN weight needs both gradients at the
last convolution alone, which is one small convolution and no second backward pass. Nothing in a
step makes the host wait for the device.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.torch_baseline import diffaugment, losses, quantizer
from benchmarks.torch_baseline.optim import Updates, ema_update
from benchmarks.torch_baseline.rules import Made, Revival, Rules
from hiresmed_jax.errors import UserError


class Step:
  """`step(images_m11 [N,C,H,W])` makes one whole update and returns its losses, f32[] each.

  One grey channel is repeated where the network has three. A step whose gradients are not finite
  is not left out, as ours is: that would cost the baseline time.

  Attributes:
    generator, discriminator: as they are trained, not compiled.
    parameters_count: of the generator with its codebook.
    description: what the loss consists of, in words.
    shuffle: false where the recipe reads its images in one fixed order.
    calls: steps made so far.
  """

  def __init__(
    self,
    generator: nn.Module,
    discriminator: nn.Module | None,
    updates: tuple[Updates, Updates | None],
    rules: Rules,
    *,
    channels: int,
    device: str | torch.device,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    compiled: bool | str = False,
    revival: Revival | None = None,
    warm_start: Callable[[Tensor], None] | None = None,
    total_steps: int,
    shuffle: bool = True,
  ) -> None:
    self.generator, self.discriminator = generator.train(), discriminator
    self.parameters_count = sum(p.numel() for p in generator.parameters())
    self.description, self.shuffle = _describe(rules, discriminator, total_steps), shuffle
    self.calls = 0
    self._updates, self._rules, self._revival = updates, rules, revival
    self._channels, self._device, self._dtype = channels, torch.device(device), dtype
    self._format = torch.channels_last if channels_last else torch.contiguous_format
    self._compiled, self._warm_start = bool(compiled), warm_start
    self._generate: Any = generator
    self._judge: Any = discriminator
    if compiled:
      mode = compiled if isinstance(compiled, str) else None
      self._generate = torch.compile(generator, dynamic=False, mode=mode)
      if discriminator is not None:
        self._judge = torch.compile(discriminator, dynamic=False, mode=mode)
    self._ema = [p.detach().clone() for p in generator.parameters()] if rules.ema else []

  def __call__(self, images_m11: Tensor) -> dict[str, Tensor]:
    """One update of both players. images_m11: [N,C or 1,H,W] in [-1, 1], on any device."""
    images = self._ready(images_m11)
    if self._warm_start is not None:
      self._warm_start(images)
      self._warm_start = None
    if not self._compiled or self.calls:
      return self._update(images)
    try:
      return self._update(images)
    except torch._dynamo.exc.TorchDynamoException as error:
      reason = str(error).strip().splitlines()[0]
      raise UserError(
        f"torch.compile does not work here ({reason}): leave it out, or install what it needs "
        "(a C++ compiler on a CPU, Triton on a GPU)"
      ) from error

  def reconstruct(self, images_m11: Tensor) -> Tensor:
    """Images through the network as it is now, without averaging -> f32 in [-1, 1]."""
    self.generator.eval()
    with torch.no_grad(), self._autocast():
      recon = self.generator(self._ready(images_m11)).recon
    self.generator.train()
    return recon.float().clamp(-1.0, 1.0)

  def _update(self, images: Tensor) -> dict[str, Tensor]:
    rules, number = self._rules, self.calls
    plays = self.discriminator is not None and number >= rules.gan_start
    with self._autocast():
      made = self._generate(images)
    scalars = dict(made.losses)
    pixel_grad = self._grade(made.recon.detach(), images, scalars)
    see = diffaugment.draw(images, rules.augment)
    if plays:
      pixel_grad += self._fool(made, pixel_grad, see, scalars)
    torch.autograd.backward([made.recon, made.code_loss], [pixel_grad, None])
    norm = self._updates[0].step()
    if norm is not None:
      scalars["gradient_norm"] = norm
    if plays:
      self._tell_apart(images, made.recon.detach(), see, scalars)
    if rules.ema:
      ema_update(self._ema, self.generator.parameters(), rules.ema, number)
    if self._revival is not None:
      self._revive(self._revival, made)
    self.calls += 1
    return scalars

  def _grade(self, recon: Tensor, images: Tensor, scalars: dict[str, Tensor]) -> Tensor:
    """Gradient of reconstruction loss and perceptual distance with respect to the pixels."""
    recon.requires_grad_()
    error = {"l1": losses.l1, "mse": losses.mse}[self._rules.reconstruction]
    total = error(recon, images).mean()
    scalars["reconstruction"] = total.detach()
    if self._rules.perceptual is not None:
      distance = self._rules.perceptual(recon, images).mean()
      scalars["perceptual"] = distance.detach()
      total = total + self._rules.perceptual_weight * distance
    return torch.autograd.grad(total, recon)[0]

  def _fool(
    self, made: Made, pixel_grad: Tensor, see: diffaugment.Change, scalars: dict[str, Tensor]
  ) -> Tensor:
    """Weighted gradient of the generator's GAN loss with respect to the pixels."""
    assert self.discriminator is not None
    recon = made.recon.detach().requires_grad_()
    self.discriminator.requires_grad_(False)  # its own gradients would be thrown away
    with self._autocast():
      logits = self._judge(see(recon))
    loss = losses.hinge_generator(logits).mean()
    (fooled,) = torch.autograd.grad(loss, recon)
    self.discriminator.requires_grad_(True)
    weight: Any = self._rules.gan_weight(self.calls)
    if self._rules.adaptive_cap is not None:
      kernels = [self._last_kernel_grad(made.features, g) for g in (pixel_grad, fooled)]
      weight = weight * losses.adaptive_weight(kernels[0], kernels[1], self._rules.adaptive_cap)
    scalars["gan_generator"] = loss.detach()
    scalars["gan_weight"] = torch.as_tensor(weight)
    return weight * fooled

  def _last_kernel_grad(self, features: Tensor, pixel_grad: Tensor) -> Tensor:
    shape = self.generator.last.weight.shape
    return nn.grad.conv2d_weight(features.detach().float(), shape, pixel_grad, padding=1)

  def _tell_apart(
    self, images: Tensor, recon: Tensor, see: diffaugment.Change, scalars: dict[str, Tensor]
  ) -> None:
    """The discriminator's update, on the same reconstruction."""
    assert self._updates[1] is not None
    with self._autocast():
      real, fake = self._judge(see(images)), self._judge(see(recon))
    loss = losses.hinge_discriminator(real, fake).mean()
    loss.backward()
    self._updates[1].step()
    scalars["gan_discriminator"] = loss.detach()

  @torch.no_grad()
  def _revive(self, revival: Revival, made: Made) -> None:
    codebook = self.generator.codebook
    num_codes = codebook.shape[0]
    share = quantizer.code_counts(made.indices, num_codes) / made.indices.numel()
    revival.usage.lerp_(share, 1.0 - revival.decay)
    if (self.calls + 1) % revival.every:
      return
    flat = made.latents.detach().flatten(0, -2)
    floor = revival.threshold / num_codes
    codes, revived = quantizer.revive(codebook, revival.usage, flat, floor)
    codebook.copy_(codes)
    revival.usage.masked_fill_(revived, 1.0 / num_codes)
    self._updates[0].zero_rows(codebook, revived)
    for average, parameter in zip(self._ema, self.generator.parameters(), strict=False):
      if parameter is codebook:
        average.copy_(torch.where(revived[:, None], codes, average))

  def _ready(self, images_m11: Tensor) -> Tensor:
    images = images_m11.to(self._device, non_blocking=True)
    if images.shape[1] != self._channels:
      images = images.expand(-1, self._channels, -1, -1)
    return images.contiguous(memory_format=self._format)

  def _autocast(self) -> contextlib.AbstractContextManager[Any]:
    enabled = self._dtype != torch.float32
    return torch.autocast(self._device.type, dtype=self._dtype, enabled=enabled)


def prepare(device: str | torch.device, seed: int) -> None:
  """Seeds PyTorch and lets cuDNN try its algorithms: shapes do not change from step to step."""
  torch.manual_seed(seed)
  if torch.device(device).type == "cuda":
    torch.backends.cudnn.benchmark = True


def _describe(rules: Rules, discriminator: nn.Module | None, steps: int) -> str:
  parts = [rules.reconstruction, "codebook"]
  if rules.perceptual is not None:
    parts.append("perceptual")
  if discriminator is not None and rules.gan_start < steps:
    parts.append(f"adversarial from step {rules.gan_start:,}")
  text = " + ".join(parts)
  if rules.perceptual is None:
    text += "; no perceptual term, for no weights were given"
  if discriminator is not None and rules.gan_start >= steps:
    text += f"; no adversarial term, which would start at step {rules.gan_start:,}"
  return text
