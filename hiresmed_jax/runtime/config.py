"""Reading a run's config: `kub.py:background,best` plus `--config.key=value` on top.

A config file is Python with one function, `get_config(arg)`, where `arg` is what follows the colon
("all" when nothing does). It returns nested dicts of numbers, strings, booleans, None and tuples;
`route_and_preset(arg, ...)` reads the argument and says what was meant when it is wrong.
"""

import difflib
import hashlib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.overrides import apply_override, leaves

ROUTES = ("all", "background", "lesion", "location", "danger")

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folders() -> list[Path]:
  """Where a config's name is looked up after it was tried as a path, nearest first."""
  folders = [Path("configs"), _PACKAGE / "configs"]  # the latter in an installed wheel
  # A folder beside the package is ours in a checkout only; elsewhere that is site-packages.
  if (_PACKAGE.parent / "pyproject.toml").is_file():
    folders.insert(1, _PACKAGE.parent / "configs")
  return [folder for folder in folders if folder.is_dir()]


def config_name(spec: str) -> str:
  """ "kub" of "some/folder/kub.py:background,best"; names the default workdir."""
  return Path(_split(spec)[0]).stem


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
    apply_override(config, override)
  return config.lock()


def route_and_preset(
  arg: str, *, presets: Sequence[str], routes: Sequence[str] = ROUTES
) -> tuple[str, str]:
  """Reads "ROUTE[,PRESET]" for a config file; its first preset is the default.

  Raises:
    UserError: a route or preset that the file does not know.
  """
  route, _, preset = arg.partition(",")
  route, preset = route.strip() or "all", preset.strip() or presets[0]
  if route not in routes:
    if arg.strip() in presets:
      raise UserError(f"{route} is a preset, not a route: write ROUTE,{route}, e.g. all,{route}")
    raise UserError(f"unknown route {route!r}{_meant(route, routes)}")
  if preset not in presets:
    raise UserError(f"unknown preset {preset!r}{_meant(preset, presets)}")
  return route, preset


def to_json(config: Mapping[str, Any] | ConfigDict, *, indent: int | None = 2) -> str:
  """The config as JSON with sorted keys; equal configs give equal text."""
  values = config.to_dict() if isinstance(config, ConfigDict) else config
  return json.dumps(values, sort_keys=True, indent=indent)


def hash_values(config: Mapping[str, Any] | ConfigDict) -> str:
  """sha256 (64 hex digits) of the config's JSON: the same on every machine and Python."""
  return hashlib.sha256(to_json(config, indent=None).encode()).hexdigest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
  """Lines "key: old -> new" between two configs, either of which may have been read from JSON."""
  old, new = dict(leaves(before)), dict(leaves(after))
  return [
    f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
    for key in sorted(old.keys() | new.keys())
    if _shown(old, key) != _shown(new, key)
  ]


def _shown(values: dict[str, Any], key: str) -> str:
  # JSON text, so that a tuple equals the list that it became on disk.
  return json.dumps(values[key]) if key in values else "absent"


def _split(spec: str) -> tuple[str, str]:
  name, _, argument = spec.partition(":")
  return name, argument.strip() or "all"


def _find(name: str) -> Path:
  folders = config_folders()
  for path in [Path(name), *(folder / name for folder in folders)]:
    if path.is_file():
      return path
  known = [p.relative_to(f).as_posix() for f in folders for p in sorted(f.rglob("*.py"))]
  raise UserError(f"no config {name!r}{_meant(name, dict.fromkeys(known))}")


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


def _meant(name: str, known: Iterable[str]) -> str:
  known = list(known)
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return (f"; did you mean {near[0]}?" if near else "") + f" (there are {', '.join(known)})"
