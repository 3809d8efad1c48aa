import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.config import differences, hash_values, load_config, to_json

FILE = '''
"""A config."""

def get_config(arg):
  return {
    "route": arg, "preset": "paper", "size": [64, 64], "seed": 0,
    "optim": {"learning_rate": 1e-3, "stages": [[1, 2], [3, 4]]}, "net": None,
  }
'''


@pytest.fixture
def spec(tmp_path: Path) -> str:
  path = tmp_path / "toy.py"
  path.write_text(FILE)
  return str(path)


def test_loads_locks_and_makes_tuples(spec):
  config = load_config(spec)
  assert (config.route, config.preset) == ("all", "paper")
  assert config.size == (64, 64)
  assert config.optim.stages == ((1, 2), (3, 4))
  assert config.is_locked
  assert config.optim.is_locked
  with pytest.raises(AttributeError):
    config.optim.rate = 1


def test_what_follows_the_colon_is_the_argument(spec):
  assert load_config(f"{spec}:danger,best").route == "danger,best"
  assert load_config(f"{spec}:").route == "all"


def test_a_colon_in_a_folder_is_of_the_path(spec, tmp_path):
  (tmp_path / "a:b").mkdir()
  shutil.copy(spec, tmp_path / "a:b" / "toy.py")
  assert load_config(f"{tmp_path}/a:b/toy.py").route == "all"
  assert load_config(f"{tmp_path}/a:b/toy.py:danger").route == "danger"


def test_overrides_in_order(spec):
  config = load_config(spec, ["seed=1", "seed=2", "net=vgg16", "size=(8,9)"])
  assert (config.seed, config.net, config.size) == (2, "vgg16", (8, 9))


@pytest.mark.parametrize(
  ("override", "line"),
  [
    ("optim.learning_rte=1", "did you mean config.optim.learning_rate?"),
    ("seed=0.5", "expected an integer"),
    ("preset=best", "after the colon: --config toy.py:all,best"),
  ],
)
def test_mistakes_say_what_was_meant(spec, override, line):
  with pytest.raises(UserError) as mistake:
    load_config(spec, [override])
  assert line in str(mistake.value)
  assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("def get_config(arg)\n  return {}", "line 1: SyntaxError"),
    ("x = 1", "defines no get_config"),
    ("def get_config(arg):\n  return 3", "returns int"),
    ("import no_such_package", "line 1: ModuleNotFoundError"),
    ("def get_config(arg):\n  a = 1\n  return a / 0", "line 3: ZeroDivisionError"),
    ("def get_config(arg):\n  return {'a': {'b': object()}}", "a.b is object"),
  ],
)
def test_a_broken_file_is_one_line(tmp_path, text, line):
  path = tmp_path / "broken.py"
  path.write_text(text)
  with pytest.raises(UserError) as mistake:
    load_config(str(path))
  assert "broken.py" in str(mistake.value)
  assert line in str(mistake.value)


def test_an_edit_within_the_same_second_is_seen(tmp_path):
  path = tmp_path / "c.py"
  for value in (1, 2):
    path.write_text(f"def get_config(arg):\n  return {{'a': {value}}}")
    assert load_config(str(path)).a == value


def test_names_are_looked_up_in_configs(tmp_path, monkeypatch, spec):
  folder = tmp_path / "work" / "configs" / "baselines"
  folder.mkdir(parents=True)
  (folder / "toy.py").write_text(FILE)
  monkeypatch.chdir(tmp_path / "work")
  assert load_config("baselines/toy.py:lesion").route == "lesion"
  with pytest.raises(UserError, match=r"did you mean baselines/toy\.py\?"):
    load_config("baselines/to.py")


def test_hash_is_of_the_values_alone(spec):
  one = load_config(spec)
  other = ConfigDict(json.loads(to_json(one)))  # keys in another order, lists for tuples
  assert hash_values(one) == hash_values(other)
  assert hash_values(one) != hash_values(load_config(spec, ["seed=1"]))
  known = {"b": (1, 2.5), "a": None}
  assert hash_values(ConfigDict(known)) == hash_values(known)
  assert hash_values(known) == "6b1d84977084473f4b3b012fc8f1d08257499895d136f26cc7b5c865d2f19e23"


def test_differences_against_the_saved_json(spec):
  saved = json.loads(to_json(load_config(spec)))
  assert differences(saved, load_config(spec)) == []
  changed = load_config(spec, ["seed=1", "size=8,8"])
  assert differences(saved, changed) == ["seed: 0 -> 1", "size: [64, 64] -> [8, 8]"]
  del saved["seed"]
  assert differences(saved, changed) == ["size: [64, 64] -> [8, 8]", "seed: absent -> 1"]


def test_reading_a_config_needs_no_accelerator_library(spec):
  program = (
    "import sys\nfrom hiresmed_jax.runtime.config import load_config\n"
    f"load_config({spec!r})\nassert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
