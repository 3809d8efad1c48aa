"""The list of commands, the script `hiresmed`, and which program usage lines name."""

import importlib
import subprocess
import sys

import pytest

from hiresmed_jax import __main__ as entry
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli
from tests.test_floors import FLOORS, PACKAGE
from tests.test_packaging import PROJECT


def called_as(monkeypatch, program):
  monkeypatch.setattr(sys, "argv", [program])


@pytest.mark.parametrize(
  ("program", "start"),
  [("/venv/bin/hiresmed", "hiresmed "), ("x/__main__.py", "python -m hiresmed_jax.")],
)
def test_every_command_is_listed_as_it_is_called(monkeypatch, capsys, program, start):
  called_as(monkeypatch, program)
  entry.main([])
  told, _, codes = capsys.readouterr().out.partition("\n\n")
  lines = told.splitlines()
  assert [int(line.split()[0]) for line in codes.splitlines()[1:]] == list(cli.EXIT_CODES)
  names = [line.removeprefix(start).split()[0] for line in lines if line.startswith(start)]
  assert names == list(entry.COMMANDS)
  assert len(lines) == len(names)
  assert max(map(len, lines)) <= 120


def test_the_list_is_what_exists():
  commands = [name for name in FLOORS[-1] if name not in ("__main__", "api")]
  assert set(entry.COMMANDS) == {c for c in commands if (PACKAGE / f"{c}.py").is_file()}


@pytest.mark.parametrize("command", entry.COMMANDS)
def test_usage_and_examples_name_the_program_that_was_called(monkeypatch, capsys, command):
  called_as(monkeypatch, "/venv/bin/hiresmed")
  with pytest.raises(SystemExit) as left:
    entry.main([command, "--help"])
  told = capsys.readouterr().out
  assert left.value.code == 0
  assert told.startswith(f"usage: hiresmed {command} ")
  assert "python -m" not in told
  called_as(monkeypatch, "x/train.py")
  with pytest.raises(SystemExit):
    importlib.import_module(f"hiresmed_jax.{command}").main(["--help"])
  assert capsys.readouterr().out.startswith(f"usage: python -m hiresmed_jax.{command} ")


def test_a_command_gets_the_other_arguments_and_gives_the_exit_code(monkeypatch):
  from hiresmed_jax import train

  monkeypatch.setattr(train, "main", lambda argv: len(argv))
  assert entry.main(["train", "--config", "demo.py", "train"]) == 3


@pytest.mark.parametrize(
  ("program", "argument", "line"),
  [
    ("hiresmed", "trian", "no command 'trian'; did you mean hiresmed train?"),
    ("x.py", "trian", "no command 'trian'; did you mean python -m hiresmed_jax.train?"),
    ("hiresmed", "xyz", "no command 'xyz'; hiresmed lists them"),
  ],
)
def test_an_unknown_command_suggests_the_near_one(monkeypatch, capsys, program, argument, line):
  called_as(monkeypatch, program)
  with pytest.raises(UserError):
    entry.main([argument])
  with pytest.raises(SystemExit) as left:
    cli.run(entry.main, [argument])
  assert left.value.code == 2
  assert capsys.readouterr().err == f"error: {line}\n"


def test_the_script_is_installed_and_starts():
  module, _, function = PROJECT["project"]["scripts"]["hiresmed"].partition(":")
  start = f"import sys; sys.argv[0] = 'hiresmed'; from {module} import {function}; {function}()"
  done = subprocess.run(
    [sys.executable, "-c", start, "wieghts"], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr == "error: no command 'wieghts'; did you mean hiresmed weights?\n"
