"""Rules refuse what they should and raise nothing; a table gives presets, checks and upgrades."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import rules, settings
from hiresmed_jax.runtime.overrides import leaves
from hiresmed_jax.runtime.settings import Setting, Table

RULES = {
  "one_of": rules.one_of("hdfb", "residual", None),
  "numbers": rules.one_of(1, 3),
  "some_of": rules.some_of("color", "cutout"),
  "least": rules.some_of(32, 48, least=1),
  "whole": rules.whole(1, 512),
  "multiple": rules.whole(0, 512, multiple=32),
  "wholes": rules.wholes(1, 64),
  "rows_columns": rules.rows_columns(16, 512, multiple=16),
  "number": rules.number(0, 10),
  "below": rules.share(below=True),
  "flag": rules.flag(),
  "text": rules.text("any text"),
  "interval": rules.interval("stored", "percentile"),
}
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
ANYTHING = st.recursive(PLAIN, lambda inner: st.lists(inner).map(tuple), max_leaves=5)


@pytest.mark.parametrize(
  ("rule", "good", "bad"),
  [
    ("one_of", ["hdfb", None], ["", "HDFB", 0, ("hdfb",)]),
    ("numbers", [1, 3], [2, True, 1.0, "1"]),
    ("some_of", [(), ("color",), ["cutout", "color"]], ["color", ("hue",), (1,)]),
    ("least", [(32,), (48, 32)], [(), (33,), 32, (True,)]),
    ("whole", [1, 512], [0, 513, 1.0, True, None, -1]),
    ("multiple", [0, 64], [16, 544]),
    ("wholes", [(1,), (64, 2)], [(), 3, (0,), (2, 2.5), (2, None)]),
    ("rows_columns", [(16, 512)], [(16,), 16, (16, 16, 16), (16, 17), (0, 16), "ab"]),
    ("number", [0, 10, 0.5], [-0.1, 10.1, math.nan, math.inf, True, "1", None]),
    ("below", [0.0, 0.999], [1.0, 1, -0.001]),
    ("flag", [True, False], [0, 1, "True", None]),
    ("text", ["", "x"], [None, 1]),
    ("interval", ["stored", (-1.0, 1)], ["other", (1, 1), (0, math.inf), (0,), (math.nan, 1), 5]),
  ],
)
def test_what_a_rule_allows(rule, good, bad):
  assert [value for value in good if not RULES[rule].allows(value)] == []
  assert [value for value in bad if RULES[rule].allows(value)] == []


@given(ANYTHING)
def test_no_value_is_too_strange_for_a_check(value):
  for name, rule in RULES.items():
    table = Table("group", (Setting(name, None, None, rule),))
    config = ConfigDict({"group": {name: value}}, convert_dict=True)
    if rule.allows(value):
      settings.check([table], config)
      continue
    with pytest.raises(UserError) as refused:
      settings.check([table], config)
    assert f"group.{name}=" in str(refused.value)
    assert rule.use in str(refused.value)
    assert len(str(refused.value)) < 400


TOP = Table("", (Setting("seed", 0, 0, rules.whole(0, 9)),))
NET = Table(
  "net",
  (
    Setting("width", 64, 32, rules.whole(1, 512), "the width that this budget allows"),
    Setting("block.kind", "hdfb", "hdfb", RULES["one_of"], "another block"),
    Setting("epochs", 9, 9, rules.whole(0, 99), "another length"),
    Setting("steps", 0, 0, rules.whole(0, 99), "another length"),
    Setting("log_every", 10, 10, rules.whole(1, 99)),
  ),
)


def config(**changes):
  made = settings.values(TOP, "paper")
  made.net = settings.values(NET, "paper")
  made.net.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
  return made


def test_a_preset_has_every_row():
  assert dict(leaves(settings.values(NET, "best"))) == {
    "width": 32,
    "block.kind": "hdfb",
    "epochs": 9,
    "steps": 0,
    "log_every": 10,
  }


def test_a_check_names_key_value_and_what_to_use():
  settings.check([TOP, NET], config())
  with pytest.raises(UserError, match=r"net\.width=0: use a whole number from 1 to 512"):
    settings.check([TOP, NET], config(width=0))
  with pytest.raises(UserError, match=r"net\.block\.kind='hdbf': use .*did you mean 'hdfb'\?"):
    settings.check([TOP, NET], config(block__kind="hdbf"))
  with pytest.raises(UserError, match=r"net\.width=\.\.\.: use"):
    settings.check([TOP, NET], config(width=10**6000))  # which Python does not print


def test_a_config_has_the_tables_settings_and_no_others():
  more, fewer = config(), config()
  more.net.widht = 3
  with pytest.raises(UserError, match=r"no setting is called net\.widht; did you mean net\.width"):
    settings.check([TOP, NET], more)
  del fewer.net.width
  with pytest.raises(UserError, match=r"does not set net\.width"):
    settings.check([TOP, NET], fewer)


def test_departures_are_changed_values_that_change_results():
  def found(**changes):
    return [row[:3] for row in settings.departures(NET, config(**changes).net)]

  assert found(log_every=3) == []
  assert found(width=16, epochs=3) == [("net.width", "64", "16"), ("net.epochs", "9", "3")]
  assert found(steps=5, epochs=3) == [("net.steps", "0", "5")]  # which win over epochs


def test_what_a_later_version_added_renamed_and_removed():
  table = NET._replace(
    rows=(
      *NET.rows,
      Setting("p2", True, True, rules.flag(), as_it_was=False),
      Setting("block.rate", 0.1, 0.1, rules.share(), as_it_was=0.0),
    ),
    renamed={"channels": "width"},
    removed={"norm": [32, "group"], "bias": True},
  )
  old = {"seed": 3, "net": {"channels": 8, "block": {"kind": "hdfb"}, "norm": [32, "group"]}}
  kept = {"seed": 3, "net": {"width": 8, "block": {"kind": "hdfb", "rate": 0.0}, "p2": False}}
  assert settings.upgraded([TOP, table], old) == kept
  assert settings.upgraded([TOP, table], kept) == kept
  assert old["net"]["channels"] == 8  # which is not changed in place
  # A value that today's code does not stand for stays, and with it the difference.
  other = {"net": {"width": 8, "bias": False}}
  assert settings.upgraded([TOP, table], other)["net"]["bias"] is False
  # A run stores the groups that count for it; the others are not made up.
  assert settings.upgraded([TOP, table], {"seed": 1, "data": {"size": [8, 8]}}) == {
    "seed": 1,
    "data": {"size": [8, 8]},
  }
