import pytest

from hiresmed_jax import __main__ as entry
from hiresmed_jax.errors import UserError
from tests.test_floors import FLOORS, PACKAGE


def test_every_command_is_listed_on_its_line(capsys):
  entry.main([])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[2] for line in lines] == [f"hiresmed_jax.{c}" for c in entry.COMMANDS]
  assert max(map(len, lines)) <= 120


def test_the_list_is_what_exists():
  commands = [name for name in FLOORS[-1] if name != "__main__"]
  assert set(entry.COMMANDS) == {c for c in commands if (PACKAGE / f"{c}.py").is_file()}


@pytest.mark.parametrize(
  ("argument", "line"), [("trian", r"hiresmed_jax\.train"), ("xyz", "lists")]
)
def test_an_argument_is_a_mistake(argument, line):
  with pytest.raises(UserError, match=line):
    entry.main([argument])
