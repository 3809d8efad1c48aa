import contextlib
import functools
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax import files, weights
from hiresmed_jax.convert import arrays, features, inception, published
from hiresmed_jax.errors import Stopped, UserError
from hiresmed_jax.nets.inception import SIZE, InceptionFeatures
from tests.reference.random_weights import random_arrays, torch_names

NET = "squeezenet"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("HIRESMED_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  return tmp_path / "cache"


@contextlib.contextmanager
def serving(folder):
  """The address of a server of this folder's files, and the list of paths it was asked for."""
  asked = []

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
      asked.append(self.path)

  handler = functools.partial(Quiet, directory=str(folder))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
      yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
      server.shutdown()
      thread.join()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
  """A folder of files as published, for a network with a random trunk; its hashes are expected."""
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  folder = tmp_path / "mirror"
  folder.mkdir()
  state = tv.lpips_network("squeeze").state_dict()
  trunk = {
    "features." + name.split(".", 2)[2]: tensor
    for name, tensor in state.items()
    if name.startswith("net.")
  }
  files = []
  for file in published.FILES[NET]:
    path = folder / file.name
    if file.name.startswith("squeezenet"):
      tv.torch.save(trunk, path)
    else:
      path.write_bytes(tv.heads_file("squeeze").read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files.append(published.Published(file.url, digest, path.stat().st_size, "", ""))
  monkeypatch.setitem(published.FILES, NET, tuple(files))
  return folder


def test_known_hashes_agree_with_published_names_and_files():
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  for net in features.TRUNKS:
    trunk, heads = published.FILES[net]
    assert trunk.name.endswith(f"-{trunk.sha256[:8]}.pth")
    path = tv.heads_file(heads.name.removesuffix(".pth"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == heads.sha256
    assert path.stat().st_size == heads.size
  (network,) = published.FILES["inception"]
  assert network.name.endswith(f"-{network.sha256[:8]}.pth")


def test_fetch_downloads_checks_converts_and_cleans_up(mirror, cache, capsys):
  with serving(mirror) as (url, asked):
    assert weights.main(["fetch", NET, "--mirror", url]) == 0
    assert len(asked) == 2
    assert str(features.cache_path(NET)) in capsys.readouterr().out
    assert [path.name for path in cache.iterdir()] == ["lpips_squeezenet_v0.1.npz"]
    _, params = features.load_perceptual(NET)
    assert params["trunk"]["fire9"]["expand3x3"]["kernel"].shape == (3, 3, 64, 256)
    weights.main(["fetch", NET, "--mirror", url])  # it is here: nothing is asked for again
    assert len(asked) == 2


def test_a_wrong_download_is_dropped_and_a_right_one_is_kept_for_the_next_try(mirror, cache):
  heads = published.FILES[NET][1].name
  right = (mirror / heads).read_bytes()
  (mirror / heads).write_bytes(right + b"!")
  with serving(mirror) as (url, asked):
    with pytest.raises(UserError, match="sha256 differs"):
      weights.main(["fetch", NET, "--mirror", url])
    assert not features.cache_path(NET).exists()
    assert [p.name for p in (cache / "downloads").iterdir()] == [published.FILES[NET][0].name]
    (mirror / heads).write_bytes(right)
    weights.main(["fetch", NET, "--mirror", url + "/"])
    assert features.cache_path(NET).is_file()
    assert sum("squeezenet" in path for path in asked) == 1


def test_a_failed_download_is_one_line_with_the_manual_route(tmp_path, cache):
  pytest.importorskip("torch")
  with serving(tmp_path) as (url, _):
    with pytest.raises(UserError) as caught:
      weights.main(["fetch", NET, "--mirror", url])
    line = str(caught.value)
    for words in ("answered 404", *(file.url for file in published.FILES[NET]), "weights convert"):
      assert words in line
    assert "\n" not in line
  with pytest.raises(UserError, match="no connection"):  # the server is gone
    weights.main(["fetch", NET, "--mirror", url])
  with pytest.raises(UserError, match="no http:// or https:// address"):
    weights.main(["fetch", NET, "--mirror", "nonsense"])


def test_fetch_without_torch_downloads_nothing(mirror, monkeypatch):
  monkeypatch.setattr(arrays.importlib.util, "find_spec", lambda name: None)
  with serving(mirror) as (url, asked):
    with pytest.raises(UserError, match="pip install torch"):
      weights.main(["fetch", NET, "--mirror", url])
    assert asked == []


def test_the_inception_network_is_fetched(tmp_path, monkeypatch, capsys):
  torch = pytest.importorskip("torch")
  folder = tmp_path / "mirror"
  folder.mkdir()
  stem = random_arrays(arrays.layout(InceptionFeatures(tap=64), SIZE))
  (file,) = published.FILES["inception"]
  state = {name: torch.from_numpy(value) for name, value in torch_names(stem).items()}
  torch.save(state, folder / file.name)
  digest = hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
  monkeypatch.setitem(
    published.FILES, "inception", (published.Published(file.url, digest, 1_000, "", ""),)
  )
  with serving(folder) as (url, asked):
    weights.main(["fetch", "inception", "--mirror", url])
    assert len(asked) == 1
  assert inception.load_cached(tap=64).tap == 64
  assert str(inception.cache_path()) in capsys.readouterr().out


def test_what_cannot_be_checked_is_not_downloaded(mirror):
  with serving(mirror) as (url, asked):
    for nets in (["radimagenet"], [NET, "radimagenet"]):
      with pytest.raises(UserError) as caught:
        weights.main(["fetch", *nets, "--mirror", url])
      line = str(caught.value)
      assert "BMEII-AI" in line
      assert "weights convert FILE --net radimagenet" in line
      assert "\n" not in line
    assert asked == []


def test_a_part_of_the_inception_network_is_listed_with_its_reach(tmp_path, capsys):
  stem = random_arrays(arrays.layout(InceptionFeatures(tap=192), SIZE))
  safetensors.numpy.save_file(torch_names(stem), tmp_path / "stem.safetensors")
  weights.main(["convert", str(tmp_path / "stem.safetensors"), "--net", "inception"])
  assert "features up to 192" in capsys.readouterr().out
  files.write_npz(published.cache_path("radimagenet"), {"conv1/kernel": np.ones(3, np.float32)})
  weights.main(["list", "--json"])
  rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
  assert rows["inception"]["here"] == "to 192 features only"
  assert rows["radimagenet"]["here"].startswith("damaged: does not fit: conv1/kernel")
  assert rows["radimagenet"]["files"][0]["sha256"] is None
  (tmp_path / "cache" / "inception_2015_12_05.npz").write_bytes(b"no archive")
  weights.main(["list"])
  table = capsys.readouterr().out
  assert "by hand" in table
  assert "is damaged or holds other" in table


def test_list_tells_what_is_here(cache, capsys):
  shapes = features.layout(NET)
  files.write_npz(features.cache_path(NET), {k: np.ones(s, np.float32) for k, s in shapes.items()})
  files.write_npz(features.cache_path("alexnet"), {"lin0": np.ones(64, np.float32)})
  weights.main(["list"])
  table = capsys.readouterr().out
  for words in (*features.TRUNKS, "BSD-3-Clause", "553 MB", "397923af8e79", str(cache)):
    assert words in table
  weights.main(["list", "--json"])
  here = {row["name"]: row["here"] for row in json.loads(capsys.readouterr().out)}
  assert here["vgg16"] == "no"
  assert here[NET] == "yes"
  assert here["alexnet"].startswith("damaged: lacks conv1")


def test_convert_writes_where_training_looks_or_where_told(tmp_path, capsys):
  ours = {name: np.ones(shape, np.float32) for name, shape in features.layout(NET).items()}
  files.write_npz(tmp_path / "mine.npz", ours)
  weights.main(["convert", str(tmp_path / "mine.npz"), "--net", NET])
  assert "724,736 numbers" in capsys.readouterr().out
  features.load_perceptual(NET)
  weights.main(
    ["convert", str(tmp_path / "mine.npz"), "--net", NET, "--out", str(tmp_path / "out.npz")]
  )
  assert (tmp_path / "out.npz").is_file()
  with pytest.raises(UserError, match=r"must end in \.npz"):
    weights.main(["convert", str(tmp_path / "mine.npz"), "--net", NET, "--out", "x.bin"])


@pytest.mark.parametrize(
  "arguments",
  [[], ["fech"], ["fetch"], ["fetch", "vgg19"], ["convert", "x.npz"], ["list", "--jsn"]],
)
def test_a_mistyped_command_is_one_line(arguments):
  with pytest.raises(UserError, match="--help"):
    weights.main(arguments)


@pytest.mark.parametrize("action", [[], ["list"], ["fetch"], ["convert"]])
def test_help_has_an_example_to_paste(action, capsys):
  with pytest.raises(SystemExit) as caught:
    weights.main([*action, "--help"])
  assert caught.value.code == 0
  assert "python -m hiresmed_jax.weights" in capsys.readouterr().out.split("example:")[1]


def test_the_command_ends_with_two_and_one_line(tmp_path):
  command = [sys.executable, "-m", "hiresmed_jax.weights", "convert", "none.npz", "--net", NET]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr == "error: none.npz is not a file\n"


def test_a_stop_leaves_no_file(tmp_path, monkeypatch):
  def write(partial, content):
    write_bytes(partial, content[:10])
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

  arrays_of = random_arrays(features.layout(NET))
  files.write_npz(tmp_path / "mine.npz", arrays_of)
  write_bytes = Path.write_bytes
  monkeypatch.setattr(Path, "write_bytes", write)
  out = tmp_path / "made" / "out.npz"
  with pytest.raises(Stopped, match="begins anew") as stopped:
    weights.main(["convert", str(tmp_path / "mine.npz"), "--net", NET, "--out", str(out)])
  assert stopped.value.code == 130
  assert not list(out.parent.iterdir())
