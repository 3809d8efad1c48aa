"""Reading a run's config: `kub.py:background,best` plus `--config.key=value` on top.

A config file is Python with one function, `get_config(arg)`, where `arg` is what follows the colon
("all" when nothing does). It returns nested dicts of numbers, strings, booleans, None and tuples.
"""

import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.overrides import apply_override, known_words, leaves

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folders() -> list[Path]:
  """Where a config's name is looked up after it was tried as a path, nearest first."""
  folders = [Path("configs"), _PACKAGE / "configs"]  # the latter in an installed wheel
  # A folder beside the package is ours in a checkout only; elsewhere that is site-packages.
  if (_PACKAGE.parent / "pyproject.toml").is_file():
    folders.insert(1, _PACKAGE.parent / "configs")
  return [folder for folder in folders if folder.is_dir()]


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """The config that `--config spec` and the overrides ask for, locked.

  Args:
    spec: "FILE.py[:ROUTE[,PRESET]]"; FILE is a path, or a name in one of `config_folders()`.
    overrides: "key=value" with dotted keys, applied in order.

  Returns:
    A locked ConfigDict whose leaves are numbers, strings, booleans, None and tuples of them.

  Raises:
    UserError: no such file, a file that does not run, an unknown route, preset or key, a value of
      another type; the line names what was probably meant.
  """
  name, argument = _split(spec)
  path = _find(name)
  config = _as_config(_run_file(path, argument), f"{path.name}: ")
  for override in overrides:
    if override.startswith("preset="):  # which would change the name and none of the values
      wanted = override.removeprefix("preset=")
      raise UserError(f"a preset is chosen after the colon: --config {path.name}:all,{wanted}")
    apply_override(config, override)
  return config.lock()


def to_json(config: Mapping[str, Any] | ConfigDict, *, indent: int | None = 2) -> str:
  """The config as JSON with sorted keys; equal configs give equal text."""
  values = config.to_dict() if isinstance(config, ConfigDict) else config
  return json.dumps(values, sort_keys=True, indent=indent)


def hash_values(config: Mapping[str, Any] | ConfigDict) -> str:
  """sha256 (64 hex digits) of the config's JSON: the same on every machine and Python."""
  return hashlib.sha256(to_json(config, indent=None).encode()).hexdigest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
  """Lines "key: old -> new" between two configs, either of which may have been read from JSON.

  Changed values come first, then what only one of them has.
  """
  old, new = dict(leaves(before)), dict(leaves(after))
  return [
    f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
    for key in [*sorted(old.keys() & new.keys()), *sorted(old.keys() ^ new.keys())]
    if _shown(old, key) != _shown(new, key)
  ]


def _shown(values: dict[str, Any], key: str) -> str:
  # JSON text, so that a tuple equals the list that it became on disk.
  return json.dumps(values[key]) if key in values else "absent"


def _split(spec: str) -> tuple[str, str]:
  name, colon, argument = spec.rpartition(":")
  if not colon or "/" in argument or argument.endswith(".py"):  # the colon is of the path
    return spec, "all"
  return name, argument.strip() or "all"


def _find(name: str) -> Path:
  folders = config_folders()
  for path in [Path(name), *(folder / name for folder in folders)]:
    if path.is_file():
      return path
  known = [p.relative_to(f).as_posix() for f in folders for p in sorted(f.rglob("*.py"))]
  raise UserError(f"no config {name!r}{known_words(name, dict.fromkeys(known))}")


def _run_file(path: Path, argument: str) -> Any:
  module = types.ModuleType(path.stem)
  module.__file__ = str(path)
  try:
    # Compiled here and not imported: an import leaves bytecode behind that a quick edit outlives.
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    if not hasattr(module, "get_config"):
      raise UserError("it defines no get_config(arg)")
    return module.get_config(argument)
  except UserError as mistake:
    raise UserError(f"{path.name}: {mistake}") from mistake
  except Exception as error:
    raise UserError(
      f"{path}, line {_line_in(path, error)}: {type(error).__name__}: {error}"
    ) from error


def _line_in(path: Path, error: Exception) -> int | None:
  if isinstance(error, SyntaxError):
    return error.lineno
  line, trace = None, error.__traceback__
  while trace:
    if trace.tb_frame.f_code.co_filename == str(path):
      line = trace.tb_lineno
    trace = trace.tb_next
  return line


def _as_config(values: Any, where: str) -> ConfigDict:
  if not isinstance(values, Mapping | ConfigDict):
    raise UserError(f"{where}get_config returns {type(values).__name__}, not a dict")
  config = ConfigDict()
  for key in values:
    config[key] = _as_value(values[key], f"{where}{key}")
  return config


def _as_value(value: Any, where: str) -> Any:
  if isinstance(value, Mapping | ConfigDict):
    return _as_config(value, f"{where}.")
  if isinstance(value, list | tuple):
    return tuple(_as_value(item, where) for item in value)
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise UserError(
    f"{where} is {type(value).__name__}: a config holds numbers, strings, booleans, None and tuples"
  )
