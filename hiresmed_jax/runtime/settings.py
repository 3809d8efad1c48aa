"""Settings as rows of a table, from which presets, checks, departures and upgrades are made.

The tables themselves lie in `routes`. A row that is added to one needs `as_it_was`: without it,
every run that was made before would be a run of another config.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.overrides import alternatives, leaves, nearest_keys, nearest_word
from hiresmed_jax.runtime.rules import Rule

_ALWAYS = object()  # of a setting that is as old as its table


class Setting(NamedTuple):
  """One row."""

  key: str  # dotted, below the name of the table
  paper: Any  # value in the preset `paper`
  best: Any  # value in the preset `best`
  valid: Rule  # what it may be
  # Why a value other than the paper's is taken. "": it names, seeds, watches or speeds up a run and
  # leaves the results as they are.
  why: str = ""
  as_it_was: Any = _ALWAYS  # of a setting that was added later: the value of all runs made before


class Table(NamedTuple):
  """The settings of one group of a config."""

  name: str  # of the group; "" is the top of the config
  rows: tuple[Setting, ...]  # its settings
  renamed: Mapping[str, str] = {}  # {key that runs of older versions have: key of today}
  # {key that runs of older versions have: the value that today's code stands for}.
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
  """What of a table's group differs from the preset `paper` in a way that changes results."""
  given = dict(leaves(config))
  for row in table.rows:
    if row.why and given[row.key] != row.paper:
      if row.key == "epochs" and given.get("steps"):
        continue  # steps win
      yield Departure(_key(table, row.key), str(row.paper), str(given[row.key]), row.why)


def upgraded(tables: Iterable[Table], stored: Mapping[str, Any]) -> dict[str, Any]:
  """The nested values that a run was made with, in the terms of today's tables.

  Renamed settings get their new names, removed ones that had the value that today's code stands for
  are left out, and those that did not exist then get `as_it_was`. Tables whose group the run did
  not store are not used.
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


def _key(table: Table, key: str) -> str:
  return f"{table.name}.{key}" if table.name else key


def _meant(near: Iterable[str]) -> str:
  near = list(near)
  return f"; did you mean {alternatives(near)}?" if near else ""


def _shown(value: Any) -> str:
  try:
    shown = repr(value)
  except ValueError:  # Python does not print integers of thousands of digits
    return "..."
  return shown if len(shown) <= 80 else f"{shown[:77]}..."
