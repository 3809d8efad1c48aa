"""The baseline DDM: steps as PyTorch makes them, and a run that can stop."""

import functools
import hashlib
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.routes import loop, settings, supervised
from hiresmed_jax.routes.baselines.ddm import task as ddm
from hiresmed_jax.routes.baselines.ddm import train
from hiresmed_jax.routes.programs import Programs, compile_programs
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.optim import pack
from tests import tiny_run
from tests.reference.parity import close, random_params

pytestmark = pytest.mark.xdist_group("tiny ddm")
SIDE, BATCH, STEPS, LEVELS = 8, 8, 6, 12
CADENCE = loop.Cadence(log=2, evaluate=3, keep=2, max_skipped=4)


def values() -> Any:
  made = settings.values("ddm", "best")
  made.update({"size": (SIDE, SIDE), "patch": 2, "batch_size": BATCH, "ema": 0.9})
  made.net.update({"width": 64, "multipliers": (1,), "blocks": 1, "attention": (4,)})
  made.diffusion.levels = LEVELS
  made.optimizer.update({"learning_rate": 1e-2, "warmup": 0.5, "clip": 0.5})
  return made


@functools.cache
def task():
  return ddm.build(values(), channels=1, size=(SIDE, SIDE), steps=STEPS)


def batch(number: int = 0) -> dict[str, np.ndarray]:
  return {"images_m11": tiny_run.images(BATCH, SIDE, seed=number)}


def val_batches() -> list[dict[str, Any]]:
  own = {"weight": np.array([1.0] * 6 + [0.0] * 2, np.float32), "boxes": [np.zeros((0, 4))] * 6}
  return [batch(99) | own]


@functools.cache
def programs() -> Programs:
  with tiny_run.quick_compiler():
    return compile_programs(task(), 0, tiny_run.mesh(1), batch(), val_batches()[0])


def run(changed: Any = None) -> tuple[Any, list[dict[str, float]]]:
  program = programs()
  state, history = tiny_run.begin(task(), program), []
  for number in range(5):
    given = batch(number)
    if changed is not None:
      given = changed(number, given)
    arrays = meshes.put_batch(given, program.batch_sharding)
    state, scalars = program.step(state, arrays, program.frozen)
    history.append({name: float(value) for name, value in scalars.items()})
  return state, history


def leaves(state: Any) -> list[np.ndarray]:
  return [np.array(x) for x in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]


def test_a_batch_that_is_not_finite_leaves_no_trace_but_a_count():
  def broken(number, given):
    if number == 3:
      given["images_m11"][2, 3, 4] = np.nan
    return given

  state, history = run(broken)
  assert [line["skipped"] for line in history] == [0, 0, 0, 1, 1]
  assert history[0]["noise_mse"] == pytest.approx(1.0, abs=0.1)  # it begins by finding no noise
  assert all(np.isfinite(leaf).all() for leaf in leaves(state))


def digest(leaf: np.ndarray) -> str:
  return hashlib.sha256(leaf.tobytes()).hexdigest()


def fit(folder):
  seen: list[Any] = []
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
      draw=lambda step, examples: seen.append([row["made"].shape for row in examples.rows()]),
      finish=lambda state, programs: {"leaves": [digest(leaf) for leaf in leaves(state)]},
    )
  assert asked.call_count == 1
  return done, seen


def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path):
  whole, drawn = fit(tmp_path / "whole")
  assert drawn == [[(SIDE, SIDE, 2)] * 6] * 2
  assert whole["best_step"] == STEPS  # the last weights, not those of some validation
  calls = iter([False, False, False, True])
  with tiny_run.asked(lambda _: next(calls)), pytest.raises(loop.Stopped):
    fit(tmp_path / "stopped")
  again: list[Any] = []
  by_step = tiny_run.compiled_by_step(lambda: again.append(fit(tmp_path / "stopped")[0]))
  assert by_step[0] == by_step[-1]  # nothing is compiled after the first step
  assert again == [whole]
  assert tiny_run.metrics(tmp_path / "stopped") == tiny_run.metrics(tmp_path / "whole")


def test_the_evaluation_uses_the_averaged_weights_and_leaves_out_what_fills_up():
  state, program = run()[0], programs()
  used = supervised.averaged(state)["params"]
  jax.tree.map(np.testing.assert_array_equal, train._params(state), {"params": used})
  moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (used, state.params)))]
  assert max(moved) > 1e-4
  (given,) = val_batches()
  noisy = given | {"images_m11": given["images_m11"].copy()}
  noisy["images_m11"][6:] = np.nan

  def numbers(state, given):
    arrays = {name: given[name] for name in ("images_m11", "weight")}
    arrays = meshes.put_batch(arrays, program.batch_sharding)
    totals, made = program.evaluate(state, arrays, {})
    return task().summarise(jax.device_get(totals))["noise_mse"], np.asarray(made)

  error, made = numbers(state, given)
  assert numbers(state, noisy)[0] == error
  plain = numbers(state.replace(params=used, ema=pack_all(state.replace(params=used))), given)
  assert plain[0] == error  # the weights themselves are not looked at
  # Level by level the picture is noisier, and the images beside it are in range.
  noisier = np.abs(made[..., :1] - given["images_m11"]).mean((1, 2, 3))
  assert noisier[0] < noisier[4] < noisier[7]
  assert np.abs(made[..., 1:]).max() <= 1


def pack_all(state):
  return pack({"params": state.params, "batch_stats": state.stats})


def test_a_whole_step_is_that_of_pytorch():
  """Loss, gradients, clipping, Adam with its warm-up, and the running average, three times."""
  torch = pytest.importorskip("torch")
  from benchmarks.torch_baseline.convert import state_dict
  from tests.reference import ddpm as reference

  program = programs()
  state = jax.eval_shape(task().init, jax.random.key(0))
  params = jax.tree.map(jnp.asarray, random_params(state.params))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state.opt)
  everything = {"params": params, "batch_stats": {}}
  state = supervised.State(
    step=jnp.zeros((), jnp.int32), params=params, stats={}, opt=zeros, ema=pack(everything),
    skipped=jnp.zeros(2, jnp.int32), key=jax.random.key(7),
  )  # fmt: skip
  state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state))
  net = values().net.to_dict()
  net.pop("dropout")
  twin = reference.DDPM(4, SIDE // 2, **net)
  twin.load_state_dict(state_dict(params, twin))
  twin.double()
  average = {name: value.clone() for name, value in twin.named_parameters()}
  adam = torch.optim.Adam(twin.parameters(), lr=1.0, betas=(0.9, 0.999), eps=1e-8)
  # A bias of all keys of an attention has no gradient but rounding, which Adam enlarges.
  felt = {name: torch.ones_like(value) > 0 for name, value in twin.named_parameters()}
  bars = torch.tensor(reference.alpha_bars("cosine", LEVELS)).double()
  for number in range(3):
    given = batch(number)
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(7), number))
    at, eps = (np.asarray(x) for x in ddm.draw(key, (BATCH, SIDE // 2, SIDE // 2, 4), LEVELS))
    arrays = meshes.put_batch(given, program.batch_sharding)
    state, scalars = program.step(state, arrays, program.frozen)

    # Channels are (row, column) in a patch, which is the order of PyTorch's pixel_unshuffle.
    x = torch.tensor(given["images_m11"].transpose(0, 3, 1, 2)).double()
    x = torch.nn.functional.pixel_unshuffle(x, 2)
    noise = torch.tensor(eps.transpose(0, 3, 1, 2)).double()
    left = bars[torch.tensor(at).long()].reshape(-1, 1, 1, 1)
    twin.levels = torch.tensor(at)
    loss = ((twin(left.sqrt() * x + (1 - left).sqrt() * noise) - noise) ** 2).mean()
    adam.zero_grad()
    loss.backward()
    assert torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5) > 0.5  # it is clipped
    adam.param_groups[0]["lr"] = 1e-2 * min(1.0, number / 3)
    for name, value in twin.named_parameters():
      felt[name] &= value.grad.abs() > 1e-6
    adam.step()
    kept = min(0.9, (1 + number) / (10 + number))
    with torch.no_grad():
      for name, value in twin.named_parameters():
        average[name] = kept * average[name] + (1 - kept) * value
    assert float(scalars["noise_mse"]) == pytest.approx(loss.item(), rel=1e-5)

  found = supervised.averaged(state)["params"]
  for what, tree, expected in (
    ("weights", state.params, dict(twin.named_parameters())),
    ("average", found, average),
  ):
    for name, value in state_dict(tree, twin).items():
      if felt[name].any():
        theirs = expected[name].detach()[felt[name]].numpy()
        close(value[felt[name]], theirs, 1e-4, f"{what}: {name}")
  assert sum(mask.sum() for mask in felt.values()) > 0.9 * sum(m.numel() for m in felt.values())
