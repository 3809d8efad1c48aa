"""A run is the same run however often it is stopped, and tells a user what is wrong in one line."""

import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.programs import evaluate
from hiresmed_jax.runtime import checkpoint, run_folder
from tests import tiny, tiny_run

pytestmark = pytest.mark.xdist_group("tiny run")  # its programs are compiled once
CADENCE = loop.Cadence(log=4, evaluate=5, keep=2, max_skipped=4)


def compiled_before(task, phase, mesh, batch, val_batch):
  return tiny_run.programs(tiny_run.task(), mesh.shape["data"], mesh.shape["fsdp"])


def fit(
  folder: Path,
  *,
  data: int = 1,
  at_step: Any = None,
  in_evaluation: Any = None,
  programs: Any = None,
  **changes: Any,
):
  """`loop.fit` of the tiny run. `at_step`: called once after every step; true asks it to stop."""
  known = {
    "task": tiny_run.task(),
    "folder": folder,
    "identity": tiny_run.identity(),
    "seed": 0,
    "mesh": tiny_run.mesh(data),
    "train_data": tiny_run.train_data(),
    "val_batches": tiny_run.val_batches,
    "cadence": CADENCE,
    "examples": 2,
    "draw": lambda step, examples: None,
    "finish": lambda state, programs: {"best_is_at": int(state.step)},
  }
  with (
    mock.patch.object(loop, "compile_programs", programs or compiled_before),
    tiny_run.asked(at_step, in_evaluation=in_evaluation),
  ):
    return loop.fit(**{**known, **changes})


def after(steps: int, act: Any = lambda: True):
  """For `at_step`: acts when so many steps are done."""
  done = iter(range(1, 1000))
  return lambda flag: act() if next(done) == steps else flag


def stop(folder: Path, steps: int, **options: Any) -> loop.Stopped:
  with pytest.raises(loop.Stopped) as stopped:
    fit(folder, at_step=after(steps), **options)
  return stopped.value


def kill() -> None:
  raise KeyboardInterrupt


def last_state(folder: Path) -> Any:
  with checkpoint.open(folder / "checkpoints") as manager:
    abstract = tiny_run.programs(tiny_run.task()).abstract_state
    state, data_state, kept = checkpoint.restore(manager, abstract, step=tiny.STEPS)
  arrays = jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))
  return arrays, data_state, kept


def assert_same_run(a: Path, b: Path) -> None:
  assert tiny_run.metrics(a) == tiny_run.metrics(b)
  assert (a / "DONE.json").read_text() == (b / "DONE.json").read_text()
  (one, *rest), (other, *more) = last_state(a), last_state(b)
  assert rest == more
  for (path, x), y in zip(
    jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
  ):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
  """A run that nothing stopped."""
  folder = tmp_path_factory.mktemp("whole") / "background"
  fit(folder)
  return folder


def test_what_a_run_leaves_behind(whole):
  names = {path.name for path in whole.iterdir()}
  assert names == {"config.json", "checkpoints", "metrics.jsonl", "DONE.json"}
  lines = tiny_run.metrics(whole)
  assert [line["step"] for line in lines] == [4, 5, 8, 10, 10]
  assert {key for key in lines[1] if key != "step"} == {
    *("val_psnr", "val_l1", "val_code_usage", "val_code_perplexity"),
  }
  timed = json.loads((whole / "metrics.jsonl").read_text().splitlines()[0])
  assert timed["images_per_second"] > 0
  assert timed["tflops_per_second"] > 0
  assert timed["peak_resident_memory_bytes"] > 1e6
  done = json.loads((whole / "DONE.json").read_text())
  losses = {line["step"]: line["val_l1"] for line in lines if "val_l1" in line}
  assert done["best_step"] == min(losses, key=losses.__getitem__)
  assert done["results"] == {"best_is_at": done["best_step"]}
  assert (done["data"], done["config_hash"]) == (
    "a fingerprint",
    tiny_run.identity()["config_hash"],
  )


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_best_weights_are_judged_whichever_way_is_better(tmp_path, sign):
  task = tiny_run.task()._replace(select=("l1", sign))
  done = fit(tmp_path / "background", task=task)
  losses = [
    (-sign * line["val_l1"], line["step"])
    for line in tiny_run.metrics(tmp_path / "background")
    if "val_l1" in line
  ]
  assert done["best_step"] == min(losses)[1] == done["results"]["best_is_at"]


# After 3 steps: the discriminator trains, half of an update is accumulated, a revival has just
# been, and three steps wait for the log. After 6: just updated and revived. After 7: as 3, and the
# generator feels the discriminator.
@pytest.mark.parametrize(
  "stops", [(3, 1, 3), *(pytest.param(stops, marks=pytest.mark.slow) for stops in [(6,), (7,)])]
)
def test_a_stopped_run_goes_on_to_the_last_bit(whole, tmp_path, stops):
  folder = tmp_path / "background"
  done = 0
  for steps in stops:
    stopped = stop(folder, steps)
    done += steps
    assert str(stopped) == f"stopped; saved at step {done}: the same command goes on from there"
    assert not (folder / "DONE.json").exists()
  fit(folder)
  assert_same_run(whole, folder)


@pytest.mark.optimised
@pytest.mark.slow
def test_as_users_compile_it_a_run_is_the_same_to_the_last_bit(whole, tmp_path):
  """All others are compiled quickly: `tiny_run.programs`."""
  first = {"images_m11": tiny_run.images()[: tiny.BATCH]}
  val_batch = tiny_run.val_batches()[0]
  made = loop.compile_programs(tiny_run.task(), 0, tiny_run.mesh(), first, val_batch)
  given = {"programs": lambda *_: made}
  fit(tmp_path / "one", **given)
  stop(tmp_path / "other", 3, **given)
  fit(tmp_path / "other", **given)
  assert_same_run(tmp_path / "one", tmp_path / "other")
  for line, other in zip(tiny_run.metrics(whole), tiny_run.metrics(tmp_path / "one"), strict=True):
    assert line == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, tmp_path):
  folder = tmp_path / "background"
  with pytest.raises(KeyboardInterrupt):
    fit(folder, at_step=after(9, kill))
  assert [line["step"] for line in tiny_run.metrics(folder)] == [4, 5, 8]
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"step": 9, "reconst')
  fit(folder)
  assert_same_run(whole, folder)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole, tmp_path):
  folder = tmp_path / "background"
  with pytest.raises(KeyboardInterrupt):
    fit(folder, at_step=after(4, kill))
  assert [line["step"] for line in tiny_run.metrics(folder)] == [4]
  fit(folder)
  assert_same_run(whole, folder)


def test_a_run_killed_at_its_very_end_is_finished(whole, tmp_path):
  folder = tmp_path / "background"
  with pytest.raises(KeyboardInterrupt):
    fit(folder, finish=lambda state, programs: kill())
  fit(folder)
  assert_same_run(whole, folder)


# At the evaluation after 5 steps, and at the last one.
@pytest.mark.parametrize(("number", "step"), [(1, 5), (2, 10)])
def test_a_run_stopped_in_an_evaluation_makes_it_anew(whole, tmp_path, number, step):
  folder = tmp_path / "background"
  with pytest.raises(loop.Stopped, match=f"saved at step {step}: the same") as stopped:
    fit(folder, in_evaluation=after(number))
  assert stopped.value.code == 143
  lines = tiny_run.metrics(folder)
  assert lines == [line for line in tiny_run.metrics(whole) if line["step"] <= step][: len(lines)]
  assert not [line for line in lines if line["step"] == step and "val_l1" in line]
  fit(folder)
  assert_same_run(whole, folder)


def test_a_run_stopped_at_its_very_end_is_finished(whole, tmp_path):
  folder = tmp_path / "background"
  assert "saved at step 10" in str(stop(folder, tiny.STEPS))
  assert not (folder / "DONE.json").exists()
  fit(folder)
  assert_same_run(whole, folder)


@pytest.mark.slow
def test_eight_devices_begin_and_one_goes_on(whole, tmp_path):
  folder = tmp_path / "background"
  stop(folder, 3, data=8)
  fit(folder)
  for one, other in zip(tiny_run.metrics(whole), tiny_run.metrics(folder), strict=True):
    assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(whole, tmp_path, number, code):
  def draw(step, examples):
    if step == 5 and not (tmp_path / "drawn").exists():
      (tmp_path / "drawn").touch()
      os.kill(os.getpid(), number)

  folder = tmp_path / "background"
  before = signal.getsignal(number)
  with pytest.raises(loop.Stopped, match="saved at step 5") as stopped:
    fit(folder, draw=draw)
  assert stopped.value.code == code
  assert signal.getsignal(number) == before
  fit(folder, draw=draw)
  assert_same_run(whole, folder)


def test_a_finished_run_is_left_alone(whole, capsys):
  before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
  done = fit(whole, programs=lambda *_: pytest.fail("compiled"))
  assert done == json.loads((whole / "DONE.json").read_text())
  assert "trained already" in capsys.readouterr().out
  assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_nothing_is_compiled_after_the_first_steps(whole, tmp_path):
  by_step = []

  def count(flag):
    by_step.append(len(compiled))
    return flag

  asked = mock.Mock(side_effect=compiled_before)
  with tiny_run.compilations() as compiled:
    fit(tmp_path / "background", programs=asked, at_step=count)
  assert asked.call_count == 1
  assert len(by_step) == tiny.STEPS
  assert by_step[0] == by_step[-1]


def test_a_line_is_the_mean_since_the_line_before_and_counters_are_the_newest(tmp_path, capsys):
  rows: list[dict[str, float]] = []

  def recording(*arguments):
    programs = compiled_before(*arguments)

    def step(*arguments):
      state, scalars = programs.step(*arguments)
      rows.append({name: float(value) for name, value in scalars.items()})
      return state, scalars

    return programs._replace(step=step)

  fit(tmp_path / "background", programs=recording)
  told = [line for line in capsys.readouterr().err.splitlines() if "10/10 steps" in line]
  assert re.search(r"rec [\d.]+ gan .* val_l1 [\d.]+$", told[-1])
  lines = [line for line in tiny_run.metrics(tmp_path / "background") if "reconstruction" in line]
  for line, window in zip(lines, (rows[:4], rows[4:8], rows[8:]), strict=True):
    for name in rows[0]:
      newest = name in ("skipped", "skipped_in_a_row", "code_usage", "code_perplexity")
      expected = window[-1][name] if newest else np.mean([row[name] for row in window])
      assert line[name] == expected, name


def test_examples_are_real_images_with_what_was_made_of_them(tmp_path):
  drawn = {}
  fit(
    tmp_path / "background",
    examples=9,
    draw=lambda step, examples: drawn.update({step: examples.rows()}),
  )
  assert sorted(drawn) == [5, 10]
  assert [row["made"].shape for row in drawn[5]] == [(32, 32, 1)] * 5
  (batch,) = tiny_run.val_batches()
  for row, image in zip(drawn[5], batch["images_m11"]):
    np.testing.assert_array_equal(row["images_m11"], image)
  assert all(row["weight"] == 1 for row in drawn[5])


def test_an_evaluation_adds_up_over_batches():
  task = tiny_run.task()
  programs = tiny_run.programs(task)
  state = tiny_run.begin(task, programs)
  (five,), (two,) = tiny_run.val_batches(5), tiny_run.val_batches(2)
  separate = [evaluate(task, programs, state, [batch])[0] for batch in (five, two)]
  rows = []
  together, images = evaluate(
    task,
    programs,
    state,
    [five, two],
    lambda batch, made: rows.append((len(batch["boxes"]), len(batch["images_m11"]), len(made))),
  )
  assert images == 7
  assert rows == [(5, tiny.BATCH, tiny.BATCH), (2, tiny.BATCH, tiny.BATCH)]
  assert evaluate(task, programs, state, []) == ({}, 0)
  for name in ("psnr", "l1"):
    mean = (5 * separate[0][name] + 2 * separate[1][name]) / 7
    assert together[name] == pytest.approx(mean, rel=1e-6)
  assert together["code_usage"] >= separate[0]["code_usage"]


def test_batches_that_are_not_finite_end_the_run_with_a_line(tmp_path, whole):
  folder = tmp_path / "background"
  broken = tiny_run.train_data(broken=tuple(range(24)))
  with pytest.raises(UserError, match=r"^4 updates in a row were not finite \(step 4\)") as told:
    fit(folder, train_data=broken)
  assert "\n" not in str(told.value)
  assert math.isnan(run_folder.read_metrics(folder / "metrics.jsonl")[0]["reconstruction"])
  fit(folder)  # the data are mended: the same run
  assert_same_run(whole, folder)


def test_a_batch_now_and_then_is_skipped_and_counted(tmp_path):
  folder = tmp_path / "background"
  fit(folder, train_data=tiny_run.train_data(broken=(3,)))
  last = [line for line in tiny_run.metrics(folder) if "skipped" in line][-1]
  assert last["skipped"] in (3, 4)  # it comes once in an epoch of three batches
  assert all(math.isfinite(line["val_l1"]) for line in tiny_run.metrics(folder) if "val_l1" in line)


def test_a_full_disk_ends_the_run_with_a_line_and_loses_nothing(tmp_path, whole, monkeypatch):
  folder = tmp_path / "background"
  space = iter([1 << 40, 1000])
  usage = lambda path: SimpleNamespace(free=next(space))  # noqa: E731
  with monkeypatch.context() as patched:
    patched.setattr(checkpoint.shutil, "disk_usage", usage)
    with pytest.raises(UserError) as told:
      fit(folder)
  assert "left on the disk. Older checkpoints are whole" in str(told.value)
  assert [path.name for path in (folder / "checkpoints").iterdir()] == ["5"]
  assert not (folder / "DONE.json").exists()
  fit(folder)
  assert_same_run(whole, folder)


def test_the_checkpoints_of_another_config_are_refused(tmp_path, whole):
  folder = tmp_path / "background"
  other = tiny_run.identity(seed=1)
  run_folder.claim(folder, other)
  shutil.copytree(whole / "checkpoints", folder / "checkpoints")
  with pytest.raises(UserError, match=r"were made by another config \(config_hash"):
    fit(folder, identity=other)
