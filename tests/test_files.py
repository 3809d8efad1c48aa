"""Files are written whole or not at all."""

import resource

import numpy as np
import pytest

from hiresmed_jax import files
from hiresmed_jax.errors import UserError


@pytest.fixture
def small_disk():
  """No file may grow beyond 4 KB, as on a disk that is nearly full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_file_takes_the_place_of_the_old_and_nothing_else_is_left(tmp_path):
  path = tmp_path / "a" / "b"
  files.write(path, b"one")
  files.write(path, b"two")
  assert path.read_bytes() == b"two"
  assert list(path.parent.iterdir()) == [path]


def test_json_is_indented_and_ends_in_a_newline(tmp_path):
  files.write_json(tmp_path / "x.json", {"b": [1], "a": None}, sort_keys=True)
  wanted = '{\n  "a": null,\n  "b": [\n    1\n  ]\n}\n'
  assert (tmp_path / "x.json").read_text() == wanted
  with pytest.raises(ValueError, match="JSON"):
    files.write_json(tmp_path / "x.json", float("nan"), allow_nan=False)
  assert (tmp_path / "x.json").read_text() == wanted


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, small_disk):
  files.write_npz(tmp_path / "x.npz", {"a": np.arange(3)})
  with pytest.raises(UserError, match=r"cannot write .*x.npz: File too large"):
    files.write_npz(tmp_path / "x.npz", {"a": np.zeros(10_000)})
  assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
  with np.load(tmp_path / "x.npz") as found:
    np.testing.assert_array_equal(found["a"], np.arange(3))


def test_where_nothing_can_be_written_one_line_says_so(tmp_path):
  (tmp_path / "a").write_text("a file")
  with pytest.raises(UserError, match="cannot write"):
    files.write(tmp_path / "a" / "b", b"")
