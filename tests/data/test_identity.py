import csv
import stat
from pathlib import Path

import pytest

from hiresmed_jax.data import identity
from hiresmed_jax.errors import UserError


def test_the_salt_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
  first, note = identity.open_identity(tmp_path / "kub", tmp_path / "out")
  again, _ = identity.open_identity(tmp_path / "kub", tmp_path / "other")
  assert note == ""
  assert first.salt == again.salt
  assert first.folder == tmp_path / "kub.private"
  assert _mode(first.folder) == 0o700
  assert _mode(first.folder / "salt") == 0o600


def test_loose_rights_of_a_salt_are_tightened(tmp_path: Path) -> None:
  key, _ = identity.open_identity(tmp_path / "kub", tmp_path / "out")
  assert key.folder is not None
  (key.folder / "salt").chmod(0o644)
  identity.open_identity(tmp_path / "kub", tmp_path / "out")
  assert _mode(key.folder / "salt") == 0o600


def test_hashes_depend_on_salt_and_meaning() -> None:
  one, two = identity.Identity(b"pepper", None), identity.Identity(b"two", None)
  assert one.group_id("Smith") != two.group_id("Smith")
  assert one.group_id("Smith") != one.image_id("Smith")
  assert one.group_id("Smith") == identity.Identity(b"pepper", None).group_id("Smith")
  assert len(one.group_id("Smith")) == 32
  assert "Smith" not in repr(one) + one.group_id("Smith")
  assert "pepper" not in repr(one)


def test_two_projects_have_two_salts(tmp_path: Path) -> None:
  one, _ = identity.open_identity(tmp_path / "a", tmp_path / "out")
  two, _ = identity.open_identity(tmp_path / "b", tmp_path / "out")
  shared, _ = identity.open_identity(tmp_path / "b", tmp_path / "out", tmp_path / "a.private")
  assert one.salt != two.salt
  assert one.salt == shared.salt


def test_a_source_on_a_read_only_medium_keeps_its_key_beside_the_dataset(tmp_path: Path) -> None:
  (tmp_path / "kub.private").write_text("in the way")
  key, note = identity.open_identity(tmp_path / "kub", tmp_path / "out")
  assert key.folder == tmp_path / "out.private"
  assert "kub.private" in note
  assert "out.private" in note


def test_no_place_for_the_key_is_one_line(tmp_path: Path) -> None:
  for name in ("kub.private", "out.private"):
    (tmp_path / name).write_text("in the way")
  with pytest.raises(UserError, match="--private DIR"):
    identity.open_identity(tmp_path / "kub", tmp_path / "out")
  with pytest.raises(UserError, match="cannot be written"):
    identity.open_identity(tmp_path / "kub", tmp_path / "out", tmp_path / "kub.private")


def test_an_empty_salt_is_never_used(tmp_path: Path) -> None:
  (tmp_path / "kub.private").mkdir()
  (tmp_path / "kub.private" / "salt").write_text("\n")
  with pytest.raises(UserError, match="is empty"):
    identity.open_identity(tmp_path / "kub", tmp_path / "out")


def test_the_table_is_the_owners_alone_and_is_replaced(tmp_path: Path) -> None:
  key, _ = identity.open_identity(tmp_path / "kub", tmp_path / "out")
  assert key.folder is not None
  path = key.folder / "out.csv"
  path.write_text("old")
  path.chmod(0o644)
  key.write_table("out", ("a", "b"), [("x, y", "ä\udcff")])
  assert _mode(path) == 0o600
  with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
    assert list(csv.reader(file)) == [["a", "b"], ["x, y", "ä\udcff"]]


def _mode(path: Path) -> int:
  return stat.S_IMODE(path.stat().st_mode)
