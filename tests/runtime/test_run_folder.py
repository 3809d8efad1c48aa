"""A folder is one run's; metrics.jsonl stays readable through NaNs, kills and resumed runs."""

import json
import math
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.run_folder import Writer, read_metrics, truncate_metrics

VALUES = {"seed": 0, "background": {"optimizer": {"learning_rate": 0.001}, "steps": 10}}
RUN = {"config": VALUES, "config_hash": "a hash", "data": "a fingerprint"}


@pytest.fixture
def folder(tmp_path) -> Path:
  """Of a finished run."""
  run_folder.claim(tmp_path / "background", RUN)
  run_folder.write_done(tmp_path / "background", RUN, 7, {"psnr": 31.0})
  return tmp_path / "background"


def files(folder: Path) -> dict[str, bytes]:
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_new_then_its_own_then_done(tmp_path):
  folder = tmp_path / "runs" / "background"
  assert run_folder.claim(folder, RUN) is None
  assert run_folder.claim(folder, RUN) is None
  done = run_folder.write_done(folder, RUN, 7, {"psnr": 31.0})
  assert done == {
    "best_step": 7,
    "config_hash": "a hash",
    "data": "a fingerprint",
    "results": {"psnr": 31.0},
  }
  assert run_folder.claim(folder, RUN) == done
  assert sorted(files(folder)) == ["DONE.json", "config.json"]


@pytest.mark.parametrize(
  ("identity", "says"),
  [
    ({"config": VALUES | {"seed": 1}}, r"another config \(seed: 0 -> 1\)"),
    (
      {"config": {"seed": 1, "background": {"optimizer": {"learning_rate": 0.5}, "steps": 10}}},
      r"another config \(background.optimizer.learning_rate: 0.001 -> 0.5 and 1 more\)",
    ),
    ({"data": "more images"}, "on other data"),
  ],
)
def test_another_run_is_refused_and_nothing_is_touched(folder, identity, says):
  before = files(folder)
  with pytest.raises(UserError, match=says) as told:
    run_folder.claim(folder, RUN | identity)
  assert "use another --workdir, or --overwrite" in str(told.value)
  assert files(folder) == before


def test_a_folder_that_is_none_of_ours_is_refused_and_untouched(tmp_path):
  (tmp_path / "holiday.jpg").write_bytes(b"sea")
  with pytest.raises(UserError, match="holds no run of this program"):
    run_folder.claim(tmp_path, RUN)
  with pytest.raises(UserError, match="nothing was removed"):
    run_folder.clear(tmp_path)
  for text in ("{", "[]", '{"config": {}}'):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is damaged, or no file of this program"):
      run_folder.claim(tmp_path, RUN)
    with pytest.raises(UserError, match=r"no file of this program"):
      run_folder.clear(tmp_path)
  assert sorted(files(tmp_path)) == ["config.json", "holiday.jpg"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
    run_folder.claim(tmp_path / "file" / "background", RUN)


def test_clearing_removes_a_run(tmp_path):
  folder = tmp_path / "background"
  run_folder.clear(folder)
  run_folder.claim(folder, RUN)
  run_folder.clear(folder)
  assert not folder.exists()


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "config.json"])
def test_a_kill_while_a_run_is_removed_leaves_one_that_can_be_removed(folder, monkeypatch, name):
  (folder / "checkpoints").mkdir()
  (folder / "metrics.jsonl").touch()
  removed, unlinked = shutil.rmtree, Path.unlink

  def remove(path, **how):
    if path.name == name or (path == folder and name == "config.json"):
      raise KeyboardInterrupt
    removed(path, **how)

  def unlink(path, **how):
    if path.name == name:
      raise KeyboardInterrupt
    unlinked(path, **how)

  with monkeypatch.context() as patched:
    patched.setattr(shutil, "rmtree", remove)
    patched.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
      run_folder.clear(folder)
  assert run_folder.claim(folder, RUN) is None  # it is this run's, and not finished
  run_folder.clear(folder)
  assert not folder.exists()


def lines_of(path):
  return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_scalars_become_one_line_each(tmp_path):
  log = Writer(tmp_path)
  log.write_scalars(3, {"l1": np.float32(0.5), "psnr": jax.numpy.float32(20.0)})
  log.write_scalars(4, {"l1": 0.25})
  # Before any flush: a kill here must not lose them.
  assert len(lines_of(tmp_path / "metrics.jsonl")) == 2
  log.flush()
  log.close()
  first, second = lines_of(tmp_path / "metrics.jsonl")
  assert (first["step"], first["l1"], first["psnr"]) == (3, 0.5, 20.0)
  assert second["time"] >= first["time"] > 1.7e9


def test_numbers_that_json_lacks_are_spelled_and_read_back(tmp_path):
  log = Writer(tmp_path)
  log.write_scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
  log.close()
  (line,) = lines_of(tmp_path / "metrics.jsonl")
  assert [line[k] for k in "abcd"] == ["NaN", "Infinity", "-Infinity", 1.0]
  (entry,) = read_metrics(tmp_path / "metrics.jsonl")
  assert math.isnan(entry["a"])
  assert (entry["b"], entry["c"], entry["step"]) == (math.inf, -math.inf, 1)
  assert isinstance(entry["step"], int)


def test_a_resumed_run_continues_the_file(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = Writer(tmp_path)
  for step in range(1, 6):
    log.write_scalars(step, {"l1": 1.0 / step})
  log.close()
  whole = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b"".join(whole) + b'{"step": 6, "l1": 0.1')
  truncate_metrics(path, 3)
  assert path.read_bytes() == b"".join(whole[:3])
  log = Writer(tmp_path)
  log.write_scalars(4, {"l1": 0.25})
  log.close()
  assert [entry["step"] for entry in read_metrics(path)] == [1, 2, 3, 4]
  truncate_metrics(path, 0)
  assert path.read_bytes() == b""


def test_a_line_without_its_end_is_not_kept(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n{"step": 2}')  # a number may have been cut, whole as it looks
  truncate_metrics(path, 5)
  assert path.read_bytes() == b'{"step": 1}\n'


def test_no_file_stays_no_file(tmp_path):
  truncate_metrics(tmp_path / "metrics.jsonl", 3)
  assert not (tmp_path / "metrics.jsonl").exists()
  assert read_metrics(tmp_path / "metrics.jsonl") == []


@settings(
  max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(garbage=st.binary(max_size=60), step=st.integers(0, 3))
def test_garbage_never_stops_a_run(tmp_path, garbage, step):
  path = tmp_path / "metrics.jsonl"
  good = [b'{"step": %d, "l1": 0.5}\n' % i for i in range(4)]
  path.write_bytes(good[0] + good[1] + garbage + b"\n" + good[2] + good[3] + garbage)
  truncate_metrics(path, step)
  kept = path.read_bytes()
  assert all(line in kept for line in good[: step + 1])
  assert all(entry["step"] <= step for entry in read_metrics(path))


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(run_folder.jax, "process_index", lambda: 1)
  (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
  log = Writer(tmp_path / "route")
  log.write_scalars(1, {"l1": 1.0})
  log.flush()
  log.close()
  truncate_metrics(tmp_path / "metrics.jsonl", 0)
  assert not (tmp_path / "route").exists()
  assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 9}\n'


class Board:
  """Stands in for clu's TensorBoard writer, whose TensorFlow is 2 GB."""

  def __init__(self, folder):
    self.folder, self.calls = folder, []

  def __getattr__(self, name):
    return lambda *arguments: self.calls.append((name, arguments))


def test_tensorboard_gets_the_same_where_tensorflow_is(tmp_path, monkeypatch):
  hidden = []
  config = types.SimpleNamespace(set_visible_devices=lambda *a: hidden.append(a))
  monkeypatch.setattr(run_folder.importlib.util, "find_spec", lambda _: object())
  monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config))
  boards = []

  def summary_writer(folder):
    boards.append(Board(folder))
    return boards[0]

  metric_writers = types.SimpleNamespace(SummaryWriter=summary_writer)
  monkeypatch.setitem(sys.modules, "clu.metric_writers", metric_writers)
  import clu

  monkeypatch.setattr(clu, "metric_writers", metric_writers, raising=False)
  log = Writer(tmp_path)
  log.write_scalars(2, {"l1": np.float32(0.5)})
  log.close()
  (board,) = boards
  assert board.folder == str(tmp_path / "tensorboard")
  assert hidden == [([], "GPU")]
  names = [name for name, _ in board.calls]
  assert names == ["write_scalars", "flush", "close"]
  assert board.calls[0][1] == (2, {"l1": 0.5})


def test_without_tensorflow_there_is_no_board(tmp_path, monkeypatch):
  monkeypatch.setattr(run_folder.importlib.util, "find_spec", lambda _: None)
  log = Writer(tmp_path)
  log.write_scalars(1, {"l1": 1.0})
  log.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]
