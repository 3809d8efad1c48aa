"""A route, or a baseline, is one folder and one entry in a list: nothing else names them."""

from pathlib import Path

import pytest

from hiresmed_jax import explain, routes, train
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import baselines, settings
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run

BIAS = f"{tiny.__file__}:bias"


@pytest.fixture
def fifth(monkeypatch):
  monkeypatch.setattr(routes, "__path__", [*routes.__path__, str(Path(__file__).parent)])
  monkeypatch.setattr(routes, "ROUTES", (*routes.ROUTES, "bias"))


def test_it_trains_and_is_trained_then(fifth, tmp_path, capsys):
  command = ["--config", BIAS, "--workdir", str(tmp_path)]
  assert train.main(command) == 0
  assert (tmp_path / "bias" / "DONE.json").is_file()
  assert train.main(command) == 0
  assert "bias is trained already" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"another config \(bias.rate: 0.5 -> 0.25\)"):
    train.main([*command, "--config.bias.rate=0.25"])


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(fifth, tmp_path):
  def outcome(name):
    folder = tmp_path / name / "bias"
    return tiny_run.metrics(folder), (folder / "DONE.json").read_text()

  commands = [["--config", BIAS, "--workdir", str(tmp_path / name)] for name in ("whole", "two")]
  assert train.main(commands[0]) == 0
  calls = iter(range(1, 100))
  with tiny_run.asked(lambda _: next(calls) == 4):
    assert train.main(commands[1]) == 143
  assert not (tmp_path / "two" / "bias" / "DONE.json").exists()
  assert train.main(commands[1]) == 0
  assert outcome("two") == outcome("whole")


def test_its_settings_are_checked_and_explained(fifth, capsys):
  assert settings.wanted(load_config(f"{tiny.__file__}:all"))[-1] == "bias"
  explain.main(["--config", BIAS, "--config.bias.rate=0.2"])
  text = capsys.readouterr().out
  assert "ROUTE bias\n1 parameter" in text
  assert "bias.rate: paper 0.1; here 0.2\n    because fewer steps" in text
  assert "the mean: paper nothing; here a bias" in text
  for override, line in (
    ("bias.rate=2", "bias.rate=2.0: use a number from 0 to 1"),
    ("bias.batch_size=9", "cannot be split over 8 devices"),
    ("bias.ratio=1", "did you mean config.bias.rate"),
  ):
    with pytest.raises(UserError, match=line):
      explain.main(["--config", BIAS, f"--config.{override}"])


def test_a_baseline_costs_the_same_and_is_trained_only_by_name(monkeypatch, tmp_path, capsys):
  here = str(Path(__file__).parent)
  monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, here])
  monkeypatch.setattr(routes, "BASELINES", (*routes.BASELINES, "bias"))
  assert settings.wanted(load_config(f"{tiny.__file__}:all")) == routes.ROUTES
  assert train.main(["--config", BIAS, "--workdir", str(tmp_path)]) == 0
  assert (tmp_path / "bias" / "DONE.json").is_file()
  assert not (tmp_path / "data.json").exists()  # nothing for `synthesize`
  explain.main(["--config", BIAS])
  assert "ROUTE bias\n1 parameter" in capsys.readouterr().out
