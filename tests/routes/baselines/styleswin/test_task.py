"""The baseline StyleSwin: steps as PyTorch makes them, and a run that can stop."""

import functools
import hashlib
from typing import Any
from unittest import mock

import flax.traverse_util
import jax
import numpy as np
import pytest

from hiresmed_jax.ops.diffaugment import diff_augment
from hiresmed_jax.routes import loop, settings
from hiresmed_jax.routes.baselines.styleswin import task as styleswin
from hiresmed_jax.routes.programs import Programs, compile_programs
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.optim import pack, unpack
from tests import tiny_run
from tests.reference.parity import close, random_params

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tiny styleswin")]
SIDE, BATCH, STEPS, STYLE, WIDTH = 8, 8, 5, 12, 16
CADENCE = loop.Cadence(log=2, evaluate=3, keep=2, max_skipped=4)


def values() -> Any:
  made = settings.values("styleswin", "paper")
  made.update({"size": SIDE, "batch_size": BATCH, "ema": 0.9})
  made.net.update({"style": STYLE, "mapping": 1, "widest": WIDTH})
  made.loss.update({"r1_every": 2, "consistency": 3.0})
  for name in ("gen_optimizer", "disc_optimizer"):
    made[name].update({"learning_rate": 1e-3, "b1": 0.5})
  made.disc_optimizer.clip = 0.5
  return made


@functools.cache
def task():
  return styleswin.build(values(), channels=1, steps=STEPS)


def batch(number: int = 0) -> dict[str, np.ndarray]:
  return {"images_m11": tiny_run.images(BATCH, SIDE, seed=number)}


def val_batches() -> list[dict[str, Any]]:
  own = {"weight": np.array([1.0] * 6 + [0.0] * 2, np.float32), "boxes": [np.zeros((0, 4))] * 6}
  return [batch(99) | own]


@functools.cache
def programs() -> Programs:
  with tiny_run.quick_compiler():
    return compile_programs(task(), 0, tiny_run.mesh(1), batch(), val_batches()[0])


def leaves(state: Any) -> list[np.ndarray]:
  return [np.array(x) for x in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]


def digest(leaf: np.ndarray) -> str:
  return hashlib.sha256(leaf.tobytes()).hexdigest()


def test_a_batch_that_is_not_finite_leaves_no_trace_but_a_count():
  program = programs()
  state = tiny_run.begin(task(), program)
  before = leaves(state)
  broken = batch()
  broken["images_m11"][2, 3, 4] = np.nan
  state, scalars = program.step(state, meshes.put_batch(broken, program.batch_sharding), {})
  assert int(scalars["skipped"]) == 1
  kept = state.replace(step=state.step - 1, skipped=0 * state.skipped)
  for a, b in zip(before, leaves(kept), strict=True):
    np.testing.assert_array_equal(a, b)


def fit(folder):
  with mock.patch.object(loop, "compile_programs", return_value=programs()) as asked:
    done = loop.fit(
      task(),
      folder=folder,
      identity=tiny_run.identity(),
      seed=0,
      mesh=tiny_run.mesh(1),
      train_data=tiny_run.train_data_of(batch, BATCH),
      val_batches=val_batches,
      cadence=CADENCE,
      examples=8,
      draw=lambda step, examples: None,
      finish=lambda state, programs: {"leaves": [digest(leaf) for leaf in leaves(state)]},
    )
  assert asked.call_count == 1
  return done


def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path):
  whole = fit(tmp_path / "whole")
  assert whole["best_step"] == STEPS
  calls = iter([False, False, False, True])
  with tiny_run.asked(lambda _: next(calls)), pytest.raises(loop.Stopped):
    fit(tmp_path / "stopped")
  again: list[Any] = []
  by_step = tiny_run.compiled_by_step(lambda: again.append(fit(tmp_path / "stopped")))
  assert by_step[0] == by_step[-1]  # nothing is compiled after the first step
  assert again == [whole]
  assert tiny_run.metrics(tmp_path / "stopped") == tiny_run.metrics(tmp_path / "whole")


def test_whole_steps_are_those_of_pytorch():
  """Both losses, R1 in every other step, balanced consistency of given augmentations, clipping,
  Adam, spectral norms, the running average.
  """
  torch = pytest.importorskip("torch")
  from torch.nn.functional import softplus

  from benchmarks.torch_baseline.convert import state_dict
  from tests.reference import styleswin as reference

  program = programs()
  state = tiny_run.begin(task(), program)
  gen_params, disc_params = random_params(jax.eval_shape(lambda: (state.gen, state.disc)))
  gen_params["mapping0"]["kernel"] *= 100 * np.sqrt(STYLE)
  state = state.replace(gen=gen_params, disc=disc_params, ema=pack(gen_params), key=state.key)
  state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, program.abstract_state))
  gen = reference.Generator(SIDE, 1, [WIDTH] * 2, mapping=1, style=STYLE)
  disc = reference.Discriminator(SIDE, 1, WIDTH)
  gen.load_state_dict(state_dict(gen_params, gen))
  disc.load_state_dict(state_dict(disc_params, disc))
  gen.double(), disc.double()
  stats = flax.traverse_util.flatten_dict(jax.device_get(state.stats))
  vectors = {
    path[-1].split("/")[0]: torch.tensor(np.asarray(value)[0]).double()
    for path, value in stats.items()
    if path[-1].endswith("/u")
  }
  average = {name: value.detach().clone() for name, value in gen.named_parameters()}
  adams = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.99)) for net in (gen, disc)]
  felt = [{k: torch.ones_like(v) > 0 for k, v in net.named_parameters()} for net in (gen, disc)]
  keys = [jax.random.fold_in(state.key, number) for number in range(3)]
  latents = [
    [jax.random.normal(jax.random.fold_in(key, use), (BATCH, STYLE)) for use in range(2)]
    for key in keys
  ]
  latents = [[torch.tensor(np.asarray(x)).double() for x in pair] for pair in latents]
  for number in range(3):
    arrays = meshes.put_batch(batch(number), program.batch_sharding)
    state, scalars = program.step(state, arrays, program.frozen)

    real = torch.tensor(batch(number)["images_m11"].transpose(0, 3, 1, 2)).double()
    real.requires_grad_()
    disc.vectors = vectors
    fake = gen(latents[number][0]).detach()
    logits, fake_logits = disc(real), disc(fake)
    disc_loss = (softplus(-logits) + softplus(fake_logits)).mean()
    consistency = torch.zeros(())
    for images, judged in ((real, logits), (fake, fake_logits)):
      again = disc(augmented(images, jax.random.fold_in(keys[number], 2)))
      consistency = consistency + (again - judged).square().mean()
    total = disc_loss + 3.0 * consistency
    if number % 2 == 0:
      (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
      total = total + 2 * 5.0 * slope.square().sum((1, 2, 3)).mean()
    adams[1].zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(disc.parameters(), 0.5)
    note(felt[1], disc)
    moved = disc.moved()  # of the weights before the step
    adams[1].step()
    gen_loss = softplus(-disc(gen(latents[number][1]))).mean()
    adams[0].zero_grad()
    gen_loss.backward()
    note(felt[0], gen)
    adams[0].step()
    vectors = moved
    kept = min(0.9, (1 + number) / (10 + number))
    with torch.no_grad():
      for name, value in gen.named_parameters():
        average[name] = kept * average[name] + (1 - kept) * value
    assert float(scalars["consistency"]) == pytest.approx(consistency.item(), rel=1e-3)
    assert float(scalars["discriminator"]) == pytest.approx(disc_loss.item(), rel=1e-4)
    assert float(scalars["generator"]) == pytest.approx(gen_loss.item(), rel=1e-4)

  ema = unpack(dict(state.ema), state.gen)
  for tree, net, expected, mask in (
    (state.gen, gen, dict(gen.named_parameters()), felt[0]),
    (ema, gen, average, felt[0]),
    (state.disc, disc, dict(disc.named_parameters()), felt[1]),
  ):
    for name, value in state_dict(tree, net).items():
      if mask[name].any():
        theirs = expected[name].detach()[mask[name]].numpy()
        close(value[mask[name]], theirs, 1e-3, name)
  assert all(
    sum(m.sum() for m in f.values()) > 0.9 * sum(m.numel() for m in f.values()) for f in felt
  )


def augmented(images, key):
  """Images of PyTorch [N,C,H,W] as the step changes them."""
  import torch

  images = images.detach().numpy().transpose(0, 2, 3, 1).astype(np.float32)
  found = diff_augment(images, key, policy=("color", "translation"))
  return torch.tensor(np.asarray(found).transpose(0, 3, 1, 2)).double()


def note(felt, net):
  """Where the gradient is more than rounding, which Adam would enlarge."""
  most = max(value.grad.abs().max() for value in net.parameters())
  for name, value in net.named_parameters():
    felt[name] &= value.grad.abs() > 1e-5 * most
