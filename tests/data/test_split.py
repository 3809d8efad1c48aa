import hashlib

from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.data.identity import SPLITS, split_of


def test_known_groups() -> None:
  # From `sha256sum` and `bc`; a change here moves patients between splits.
  known = {"acq001": "test", "acq002": "train", "1CT1": "test"}
  assert {name: split_of(name) for name in known} == known


@given(st.text())
def test_every_name_has_one_split(name: str) -> None:
  assert split_of(name) in SPLITS
  assert split_of(name) == split_of(str(name)) == _by_digits(name)


def test_about_one_group_in_five_is_held_out() -> None:
  splits = [split_of(f"group {i}") for i in range(2000)]
  assert abs(splits.count("test") / 2000 - 0.2) < 0.03
  assert abs(splits.count("val") / 2000 - 0.2) < 0.03


def _by_digits(name: str) -> str:
  """The rule once more, in long division by 5 over the hexadecimal digits."""
  remainder = 0
  for digit in hashlib.sha256(name.encode("utf-8")).hexdigest():
    remainder = (16 * remainder + int(digit, 16)) % 5
  return {0: "test", 1: "val"}.get(remainder, "train")
