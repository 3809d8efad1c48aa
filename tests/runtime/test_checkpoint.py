"""A run must come back exactly, on other devices, after a kill, and never as another run's."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import checkpoint, mesh

DATA_STATE = {"next_index": 7, "workers": {"0": [1, 2]}}


def make_state(devices: int, seed: int = 0):
  """A state whose large leaf is split, with the kinds of leaves a training state has."""
  grid = mesh.make_mesh(data=1, fsdp=devices, devices=jax.devices()[:devices])

  def init(key):
    return {
      "kernel": jax.random.normal(key, (1024, 1024)),
      "half": jnp.ones((3,), jnp.bfloat16),
      "step": jnp.int32(3),
      "key": jax.random.fold_in(key, 1),
    }

  shapes = jax.eval_shape(init, jax.random.key(0))
  shardings = mesh.state_shardings(shapes, grid)
  state = jax.jit(init, out_shardings=shardings)(jax.random.key(seed))
  return state, mesh.with_shardings(shapes, shardings)


def values(state):
  return [np.array(jax.random.key_data(x) if x is state["key"] else x) for x in state.values()]


def assert_same(a, b):
  for x, y in zip(values(a), values(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 8), (8, 1), (1, 8)])
def test_comes_back_on_any_number_of_devices(tmp_path, saved_on, restored_on):
  state, _ = make_state(saved_on)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 3, state, data_state=DATA_STATE, metadata={"route": "background"})
  _, abstract = make_state(restored_on)
  with checkpoint.open(tmp_path) as manager:
    restored, data_state, metadata = checkpoint.restore(
      manager, abstract, expect={"route": "background"}
    )
  assert_same(restored, state)
  assert len(restored["kernel"].sharding.device_set) == restored_on
  assert restored["kernel"].sharding == abstract["kernel"].sharding
  assert data_state == DATA_STATE
  assert metadata == {"route": "background"}


def test_a_checkpoint_can_be_replaced(tmp_path):
  state, abstract = make_state(1)
  other, _ = make_state(1, seed=1)
  with checkpoint.open(tmp_path, keep=1, best="l1") as manager:
    checkpoint.save(manager, 3, state)
    checkpoint.save(manager, 3, other)
    assert_same(checkpoint.restore(manager, abstract)[0], state)  # left as it is
    checkpoint.save(manager, 3, other, metadata={"made": 2}, metrics={"l1": 0.5}, replace=True)
    assert checkpoint.metadata(manager, 3) == {"made": 2}
  with checkpoint.open(tmp_path, keep=1, best="l1") as manager:
    assert_same(checkpoint.restore(manager, abstract)[0], other)
    assert manager.best_step() == 3
  assert [path.name for path in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_while_one_is_replaced_loses_nothing(tmp_path, written):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 3, state)
  if written:  # the new one is whole, the old one not yet removed
    shutil.copytree(tmp_path / "3", tmp_path / "3.replaced")
  else:
    (tmp_path / "3").rename(tmp_path / "3.replaced")
  with checkpoint.open(tmp_path) as manager:
    assert manager.all_steps() == [3]
    assert_same(checkpoint.restore(manager, abstract)[0], state)
  assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_bytes_of_an_iterator_come_back(tmp_path):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 0, state, data_state=b"\x00\xff")
    assert checkpoint.restore(manager, abstract)[1] == b"\x00\xff"


def test_state_may_be_donated_while_it_is_being_saved(tmp_path):
  state, abstract = make_state(1)
  before = values(state)
  spoil = jax.jit(lambda x: jax.tree.map(lambda y: y * 0 - 1, x), donate_argnums=0)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 0, state)
    del state["key"]
    spoil(state)
  with checkpoint.open(tmp_path) as manager:
    restored, _, _ = checkpoint.restore(manager, abstract)
  for x, y in zip(values(restored), before, strict=True):
    np.testing.assert_array_equal(x, y)


def test_the_latest_and_the_best_stay(tmp_path):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path, keep=2, best="psnr") as manager:
    for step, psnr in enumerate([20.0, 25.0, None, float("nan"), 21.0, 22.0]):
      metrics = None if psnr is None else {"psnr": psnr}
      checkpoint.save(manager, step, state, metrics=metrics)
    checkpoint.wait(manager)
    assert sorted(manager.all_steps()) == [1, 4, 5]
  with checkpoint.open(tmp_path, keep=2, best="psnr") as manager:
    assert (manager.best_step(), manager.latest_step()) == (1, 5)
    assert_same(checkpoint.restore(manager, abstract, step=1)[0], state)


def test_a_reader_leaves_everything_as_it_is(tmp_path):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path / "a", keep=1) as manager:
    checkpoint.save(manager, 3, state)
  begun = tmp_path / "a" / "4.orbax-checkpoint-tmp"  # of a run that is saving
  begun.mkdir()
  with checkpoint.open(tmp_path / "a", keep=1, writes=False) as manager:
    assert_same(checkpoint.restore(manager, abstract, step=3)[0], state)
  assert begun.is_dir()
  gone = checkpoint.open(tmp_path / "removed", keep=1, writes=False)
  with contextlib.suppress(FileNotFoundError, ValueError), gone:
    pass
  assert not (tmp_path / "removed").exists()


def test_the_smallest_can_be_best(tmp_path):
  state, _ = make_state(1)
  with checkpoint.open(tmp_path, keep=1, best="loss", best_mode="min") as manager:
    for step, loss in enumerate([3.0, 1.0, 2.0]):
      checkpoint.save(manager, step, state, metrics={"loss": loss})
    checkpoint.wait(manager)
    assert sorted(manager.all_steps()) == [1, 2]
    assert manager.best_step() == 1


def test_saving_a_step_twice_changes_nothing(tmp_path):
  first, abstract = make_state(1, seed=1)
  second, _ = make_state(1, seed=2)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 4, first)
    checkpoint.save(manager, 4, second)
    assert_same(checkpoint.restore(manager, abstract)[0], first)


def test_another_config_is_one_clear_line(tmp_path):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 0, state, metadata={"route": "background"})
    with pytest.raises(UserError, match="route is background there, lesion here"):
      checkpoint.restore(manager, abstract, expect={"route": "lesion"})
    wider = dict(abstract, kernel=jax.ShapeDtypeStruct((8, 8), jnp.float32))
    with pytest.raises(UserError, match=r"kernel is float32\[1024, 1024\] there, float32\[8, 8\]"):
      checkpoint.restore(manager, wider)
    grown = dict(abstract, extra=abstract["step"])
    with pytest.raises(UserError, match=r"extra is missing there, int32\[\] here") as caught:
      checkpoint.restore(manager, grown)
    shrunk = {name: leaf for name, leaf in abstract.items() if name != "half"}
    with pytest.raises(UserError, match=r"half is bfloat16\[3\] there, missing here"):
      checkpoint.restore(manager, shrunk)
    assert "--workdir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_to_restore_is_one_clear_line(tmp_path):
  _, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    assert manager.latest_step() is None
    with pytest.raises(UserError, match="no checkpoint in"):
      checkpoint.restore(manager, abstract)


def arrays(folder):
  """The files of a checkpoint that hold arrays."""
  return [path for path in (folder / "state").rglob("*") if path.parent.name == "d"]


@pytest.mark.parametrize("digests", [True, False])
def test_a_truncated_checkpoint_is_one_line_and_without_its_folder_the_one_before_opens(
  tmp_path, digests, capsys
):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    for step in range(2):
      checkpoint.save(manager, step, state)
  for file in arrays(tmp_path / "1"):
    file.write_bytes(file.read_bytes()[:50])
  if not digests:  # of an older version
    for step in range(2):
      (tmp_path / f"{step}" / files.DIGESTS).unlink()
  with (
    checkpoint.open(tmp_path) as manager,
    pytest.raises(UserError, match=r"1.* is damaged.*: delete .*folder.* to go on from an earlier"),
  ):
    checkpoint.restore(manager, abstract)
  shutil.rmtree(tmp_path / "1")
  with checkpoint.open(tmp_path) as manager:
    assert_same(checkpoint.restore(manager, abstract)[0], state)
  assert ("has no digests" in capsys.readouterr().err) != digests


def test_a_changed_bit_anywhere_in_a_checkpoint_is_seen(tmp_path):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 0, state, metrics={"psnr": 1.0})
  for file in [*arrays(tmp_path / "0"), tmp_path / "0" / "about" / "metadata"]:
    whole = file.read_bytes()
    half = len(whole) // 2
    file.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    with (
      checkpoint.open(tmp_path) as manager,
      pytest.raises(UserError, match=rf"{file.name} is damaged.*: delete the folder {tmp_path}/0 "),
    ):
      checkpoint.restore(manager, abstract)
    file.write_bytes(whole)
  with checkpoint.open(tmp_path) as manager:
    assert_same(checkpoint.restore(manager, abstract)[0], state)


def test_truncated_metrics_are_one_line(tmp_path):
  state, _ = make_state(1)
  with checkpoint.open(tmp_path, best="psnr") as manager:
    checkpoint.save(manager, 0, state, metrics={"psnr": 1.0})
  (tmp_path / "0" / "metrics" / "metrics").write_text('{"psnr"')
  with (
    pytest.raises(UserError, match=f"metrics is damaged.*: delete the folder {tmp_path}/0 to go"),
    checkpoint.open(tmp_path, best="psnr"),
  ):
    pass


def test_a_foreign_folder_is_one_clear_line(tmp_path):
  (tmp_path / "5").mkdir()
  (tmp_path / "5" / "weights.bin").write_bytes(b"not ours")
  _, abstract = make_state(1)
  with (
    checkpoint.open(tmp_path) as manager,
    pytest.raises(UserError, match="not a whole checkpoint"),
  ):
    checkpoint.restore(manager, abstract, step=5)


def test_too_little_space_is_seen_before_writing(tmp_path, monkeypatch):
  state, abstract = make_state(1)
  with checkpoint.open(tmp_path) as manager:
    checkpoint.save(manager, 0, state)
    checkpoint.wait(manager)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"GB needed.*Older checkpoints are whole"):
      checkpoint.save(manager, 1, state)
    assert_same(checkpoint.restore(manager, abstract)[0], state)


CHILD = """
import jax, os, pathlib, resource, signal, sys
from hiresmed_jax.runtime import checkpoint
directory = pathlib.Path(sys.argv[1])
state = {"kernel": jax.random.normal(jax.random.key(0), (4096, 2048))}
with checkpoint.open(directory) as manager:
  checkpoint.save(manager, 0, state, metrics={"psnr": 1.0})
  checkpoint.wait(manager)
"""


def run_child(directory, act):
  code = CHILD + textwrap.indent(textwrap.dedent(act), "  ")
  return subprocess.run(
    [sys.executable, "-c", code, str(directory)],
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )


def assert_first_is_whole(directory):
  sharding = mesh.replicated(mesh.make_mesh(devices=jax.devices()[:1]))
  shape = jax.ShapeDtypeStruct((4096, 2048), jnp.float32, sharding=sharding)
  with checkpoint.open(directory) as manager:
    assert manager.latest_step() == 0
    kernel = checkpoint.restore(manager, {"kernel": shape})[0]["kernel"]
  np.testing.assert_array_equal(kernel, jax.random.normal(jax.random.key(0), (4096, 2048)))
  assert [entry.name for entry in directory.iterdir()] == ["0"]


@pytest.mark.slow
def test_a_refusing_disk_is_one_clear_line_and_nothing_else(tmp_path):
  # The limit on the size of a file makes the kernel refuse, as a full disk does, inside the
  # storage library's own background threads.
  result = run_child(
    tmp_path,
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
      checkpoint.save(manager, 1, state)
      checkpoint.wait(manager)
    except Exception as error:
      print(type(error).__name__, error)
    """,
  )
  assert result.stderr == ""
  assert result.stdout == (
    f"UserError cannot write a checkpoint in {tmp_path}: File too large. Older checkpoints are "
    "whole: mend that, and the same command goes on from the latest\n"
  )
  assert result.returncode == 0
  assert_first_is_whole(tmp_path)


@pytest.mark.slow
def test_killed_while_saving_goes_on_from_the_one_before(tmp_path):
  result = run_child(
    tmp_path,
    """
    checkpoint.save(manager, 1, state)
    while not any(directory.glob("1.*tmp*")):
      pass
    os.kill(os.getpid(), signal.SIGKILL)
    """,
  )
  assert result.returncode == -signal.SIGKILL, result.stderr
  assert list(tmp_path.glob("1.*tmp*"))
  assert_first_is_whole(tmp_path)
