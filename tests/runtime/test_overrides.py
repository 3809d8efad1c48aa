import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.overrides import apply_override, leaves, parse_value

FINITE = st.floats(allow_nan=False)
LEAF = st.one_of(st.booleans(), st.integers(), FINITE)


@given(LEAF, LEAF)
def test_a_value_written_out_is_read_back_or_refused(value, like):
  kinds = (type(like), type(value))
  if kinds in ((float, int), (int, float)):
    return  # see the two tests below
  if kinds[0] is kinds[1] or (kinds[0] is bool and str(value) in ("0", "1")):
    parsed = parse_value(str(value), like=like)
    assert type(parsed) is type(like)
    assert parsed == value
  else:
    with pytest.raises(ValueError, match="expected"):
      parse_value(str(value), like=like)


@given(st.integers())
def test_an_integer_fits_a_float(value):
  parsed = parse_value(str(value), like=0.5)
  assert isinstance(parsed, float)
  assert parsed == float(value)


@given(FINITE)
def test_a_float_fits_an_integer_only_when_it_is_one(value):
  if math.isfinite(value) and value.is_integer():
    assert parse_value(repr(value), like=3) == int(value)
  else:
    with pytest.raises(ValueError, match="an integer"):
      parse_value(repr(value), like=3)


@given(st.lists(st.integers(), min_size=1), st.booleans())
def test_tuples_with_and_without_brackets(values, as_list):
  text = str(values) if as_list else ",".join(map(str, values))
  assert parse_value(text, like=(1, 2)) == tuple(values)
  assert parse_value(text, like=(1.0,)) == tuple(float(v) for v in values)
  assert all(isinstance(v, float) for v in parse_value(text, like=(1.0,)))


@given(st.text(), st.one_of(st.none(), LEAF, st.just(()), st.just((1,)), st.just(("a",))))
def test_wild_text_gives_a_value_or_a_value_error(text, like):
  try:
    value = parse_value(text, like=like)
  except ValueError:
    return
  if value is not None and like is not None:
    assert type(value) is type(like)


@given(st.text().filter(lambda text: not text.strip().startswith("(")))
def test_text_stays_text(text):
  expected = None if text.strip() == "None" else text.strip()
  assert parse_value(text, like="l1") == expected


@pytest.mark.parametrize(
  ("text", "like", "value"),
  [
    ("None", "vgg16", None),
    ("None", 3, None),
    ("1e5", 10, 100_000),
    ("1_000", 10, 1000),
    ("inf", 1.0, math.inf),
    ("7", None, 7),
    ("(1, 1)", None, (1, 1)),
    ("[1, [2, 3]]", None, (1, (2, 3))),
    ("alex", None, "alex"),
    ("()", (1, 2), ()),
    ("4", (1, 2), (4,)),
    ("color,cutout", (), ("color", "cutout")),
    ("('color', 'cutout')", ("x",), ("color", "cutout")),
    ("2,0.5", (1, 0.5), (2.0, 0.5)),
    ("TRUE", False, True),
    ("(-1000, 400)", "stored", (-1000, 400)),
    ("(1", "stored", "(1"),
    ("()", "stored", "()"),
    ("1,2", "stored", "1,2"),
    ("{1}", "stored", "{1}"),
  ],
)
def test_examples(text, like, value):
  parsed = parse_value(text, like=like)
  assert parsed == value
  assert type(parsed) is type(value)


@pytest.mark.parametrize(
  ("text", "like"),
  [
    ("nan", 1.0),
    ("1.5", 1),
    ("True", 1),
    ("l1", 1.0),
    ("None", True),
    ("2", True),
    ("1.5,2", (1, 2)),
    ("1,x", (1.0,)),
    ("{1: 2}", None),
    ("{1}", 1),
    ("b'x'", None),
    ("1j", 1.0),
    ("9" * 5000, 1),
    ("9" * 400, 1.0),
    ("__import__('os')", 1),
  ],
)
def test_refused(text, like):
  with pytest.raises(ValueError, match="expected"):
    parse_value(text, like=like)


def config():
  optim = {"learning_rate": 1e-3, "betas": (0.5, 0.9)}
  values = {"seed": 0, "optim": optim, "net": {"width": 8}, "window": "stored"}
  return ConfigDict(values).lock()


def test_apply_override_keeps_everything_else():
  changed = config()
  apply_override(changed, "optim.learning_rate=1")
  apply_override(changed, "optim.betas=0.9,0.99")
  apply_override(changed, "window=(0,255)")
  assert dict(leaves(changed)) == {
    "seed": 0,
    "optim.learning_rate": 1.0,
    "optim.betas": (0.9, 0.99),
    "net.width": 8,
    "window": (0, 255),
  }


@pytest.mark.parametrize(
  ("override", "line"),
  [
    ("optim.learning_rat=1", "did you mean config.optim.learning_rate?"),
    ("learning_rate=1", "did you mean config.optim.learning_rate?"),
    ("sed=1", "did you mean config.seed?"),
    ("seed.x=1", "no key config.seed.x"),
    ("zzz=1", "there are net, optim, seed, window"),
    ("=1", "no key"),
    ("optim=1", "config.optim is a group: set one of optim.betas, optim.learning_rate"),
    ("seed", "--config.seed=VALUE"),
    ("seed=x", "--config.seed=x: expected an integer, not 'x'"),
  ],
)
def test_mistakes_are_told_in_one_line(override, line):
  with pytest.raises(UserError) as mistake:
    apply_override(config(), override)
  assert line in str(mistake.value)
  assert "\n" not in str(mistake.value)
