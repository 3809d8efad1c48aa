"""The danger route: the same steps on any mesh, and a run that can stop."""

import functools
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from hiresmed_jax.routes import loop, settings
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.programs import Programs, compile_programs
from hiresmed_jax.runtime import mesh as meshes
from tests import tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tiny unet")]
SIDE, BATCH, STEPS = 32, 8, 6
CADENCE = loop.Cadence(log=2, evaluate=3, keep=2, max_skipped=4)


@functools.cache
def task():
  values = settings.values("danger", "best")
  values.update({"size": (SIDE, SIDE), "batch_size": BATCH, "dtype": "float32", "width": 2})
  return danger.build(values, channels=1, size=(SIDE, SIDE), steps=STEPS)


def batch(number: int = 0) -> dict[str, np.ndarray]:
  """What is bright is forbidden; a stripe is padding, on which labels mean nothing."""
  rng = np.random.default_rng(number)
  labels = np.zeros((BATCH, SIDE, SIDE), np.uint8)
  for mask in labels[:-1]:
    y, x = rng.integers(2, SIDE - 14, 2)
    mask[y : y + 12, x : x + 10] = 1
  images = rng.normal(-0.6, 0.1, (BATCH, SIDE, SIDE, 1)) + 1.2 * labels[..., None]
  valid = np.ones(labels.shape, bool)
  valid[:, :2] = False
  labels[:, :2] = rng.integers(0, 2, labels[:, :2].shape)
  lesions = np.zeros_like(labels)
  lesions[:, 20:24, 20:24] = 1
  arrays = {"labels": labels, "valid": valid, "lesions": lesions}
  return {"images_m11": images.astype(np.float32), **arrays}


def val_batches() -> list[dict[str, Any]]:
  own = {"weight": np.array([1.0] * 6 + [0.0] * 2, np.float32), "boxes": [np.zeros((0, 4))] * 6}
  return [batch(99) | own]


@functools.cache
def programs(data: int) -> Programs:
  with tiny_run.quick_compiler():
    return compile_programs(task(), 0, tiny_run.mesh(data), batch(), val_batches()[0])


def run(data: int, changed: Any = None) -> tuple[Any, list[dict[str, float]]]:
  program = programs(data)
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


def test_eight_devices_make_the_steps_of_one():
  (one, history), (_, other) = run(1), run(8)
  for step, (a, b) in enumerate(zip(history, other, strict=True)):
    for name in ("cross_entropy", "dice_loss"):
      assert abs(a[name] - b[name]) <= 1e-5 * max(1.0, abs(a[name])), (step, name, a[name], b[name])
  assert int(one.step) == 5
  assert history[0]["cross_entropy"] > history[-1]["cross_entropy"]


@pytest.mark.parametrize("expected", [1.0, 0.0])
def test_masks_are_judged_by_what_they_cover(monkeypatch, expected):
  """What the network forbids is replaced by the truth, or by all that is allowed."""
  given = val_batches()[0]
  right = given["labels"] > 0
  right[given["weight"] == 0] ^= True  # of images that only fill the batch up
  right[~given["valid"]] ^= True
  found = np.where(right == bool(expected), 0.9, 0.1).astype(np.float32)
  monkeypatch.setattr(danger, "forbidden", lambda *_, **__: jax.numpy.array(found))
  state = tiny_run.begin(task(), programs(1))
  arrays = {name: value for name, value in given.items() if name != "boxes"}
  totals, _ = tiny_run.quick_jit(lambda batch: task().eval_step(state, batch, {}))(arrays)
  numbers = task().summarise(jax.device_get(totals))
  for name in ("dice", "iou"):
    assert numbers[name] == pytest.approx(expected, abs=1e-6), name


def test_a_batch_that_is_not_finite_leaves_no_trace_but_a_count():
  def broken(number, given):
    if number == 3:
      given["images_m11"][2, 3, 4] = np.nan
    return given

  state, history = run(1, broken)
  assert [line["skipped"] for line in history] == [0, 0, 0, 1, 1]
  assert all(np.isfinite(leaf).all() for leaf in leaves(state))


def test_labels_of_padding_mean_nothing():
  def other(_, given):
    given["labels"][:, :2] = 1 - given["labels"][:, :2]
    return given

  for a, b in zip(leaves(run(1)[0]), leaves(run(1, other)[0]), strict=True):
    np.testing.assert_array_equal(a, b)


def fit(folder):
  seen: list[Any] = []
  with mock.patch.object(loop, "compile_programs", return_value=programs(1)) as asked:
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
      finish=lambda state, programs: {"leaves": [leaf.tolist() for leaf in leaves(state)]},
    )
  assert asked.call_count == 1
  return done, seen


def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path):
  whole, drawn = fit(tmp_path / "whole")
  assert drawn == [[(SIDE, SIDE, 1)] * 6] * 2
  calls = iter([False, False, False, True])
  with tiny_run.asked(lambda _: next(calls)), pytest.raises(loop.Stopped):
    fit(tmp_path / "stopped")
  again, _ = fit(tmp_path / "stopped")
  assert again == whole
  assert tiny_run.metrics(tmp_path / "stopped") == tiny_run.metrics(tmp_path / "whole")


def test_nothing_is_compiled_after_the_first_steps(tmp_path):
  by_step = tiny_run.compiled_by_step(lambda: fit(tmp_path))
  assert len(by_step) == STEPS
  assert by_step[0] == by_step[-1]
