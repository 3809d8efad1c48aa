"""The VQGAN's two published recipes: counts, structure, and a step against a plain one."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.torch_baseline import losses, vqgan
from benchmarks.torch_baseline.discriminator import PatchGAN
from benchmarks.torch_baseline.lpips import LPIPS
from benchmarks.torch_baseline.step import FAULTS, published_step
from hiresmed_jax.errors import UserError


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  """Tiny tensors: more threads only wait for each other."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


def count(*modules):
  return sum(p.numel() for module in modules for p in module.parameters())


def images(n=2, channels=1, size=32, seed=0):
  generator = torch.Generator().manual_seed(seed)
  return torch.rand(n, channels, size, size, generator=generator) * 2 - 1


def small(recipe="taming", **options):
  values = {"channels": 1, "width": 8, "steps": 20, "disc_start": 0, "learning_rate": 1e-3}
  return published_step(recipe, **{**values, **options})


def test_published_counts():
  with torch.device("meta"):
    one, other, disc = vqgan.taming(3), vqgan.dome272(3), PatchGAN(3)
  assert count(one) == 72_141_699
  assert count(other) == 70_720_515
  assert count(one.encoder) == count(other.encoder) == 29_298_176
  assert count(one.decoder, one.last) == 42_449_795
  assert count(other.decoder, other.last) == 41_028_611
  assert count(disc) == 2_765_633
  attention = [m for m in other.decoder.modules() if isinstance(m, vqgan.Attention)]
  assert len(attention) == 7


@pytest.mark.parametrize("recipe", ["taming", "dome272"])
def test_any_multiple_of_16_and_where_the_resolution_changes(recipe):
  generator = small(recipe).generator
  seen = []
  for module in generator.modules():
    if isinstance(module, vqgan.ResBlock):
      module.register_forward_hook(lambda m, _, out: seen.append(tuple(out.shape[1:3])))
  made = generator(images(1, size=48)[..., :32])
  assert made.recon.shape == (1, 1, 48, 32)
  assert made.latents.shape == (1, 3, 2, 16)
  assert made.indices.shape == (1, 3, 2)
  finest = 48 if recipe == "taming" else 24
  assert seen[-1] == (8, finest)
  assert seen[:2] == [(8, 48)] * 2
  assert seen[8:12] == [(32, 3)] * 4  # the last level and the middle
  assert len(seen) == 12 + 2 + 15
  norm = generator.encoder[1].norm1
  assert norm.num_channels // norm.num_groups == 4


def test_logits_of_the_discriminator():
  assert PatchGAN(3, 8)(images(1, 3, 256))[0].shape == (1, 1, 30, 30)
  # The last convolution sees 70 pixels.
  disc = PatchGAN(1, 4).eval()
  x = images(1, 1, 96).requires_grad_()
  disc(x)[0][0, 0, 4, 4].backward()
  touched = x.grad[0, 0].abs().sum(1).nonzero().flatten()
  assert touched.max() - touched.min() + 1 <= 70
  assert touched.max() - touched.min() + 1 > 60


def test_codebook_loss_has_the_published_order():
  latents, codes = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
  latents.requires_grad_()
  codes.requires_grad_()
  loss = losses.legacy_codebook(latents, codes)
  loss.backward()
  assert loss.item() == pytest.approx(1.25)
  assert float(latents.grad.sum()) == pytest.approx(-2.0)
  assert float(codes.grad.sum()) == pytest.approx(0.5)


@pytest.mark.parametrize("recipe", ["taming", "dome272"])
def test_a_step_is_the_plain_one(recipe):
  """One loss, one backward pass for each player, whole gradients of the last kernel twice."""
  perceptual = lambda a, b: (F.avg_pool2d(a, 4) - F.avg_pool2d(b, 4)).square().mean((1, 2, 3))  # noqa: E731
  options = {"perceptual": perceptual, "seed": 3}
  step, plain = small(recipe, **options), small(recipe, **options)
  generator, disc = plain.generator, plain.discriminator
  with torch.no_grad():  # far from zero, so that the players feel each other
    for kernels in (step.discriminator, disc):
      kernels.layers[-1].weight.mul_(20)
  optimizers = [
    torch.optim.Adam(m.parameters(), lr=1e-3, betas=(0.5, 0.9), eps=1e-8) for m in (generator, disc)
  ]
  for number in range(2):
    batch = images(seed=number)
    found = step(batch)
    made = generator(batch)
    graded = F.l1_loss(made.recon, batch) + perceptual(made.recon, batch).mean()
    fooled = -disc(made.recon)[0].mean()
    norms = [
      torch.autograd.grad(loss, generator.last.weight, retain_graph=True)[0].norm()
      for loss in (graded, fooled)
    ]
    weight = 0.8 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
    optimizers[0].zero_grad()
    (graded + made.code_loss + weight * fooled).backward()
    real, fake = disc(batch)[0], disc(made.recon.detach())[0]
    told = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    optimizers[1].zero_grad()
    told.backward()
    for optimizer in optimizers:
      optimizer.step()
    assert float(found["gan_weight"]) == pytest.approx(float(weight.detach()), rel=1e-3)
    assert float(found["gan_discriminator"]) == pytest.approx(float(told.detach()), rel=1e-3)
    assert float(found["codebook"]) == pytest.approx(float(made.code_loss.detach()), rel=1e-3)
  for one, other in ((step.generator, generator), (step.discriminator, disc)):
    ours, theirs = (torch.cat([p.flatten() for p in m.parameters()]) for m in (one, other))
    # Adam's first updates have the sign of the gradient: where that is 0, it is rounding.
    assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.01


def test_the_discriminator_waits_for_its_step():
  step = small(disc_start=2)
  before = [p.clone() for p in step.discriminator.parameters()]
  for _ in range(2):
    assert not {"gan_generator", "gan_discriminator"} & step(images()).keys()
  assert all(torch.equal(a, b) for a, b in zip(before, step.discriminator.parameters()))
  assert {"gan_generator", "gan_discriminator", "gan_weight"} <= step(images()).keys()
  assert not torch.equal(before[0], next(step.discriminator.parameters()))
  assert all(p.requires_grad for p in step.discriminator.parameters())


@pytest.mark.slow
def test_it_learns_and_shows_what_it_has_learnt():
  step = small(disc_start=1000, learning_rate=5e-3)
  batch = F.interpolate(images(4, size=2), 32, mode="bilinear")
  errors = [float(step(batch)["reconstruction"]) for _ in range(40)]
  assert errors[-1] < 0.8 * errors[0]
  shown = step.reconstruct(batch)
  assert shown.shape == batch.shape
  assert shown.abs().max() <= 1
  assert float((shown - batch).abs().mean()) == pytest.approx(errors[-1], rel=0.2)
  assert step.generator.training
  assert step.calls == 40


def test_a_seed_names_the_start():
  first, same, other = (small(seed=s).generator.last.weight for s in (1, 1, 2))
  assert torch.equal(first, same)
  assert not torch.equal(first, other)


def test_faults():
  step = small("dome272", faults=("attn_proj_off", "no_shuffle"))
  assert not step.shuffle
  assert small("dome272").shuffle
  step(images())
  attention = [m for m in step.generator.modules() if isinstance(m, vqgan.Attention)]
  assert len(attention) == 10
  moments = step._updates[0].optimizer.state
  assert all(m.projection.weight not in moments for m in attention)
  assert all(m.queries.weight in moments for m in attention)
  # Dead parameters are counted, as they were.
  assert step.parameters_count == small("dome272").parameters_count


def test_random_heads_are_not_the_published_ones():
  torch.manual_seed(0)
  perceptual = LPIPS([torch.full((c,), 1 / c) for c in (64, 128, 256, 512, 512)])
  wrong = perceptual.with_random_heads()
  a, b = images(2, size=16), images(2, size=16, seed=1)
  assert not torch.allclose(wrong(a, b), perceptual(a, b))
  assert wrong.get_buffer("head0").min() < 0  # no distance any more
  step = small("dome272", faults=("random_lpips_heads",), perceptual=perceptual)
  assert "perceptual" in step(images())
  assert "perceptual" in step.description


def test_when_the_discriminator_starts():
  def start(recipe, **options):
    return published_step(recipe, channels=1, width=8, steps=300_000, **options).description

  assert "step 10,000" in start("taming")
  assert "step 250,001" in start("dome272")
  assert "step 10,000" in start("dome272", faults=("early_disc_start",))
  assert "step 7;" in start("dome272", faults=("early_disc_start",), disc_start=7)
  assert "no perceptual term" in start("taming")
  short = published_step("taming", channels=1, width=8, steps=100)
  assert "no adversarial term" in short.description


@pytest.mark.parametrize(
  ("recipe", "options", "message"),
  [
    ("ours", {}, "taming or dome272"),
    ("dome272", {"faults": ("slow",)}, "attn_proj_off, random_lpips_heads"),
    ("taming", {"faults": tuple(FAULTS)}, "none of dome272's faults"),
    ("dome272", {"faults": ("random_lpips_heads",)}, "needs the LPIPS"),
  ],
)
def test_mistakes_are_named(recipe, options, message):
  with pytest.raises(UserError, match=message):
    small(recipe, **options)


def test_width_is_a_multiple_of_four():
  with pytest.raises(ValueError, match="multiple of 4"):
    small(width=10)
