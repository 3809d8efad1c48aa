"""Files are written whole or not at all."""

import contextlib
import os
import resource
import subprocess
import sys
import threading

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


MACHINE = files._own().split("-")[1]


def stray(folder) -> None:
  """What a killed process leaves of a file that it was writing."""
  with subprocess.Popen(["true"]) as gone:
    pass
  (folder / f".x.json.{gone.pid}-{MACHINE}-1.partial").write_bytes(b"half")


def test_a_folder_is_held_by_one_process_or_shared(tmp_path):
  folder = tmp_path / "a" / "b"
  with files.locked(folder):
    for shared in (False, True):
      with pytest.raises(UserError, match=f"another process writes {folder} now"):
        files.locked(folder, shared=shared).__enter__()
  assert not folder.exists()  # nothing was put into it
  folder.mkdir()
  stray(folder)
  with files.locked(folder, shared=True), files.locked(folder, shared=True):
    assert not list(folder.iterdir())
    (folder / "x").write_text("")
    with pytest.raises(UserError, match="another process"):
      files.locked(folder).__enter__()
  with files.locked(folder):
    assert (folder / "x").is_file()


def test_who_shares_a_folder_waits_while_another_one_cleans_it(tmp_path, monkeypatch):
  cleaning, over = threading.Event(), threading.Event()

  def remove(_) -> None:
    cleaning.set()
    over.wait(60)

  def first() -> None:
    with files.locked(tmp_path, shared=True):
      pass

  monkeypatch.setattr(files, "_remove_strays", remove)
  other = threading.Thread(target=first)
  other.start()
  assert cleaning.wait(60)
  monkeypatch.setattr(files, "_PATIENCE", 0.1)
  with pytest.raises(UserError, match="another process"):
    files.locked(tmp_path, shared=True).__enter__()
  monkeypatch.setattr(files, "_PATIENCE", 60.0)
  threading.Timer(0.2, over.set).start()
  with files.locked(tmp_path, shared=True):
    assert over.is_set()
  other.join()


def test_who_has_patience_waits_and_a_folder_that_others_share_stays(tmp_path):
  folder = tmp_path / "a"
  with contextlib.ExitStack() as later:
    with files.locked(folder, shared=True):
      later.enter_context(files.locked(folder, shared=True))
    assert folder.is_dir()  # though the first one has made it, and it is empty
    with pytest.raises(UserError, match="another process"):
      files.locked(folder, patience=0.1).__enter__()
    threading.Timer(0.2, later.close).start()
    with files.locked(folder, patience=60.0):
      pass


def test_a_file_that_is_there_stays_where_it_is_not_replaced(tmp_path):
  for content in (b"first", b"second"):
    files.write(tmp_path / "x", content, replace=False)
  assert (tmp_path / "x").read_bytes() == b"first"
  assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_one_process_makes_a_folder_and_what_a_killed_one_left_is_removed(tmp_path):
  out = tmp_path / "out"
  (tmp_path / ".out.partial" / "records").mkdir(parents=True)
  (tmp_path / ".out.old").mkdir()  # killed while the old and the new one were swapped
  (tmp_path / ".out.old" / "old").write_text("")
  with files.whole_folder(out) as folder:
    assert not list(folder.iterdir())
    assert (out / "old").is_file()
    (folder / "new").write_text("")
    with pytest.raises(UserError, match=f"another process writes {out} now"):
      files.whole_folder(out).__enter__()
  assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_folder_for_now_is_gone_at_the_end_and_so_are_those_of_killed_processes(tmp_path):
  out = tmp_path / "below" / "out"
  with files.folder_for_now(out) as first:
    (first / "file").touch()
    with files.folder_for_now(out) as second:
      assert first.is_dir()
      assert second.parent == first.parent == out.parent
  assert not list(out.parent.iterdir())
  done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                        capture_output=True, text=True, check=True)  # fmt: skip
  killed = out.parent / f".out.{done.stdout.strip()}-{MACHINE}-abc-now.partial"
  killed.mkdir()
  other = out.parent / f".other.0-{MACHINE}-abc-now.partial"
  other.mkdir()
  with files.folder_for_now(out):
    assert not killed.exists()
  assert list(out.parent.iterdir()) == [other]
  with pytest.raises(ZeroDivisionError), files.folder_for_now(out):
    1 / 0  # noqa: B018
  assert list(out.parent.iterdir()) == [other]


def test_digests_find_a_bit_a_missing_byte_and_a_missing_file(tmp_path, capsys):
  for name in ("small", "large"):
    files.write(tmp_path / name, b"\0" * 100)

  def damage(name: str, content: bytes | None) -> str:
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if content is not None:
      (tmp_path / name).write_bytes(content)
    try:
      files.check_digests(tmp_path, "make it again", whole=lambda name: name == "small")
    except UserError as error:
      return str(error)
    finally:
      (tmp_path / name).write_bytes(before)
    return ""

  assert not damage("small", b"\1" * 100)
  assert "older version" in capsys.readouterr().err
  files.write_digests(tmp_path, ["small", "large"])
  assert damage("small", b"\0" * 99 + b"\1").endswith(
    "small is damaged, for it is not what was written: make it again"
  )
  assert "damaged" in damage("large", b"\0" * 99)
  assert not damage("large", b"\0" * 99 + b"\1")  # whoever reads it looks
  assert "cannot be read" in damage("large", None)
  assert "damaged" in damage(files.DIGESTS, b'{"small": [100')
  assert "damaged" in damage(files.DIGESTS, b'{"small": 100}')
  assert not capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"a": "1"}', b"\xff", b"[" * 100_000])
def test_json_is_checked_before_it_is_believed(tmp_path, content):
  (tmp_path / "x.json").write_bytes(content)
  with pytest.raises(UserError, match=r"x.json is damaged, or no file of this program: make it"):
    files.read_json(tmp_path / "x.json", {"a": int}, cure="make it again")


def test_a_file_of_arrays_sweeps_what_a_killed_writer_of_it_has_left(tmp_path):
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  gone = f"{process.pid}-{MACHINE}-1.partial"
  (tmp_path / f".a[1].npz.{gone}").touch()
  others = {f".b.npz.{gone}", f".a[1].npz.{files._own()}-1.partial"}
  others |= {f".a[1].npz.{process.pid}-elsewhere-1.partial"}  # whose process lives there, perhaps
  for name in others:
    (tmp_path / name).touch()
  files.write_npz(tmp_path / "a[1].npz", {"x": np.ones(2)})
  assert {path.name for path in tmp_path.iterdir()} == {"a[1].npz", *others}


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_never_ends_is_not_read(tmp_path, kind):
  path = tmp_path / "a.json"
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "device":
    path.symlink_to("/dev/zero")
  else:
    with path.open("wb") as file:
      file.truncate(10_000_000_000)
  with pytest.raises(OSError, match=r"no regular file|more than 256 MB"):
    files.content(path)
  with pytest.raises(UserError, match="is damaged, or no file of this program: delete it"):
    files.read_json(path, {}, cure="delete it")
