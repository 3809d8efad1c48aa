"""Types, layouts, compilation and recomputing change the speed of a torch step, not its result."""

import pathlib
import re
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.torch_baseline import blocks, layers
from benchmarks.torch_baseline.step import hiresmed_step, published_step
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings

SIZE = 32
REPO = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
  """Tiny tensors: more threads only wait for each other."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


def hiresmed(changes=(), **options):
  config = settings.values("background", "best")
  config.net.update({"stem_channels": 4, "channels": (8,), "strides": (4,), "encoder_blocks": 1})
  config.net.update({"full_resolution_channels": 4, "code_dim": 4, "se_ratio": 1})
  config.codebook.update(
    {"num_codes": 16, "init": "random", "revive_every": 3, "revive_threshold": 1.0}
  )
  config.perceptual.net = None
  config.gan.update({"features": (4, 8), "scales": 2, "start": 0.0, "warmup": 0.0, "augment": ()})
  config.optimizer.update({"schedule": "constant", "warmup": 0.0})
  config.update_from_flattened_dict(dict(changes))
  return hiresmed_step(config, channels=1, size=SIZE, steps=20, **options)


# One of each kind of part: a C++ compiler takes a second and a half for each loop of it.
SHALLOW = {"net.strides": (2,), "net.middle_blocks": 0}


def published(**options):
  return published_step("taming", channels=1, width=8, steps=9, disc_start=0, **options)


def images(n=2, seed=0):
  generator = torch.Generator().manual_seed(seed)
  return torch.rand(n, 1, SIZE, SIZE, generator=generator) * 2 - 1


def losses(step, count=3):
  """Of several steps; every step has the same random numbers."""
  rows = []
  for number in range(count):
    torch.manual_seed(number)
    rows.append({name: float(value) for name, value in step(images(seed=number)).items()})
  return rows


def assert_close(some, others, rtol):
  for one, other in zip(some, others, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      # The weight is a ratio of gradients, in which rounding grows.
      wide = 5 * rtol if name == "gan_weight" else rtol
      assert one[name] == pytest.approx(other[name], rel=wide, abs=wide), name


@pytest.mark.parametrize("make", [hiresmed, published])
def test_channels_last_and_the_usual_layout_agree(make):
  last, usual = make(channels_last=True), make(channels_last=False)
  kernel = next(p for p in last.generator.parameters() if p.ndim == 4 and p.shape[1] > 1)
  assert kernel.is_contiguous(memory_format=torch.channels_last)
  assert_close(losses(last), losses(usual), 1e-3)


def test_recomputing_changes_nothing_but_what_is_kept():
  changes = {"net.drop_path_rate": 0.5}
  assert_close(losses(hiresmed(changes, remat=True)), losses(hiresmed(changes)), 1e-4)

  def kept(remat):
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, _same):
      hiresmed(remat=remat).generator(images())
    return sum(sizes)

  assert kept(True) < 0.7 * kept(False)


def _same(tensor):
  return tensor


@pytest.mark.parametrize("make", [hiresmed, published])
def test_bfloat16_is_near(make):
  low, wide = make(dtype=torch.bfloat16), make()
  found = losses(low, 1)
  assert found != losses(wide, 1)
  assert_close(found, losses(make(), 1), 0.1)
  assert {p.dtype for p in low.generator.parameters()} == {torch.float32}
  assert low.reconstruct(images()).dtype == torch.float32


class Types(TorchDispatchMode):
  """Writes down in which types operations with large results are made."""

  def __init__(self):
    super().__init__()
    self.seen = {}

  def __torch_dispatch__(self, func, types, args=(), kwargs=None):
    result = func(*args, **(kwargs or {}))
    if isinstance(result, torch.Tensor):
      self.seen.setdefault(str(func), set()).add(result.dtype)
    return result


def test_under_autocast_normalisation_and_activation_stay_in_bfloat16():
  block = blocks.HDFB(8, 8)
  with torch.autocast("cpu", dtype=torch.bfloat16), Types() as types:
    block(torch.zeros(1, 8, 4, 4))
  assert types.seen["aten.silu.default"] == {torch.float32, torch.bfloat16}  # the input is float32
  conv = torch.nn.Conv2d(8, 8, 1)
  with torch.autocast("cpu", dtype=torch.bfloat16):
    assert layers.exactly(conv, torch.zeros(1, 8, 4, 4).bfloat16()).dtype == torch.float32
    assert layers.GroupNorm(8)(torch.zeros(1, 8, 2, 2).bfloat16()).dtype == torch.bfloat16


def test_drop_path_drops_examples_in_training_only():
  drop = layers.DropPath(0.25)
  torch.manual_seed(0)
  x = torch.ones(4000, 3, 2, 2)
  out = drop(x)
  torch.testing.assert_close(out.unique(), torch.tensor([0.0, 4 / 3]))
  assert float(out.mean()) == pytest.approx(1.0, abs=0.05)
  assert torch.equal(out.amin((1, 2, 3)), out.amax((1, 2, 3)))
  assert torch.equal(drop.eval()(x), x)


def test_the_host_reads_nothing_from_the_device():
  """Nothing in a step asks for a number: on a GPU the host would stand still for each."""
  step = hiresmed({"gan.augment": ("color", "translation", "cutout")}, revival=True)
  augmented = [step, published()]
  for step in augmented:
    step(images())  # the optimiser's state is made in the first
    with Types() as types:
      for number in range(3):
        step(images(seed=number))
    asked = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.bincount.default"}
    assert not asked & types.seen.keys()


def test_revival_redraws_codes_and_forgets_their_moments():
  with_it, without = hiresmed(revival=True), hiresmed()
  for number in range(2):
    assert_close(
      [{k: float(v) for k, v in with_it(images(seed=number)).items()}],
      [{k: float(v) for k, v in without(images(seed=number)).items()}],
      1e-6,
    )
  before = with_it.generator.codebook.detach().clone()
  with_it(images())
  codebook = with_it.generator.codebook
  jumped = (codebook - before).abs().amax(1) > 0.01
  assert 0 < jumped.sum() < 16
  torch.testing.assert_close(codebook[jumped].norm(dim=1), torch.ones(int(jumped.sum())))
  moments = with_it._updates[0].optimizer.state[codebook]
  assert not moments["exp_avg"][jumped].any()
  averages = dict(zip(with_it.generator.parameters(), with_it._ema, strict=True))
  torch.testing.assert_close(averages[codebook][jumped], codebook[jumped].detach())


def test_kmeans_starts_the_codebook_from_the_first_batch():
  step = hiresmed({"codebook.init": "kmeans"})
  start = step.generator.codebook.detach().clone()
  latents = step.generator.encode(images()).flatten(0, -2).detach()
  step(images())
  codes = step.generator.codebook.detach()
  assert not torch.allclose(codes, start, atol=1e-2)
  cosine = torch.nn.functional.normalize(latents, dim=-1) @ codes.T
  assert cosine.amax(1).mean() > 0.9


def test_grey_images_fill_the_channels():
  config = settings.values("background", "paper")
  config.net.update({"stem_channels": 4, "channels": (8,), "strides": (4,), "code_dim": 4})
  config.perceptual.net = None
  step = hiresmed_step(config, channels=3, size=SIZE, steps=4)
  step(images())
  shown = step.reconstruct(images())
  assert shown.shape == (2, 3, SIZE, SIZE)
  assert torch.equal(shown, step.reconstruct(images().repeat(1, 3, 1, 1)))
  with pytest.raises(ValueError, match="multiples of 4"):
    hiresmed_step(config, channels=3, size=18, steps=4)


# What PyTorch's compiler warns of when it is imported is its own affair.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def assert_one_line(step):
  with pytest.raises(UserError, match=r"torch\.compile does not work here \(.+\)") as error:
    step(images())
  assert "\n" not in str(error.value)
  assert "C++ compiler" in str(error.value)


@quiet
def test_what_the_compiler_cannot_do_is_one_line():
  def fail(_):
    raise torch._dynamo.exc.TorchDynamoException("no compiler\n\nand a long story")

  step = hiresmed()
  step._compiled, step._generate = True, fail
  assert_one_line(step)


# A process of its own: torch remembers for ever after that there is no compiler.
_WITHOUT_COMPILER = """
import torch
from benchmarks.torch_baseline.step import published_step
from hiresmed_jax.errors import UserError
torch._inductor.config.cpp.cxx = ("there-is-none",)
torch._inductor.config.force_disable_caches = True
step = published_step("taming", channels=1, width=8, levels=(1,), steps=9, compiled=True)
try:
  step(torch.zeros(1, 1, 16, 16))
except UserError as error:
  print(error)
"""


@pytest.mark.slow
def test_a_missing_compiler_is_one_line():
  command = [sys.executable, "-c", _WITHOUT_COMPILER]
  said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPO).stdout
  assert re.fullmatch(r"torch\.compile does not work here \(.+\).*C\+\+ compiler.*\n", said)


@quiet
@pytest.mark.slow
def test_compiled_and_eager_agree():
  torch._dynamo.reset()
  assert_close(losses(hiresmed(SHALLOW, compiled=True)), losses(hiresmed(SHALLOW)), 2e-3)
