"""A folder is one run's: another config, other data, or another program's files are refused."""

from pathlib import Path

import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import run_folder

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
