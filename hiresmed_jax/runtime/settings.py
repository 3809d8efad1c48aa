"""Settings as rows of a table, from which presets, checks, departures and upgrades are made.

A row is written once. Knows no route: the tables themselves lie in `routes`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.overrides import alternatives, leaves, nearest_keys, nearest_word

_ALWAYS = object()  # of a setting that is as old as its table


class Rule(NamedTuple):
  """What a value may be.

  Attributes:
    use: completes "use ...".
    allows: whether a value is one; it raises nothing, whatever the value is.
    words: the known ones, for near misses.
  """

  use: str
  allows: Callable[[Any], bool]
  words: tuple[str, ...] = ()


class Setting(NamedTuple):
  """One row.

  Attributes:
    key: dotted, below the name of the table.
    paper: value in the preset `paper`.
    best: value in the preset `best`.
    valid: what it may be.
    why: why a value other than the paper's is taken. "": it names, seeds, watches or speeds up a
      run and leaves the results as they are.
    as_it_was: of a setting that was added later: the value of all runs made before.
  """

  key: str
  paper: Any
  best: Any
  valid: Rule
  why: str = ""
  as_it_was: Any = _ALWAYS


class Table(NamedTuple):
  """The settings of one group of a config.

  Attributes:
    name: of the group; "" is the top of the config.
    rows: its settings.
    renamed: {key that runs of older versions have: key of today}.
    removed: {key that runs of older versions have: the value that today's code stands for}.
  """

  name: str
  rows: tuple[Setting, ...]
  renamed: Mapping[str, str] = {}
  removed: Mapping[str, Any] = {}


class Departure(NamedTuple):
  """One difference from the paper. `paper` and `ours` are short phrases or values."""

  what: str
  paper: str
  ours: str
  reason: str


def values(table: Table, preset: str) -> ConfigDict:
  """The table's settings with their values in the preset `paper` or `best`, nested."""
  config = ConfigDict()
  for row in table.rows:
    group, (*path, last) = config, row.key.split(".")
    for name in path:
      if name not in group:
        group[name] = ConfigDict()
      group = group[name]
    group[last] = getattr(row, preset)
  return config


def keyed(tables: Iterable[Table]) -> dict[str, Setting]:
  """{whole dotted key: row} of several tables."""
  return {_key(table, row.key): row for table in tables for row in table.rows}


def check(tables: Iterable[Table], config: Mapping[str, Any]) -> None:
  """Refuses a config that does not hold exactly the tables' settings, each with a valid value.

  Raises:
    UserError: names the key, its value and what to use.
  """
  rows, given = keyed(tables), dict(leaves(config))
  for key, value in given.items():
    if key not in rows:
      near = nearest_keys(key, rows)
      raise UserError(f"no setting is called {key}{_meant(near)}")
    rule = rows[key].valid
    if not rule.allows(value):
      items = value if isinstance(value, list | tuple) else (value,)
      word = next((item for item in items if item not in rule.words), "")
      near = nearest_word(word, rule.words) if isinstance(word, str) else []
      raise UserError(f"{key}={_shown(value)}: use {rule.use}{_meant(map(repr, near))}")
  for key in rows:
    if key not in given:
      raise UserError(f"the config does not set {key}: begin it with routes.settings.base")


def departures(table: Table, config: Mapping[str, Any]) -> Iterator[Departure]:
  """What differs from the preset `paper` in a way that changes results.

  Args:
    table: whose settings count.
    config: the values of its group.
  """
  given = dict(leaves(config))
  for row in table.rows:
    if row.why and given[row.key] != row.paper:
      if row.key == "epochs" and given.get("steps"):
        continue  # steps win
      yield Departure(_key(table, row.key), str(row.paper), str(given[row.key]), row.why)


def upgraded(tables: Iterable[Table], stored: Mapping[str, Any]) -> dict[str, Any]:
  """The values that a run was made with, in the terms of today's tables.

  Renamed settings get their new names, removed ones that had the value that today's code stands
  for are left out, and those that did not exist then get `as_it_was`.

  Args:
    tables: today's; those whose group the run did not store are not used.
    stored: nested values.

  Returns:
    Nested values, new ones.
  """
  flat = dict(leaves(stored))
  for table in tables:
    if table.name and table.name not in stored:
      continue
    for old, new in table.renamed.items():
      if _key(table, old) in flat:
        flat[_key(table, new)] = flat.pop(_key(table, old))
    for old, value in table.removed.items():
      # By JSON, in which tuples are lists.
      if _key(table, old) in flat and json.dumps(flat[_key(table, old)]) == json.dumps(value):
        del flat[_key(table, old)]
    for row in table.rows:
      if row.as_it_was is not _ALWAYS:
        flat.setdefault(_key(table, row.key), row.as_it_was)
  nested: dict[str, Any] = {}
  for key, value in flat.items():
    group, (*path, last) = nested, key.split(".")
    for name in path:
      group = group.setdefault(name, {})
    group[last] = value
  return nested


def one_of(*known: Any) -> Rule:
  """One of a few words or numbers; None may be among them."""
  words = tuple(word for word in known if isinstance(word, str))
  return Rule(alternatives(map(repr, known)), lambda value: _among(value, known), words)


def some_of(*known: Any, least: int = 0) -> Rule:
  """A tuple of some of a few words or numbers, at least `least` of them."""
  words = tuple(word for word in known if isinstance(word, str))
  number = "one or more" if least else "any"
  return Rule(
    f"{number} of {', '.join(map(repr, known))}",
    lambda value: _is_tuple(value, least) and all(_among(item, known) for item in value),
    words,
  )


def whole(low: int, high: int, note: str = "", *, multiple: int = 1) -> Rule:
  """A whole number within bounds that `multiple` divides."""
  kind = f"a multiple of {multiple}" if multiple > 1 else "a whole number"
  return Rule(
    f"{kind} from {low:,} to {high:,}{_noted(note)}",
    lambda value: _is_whole(value, low, high, multiple),
  )


def wholes(low: int, high: int, note: str = "") -> Rule:
  """A tuple of one or more whole numbers within bounds."""
  return Rule(
    f"one or more whole numbers from {low:,} to {high:,}{_noted(note)}",
    lambda value: _is_tuple(value, 1) and all(_is_whole(item, low, high) for item in value),
  )


def rows_columns(low: int, high: int, note: str = "", *, multiple: int = 1) -> Rule:
  """(rows, columns), both within bounds, that `multiple` divides."""
  kind = f"multiples of {multiple}" if multiple > 1 else "each"
  return Rule(
    f"(rows, columns), {kind} from {low:,} to {high:,} px{_noted(note)}",
    lambda value: (
      _is_tuple(value, 2)
      and len(value) == 2
      and all(_is_whole(side, low, high, multiple) for side in value)
    ),
  )


def number(low: float, high: float, note: str = "", *, below: bool = False) -> Rule:
  """A number within bounds; `below`: less than the upper one."""
  most = f"less than {high:,}" if below else f"{high:,}"
  return Rule(
    f"a number from {low:,} to {most}{_noted(note)}",
    lambda value: _is_number(value) and low <= value <= high and not (below and value == high),
  )


def share(note: str = "", *, below: bool = False) -> Rule:
  """A number from 0 to 1; `below`: less than 1."""
  return number(0, 1, note, below=below)


def flag(note: str = "") -> Rule:
  """True or False."""
  return Rule(f"True or False{_noted(note)}", lambda value: isinstance(value, bool))


def text(note: str) -> Rule:
  """Any text."""
  return Rule(note, lambda value: isinstance(value, str))


def interval(*words: str) -> Rule:
  """One of some words, or a pair of numbers of which the first is less than the second."""
  return Rule(
    f"{', '.join(map(repr, words))} or (low, high) with low below high",
    lambda value: (
      _among(value, words)
      or (
        _is_tuple(value, 2)
        and len(value) == 2
        and all(map(_is_number, value))
        and -float("inf") < value[0] < value[1] < float("inf")
      )
    ),
    words,
  )


def _key(table: Table, key: str) -> str:
  return f"{table.name}.{key}" if table.name else key


def _noted(note: str) -> str:
  return f" ({note})" if note else ""


def _meant(near: Iterable[str]) -> str:
  near = list(near)
  return f"; did you mean {alternatives(near)}?" if near else ""


def _shown(value: Any) -> str:
  try:
    shown = repr(value)
  except ValueError:  # Python does not print integers of thousands of digits
    return "..."
  return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _among(value: Any, known: Iterable[Any]) -> bool:
  # 1 is not True here.
  return any(type(value) is type(one) and value == one for one in known)


def _is_tuple(value: Any, least: int) -> bool:
  return isinstance(value, list | tuple) and len(value) >= least


def _is_whole(value: Any, low: int, high: int, multiple: int = 1) -> bool:
  whole = isinstance(value, int) and not isinstance(value, bool)
  return whole and low <= value <= high and value % multiple == 0


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
