import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax import files
from hiresmed_jax.convert import arrays
from hiresmed_jax.errors import UserError

VALUES = {
  "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.array([1.5], np.float32),
}


class Trap:
  """Unpickled, it would make a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


def same(found):
  assert found.keys() == VALUES.keys()
  for name, value in VALUES.items():
    np.testing.assert_array_equal(found[name], value)


def test_npz_and_safetensors_round_trip(tmp_path):
  files.write_npz(tmp_path / "deep" / "x.npz", VALUES)
  same(arrays.read(tmp_path / "deep" / "x.npz"))
  assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.npz"]
  safetensors.numpy.save_file(VALUES, tmp_path / "x.safetensors")
  same(arrays.read(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not what the name says", b"PK\x03\x04" + b"\0" * 99])
def test_garbage_is_one_clear_line(tmp_path, suffix, content):
  if suffix == ".pth":
    pytest.importorskip("torch")
  path = tmp_path / f"x{suffix}"
  path.write_bytes(content)
  with pytest.raises(UserError, match="damaged") as caught:
    arrays.read(path)
  assert "weights_only" not in str(caught.value)


def test_missing_file_and_unknown_kind(tmp_path):
  with pytest.raises(UserError, match="not a file"):
    arrays.read(tmp_path / "x.npz")
  (tmp_path / "x.txt").write_text("")
  with pytest.raises(UserError, match=r"none of \.npz"):
    arrays.read(tmp_path / "x.txt")


def test_arrays_that_claim_more_than_their_file_are_refused(tmp_path):
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
  )
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
    archive.writestr("a.npy", header.getvalue() + bytes(100))
  with pytest.raises(UserError, match="is damaged"):
    arrays.read(tmp_path / "x.npz")


def test_pickles_are_never_executed(tmp_path):
  trap = Trap(tmp_path / "sprung")
  objects = np.empty(1, object)
  objects[0] = trap
  np.savez(tmp_path / "x.npz", a=objects)
  (tmp_path / "bare.npz").write_bytes(pickle.dumps(trap))
  paths = [tmp_path / "x.npz", tmp_path / "bare.npz"]
  if (torch := pytest.importorskip("torch")) is not None:
    torch.save({"a": trap}, tmp_path / "new.pth")
    torch.save({"a": trap}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    paths += [tmp_path / "new.pth", tmp_path / "old.pth"]
  for path in paths:
    with pytest.raises(UserError, match="holds"):
      arrays.read(path)
  assert not (tmp_path / "sprung").exists()


def test_torch_files_old_and_new_and_half_precision(tmp_path):
  torch = pytest.importorskip("torch")
  state = {name: torch.tensor(value) for name, value in VALUES.items()}
  for path, new in ((tmp_path / "new.pth", True), (tmp_path / "old.pth", False)):
    torch.save(state, path, _use_new_zipfile_serialization=new)
    same(arrays.read(path))
  torch.save({name: t.bfloat16() for name, t in state.items()}, tmp_path / "half.pt")
  same(arrays.read(tmp_path / "half.pt"))
  torch.save([state], tmp_path / "list.pth")
  with pytest.raises(UserError, match="state dict"):
    arrays.read(tmp_path / "list.pth")


def test_without_torch_one_line_says_so(tmp_path, monkeypatch):
  (tmp_path / "x.pth").write_bytes(b"PK")
  monkeypatch.setattr(arrays.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match="pip install torch"):
    arrays.read(tmp_path / "x.pth")
