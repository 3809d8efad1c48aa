import csv
import resource
import stat
from pathlib import Path

import pytest

from hiresmed_jax.data import identity
from hiresmed_jax.errors import UserError


def test_the_salt_is_made_once_beside_the_dataset_and_is_the_owners_alone(tmp_path: Path) -> None:
  first = identity.open_identity(tmp_path / "kub", tmp_path / "out")
  again = identity.open_identity(tmp_path / "other", tmp_path / "out")
  assert first.salt == again.salt
  assert first.folder == tmp_path / "out.private"
  assert _mode(first.folder) == 0o700
  assert {p.name: _mode(p) for p in first.folder.iterdir()} == {"salt": 0o600, ".gitignore": 0o600}
  assert (first.folder / ".gitignore").read_text() == "*\n"
  assert [p.name for p in tmp_path.iterdir()] == ["out.private"]


def test_loose_rights_of_a_salt_are_tightened(tmp_path: Path) -> None:
  key = identity.open_identity(tmp_path / "kub", tmp_path / "out")
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
  one = identity.open_identity(tmp_path / "a", tmp_path / "out")
  two = identity.open_identity(tmp_path / "a", tmp_path / "other")
  shared = identity.open_identity(tmp_path / "b", tmp_path / "third", tmp_path / "out.private")
  assert one.salt != two.salt
  assert one.salt == shared.salt


def test_the_key_beside_a_source_of_earlier_versions_is_taken_over(tmp_path: Path) -> None:
  old = identity.open_identity(tmp_path / "b", tmp_path / "x", tmp_path / "kub.private")
  new = identity.open_identity(tmp_path / "kub", tmp_path / "out")
  assert new.salt == old.salt
  assert new.folder == tmp_path / "out.private"


def test_no_place_for_the_key_is_one_line(tmp_path: Path) -> None:
  (tmp_path / "out.private").write_text("in the way")
  for private in (None, tmp_path / "out.private"):
    with pytest.raises(UserError, match="--private DIR"):
      identity.open_identity(tmp_path / "kub", tmp_path / "out", private)


def test_where_the_salt_cannot_be_written_whole_it_is_not_there(tmp_path: Path) -> None:
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
  try:
    with pytest.raises(UserError, match="cannot be written"):
      identity.open_identity(tmp_path / "kub", tmp_path / "out")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not list((tmp_path / "out.private").iterdir())
  assert len(identity.open_identity(tmp_path / "kub", tmp_path / "out").salt) == 64


def test_an_empty_salt_is_never_used(tmp_path: Path) -> None:
  (tmp_path / "out.private").mkdir()
  (tmp_path / "out.private" / "salt").write_text("\n")
  with pytest.raises(UserError, match="is empty"):
    identity.open_identity(tmp_path / "kub", tmp_path / "out")


def test_the_table_is_the_owners_alone_and_is_replaced(tmp_path: Path) -> None:
  key = identity.open_identity(tmp_path / "kub", tmp_path / "out")
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
