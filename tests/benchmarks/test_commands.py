"""Every benchmark starts, describes itself, and is listed in the README."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_shows_its_help_and_is_in_the_readme(name, capsys):
  module = importlib.import_module(f"benchmarks.{name}")
  with pytest.raises(SystemExit) as end:
    module.main(["--help"])
  assert end.value.code == 0
  shown = capsys.readouterr().out
  assert module.__doc__.splitlines()[0] in shown
  assert "--out" in shown or name == "table"
  assert f"`{name}.py`" in (FOLDER / "README.md").read_text() or name == "table"
