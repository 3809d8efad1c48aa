"""The command from a folder of images to a trained route, in processes of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from hiresmed_jax import prepare, train
from hiresmed_jax.runtime import cli
from tests import tiny, tiny_run
from tests.routes.test_run import write_images

pytestmark = pytest.mark.xdist_group("train")  # the reference run is made once
# Plain blocks in all runs of the command, half of what compiles: what stops, starts and joins runs
# knows nothing of blocks. SHORT: two steps without a discriminator.
SHORT = ["--config.background.gan.weight=0", "--config.background.net.block=residual"]
SHORT += ["--config.background.steps=2", "--config.background.codebook.init=random"]


def test_help_explains_the_words_of_the_log(capsys):
  with pytest.raises(SystemExit):
    train.main(["--help"])
  told = capsys.readouterr().out.partition("words of the log")[2]
  for word in (*tiny_run.task().shown.values(), "compiling", "evaluating", "measuring"):
    assert word in told


def command(workdir: Path, *overrides: str) -> list[str]:
  spec = f"{tiny.__file__}:background"
  train = [sys.executable, "-m", "hiresmed_jax.train", "--config", spec]
  return [*train, "--workdir", str(workdir), *overrides]


def environment(**more: str) -> dict[str, str]:
  flags = " ".join(f"--{name}={str(value).lower()}" for name, value in tiny_run.quick().items())
  repo = str(Path(__file__).resolve().parents[1])
  return {**os.environ, "PYTHONPATH": repo, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **more}


def start(workdir: Path, *overrides: str, **more: str) -> subprocess.Popen[str]:
  return subprocess.Popen(
    command(workdir, "--config.background.net.block=residual", *overrides),
    env=environment(**more),
    start_new_session=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
  out, err = process.communicate(timeout=240)
  assert process.returncode == code, err
  return out, err


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_trained_route(tmp_path, capsys):
  raw = write_images(tmp_path / "raw", 40)  # of unequal sizes
  (raw / "notes.png").write_text("these are not pixels")
  (raw / "scan-03.txt").write_text("0 0.5 0.5 0.25 0.2\n")
  data, workdir = tmp_path / "data", tmp_path / "runs"
  prepare.main(["--kind", "images", "--source", str(raw), "--out", str(data), "--boxes", "yolo"])
  told = capsys.readouterr()
  assert "notes.png is not a PNG, JPEG or TIFF image but text" in told.err
  card = json.loads((data / "card.json").read_text())
  assert (card["images"], card["skipped"]) == (40, {"is not a PNG, JPEG or TIFF image but text": 1})

  spec = f"{tiny.__file__}:background"
  arguments = ["--config", spec, "--data", str(data), "--workdir", str(workdir), *SHORT]
  arguments += ["--config.data.phantom.kind="]
  with tiny_run.quick_compiler():
    assert train.main(arguments) == 0
  told = capsys.readouterr()
  assert "held-out images" in told.out
  assert "background 100 %  2/2 steps" in told.err
  folder = workdir / "background"
  figures = {path.name for path in (folder / "figures").iterdir()}
  assert figures == {"reconstruction_0000002.png", "held_out.png", "curves.png"}
  assert all(cv2.imread(str(path)) is not None for path in (folder / "figures").iterdir())
  done = json.loads((folder / "DONE.json").read_text())
  assert done["data"] == card["fingerprint"]
  assert done["best_step"] == 2
  assert done["results"] == json.loads((folder / "results.json").read_text())
  assert done["results"]["held_out"]["images"] == card["splits"]["test"]
  lines = tiny_run.metrics(folder)
  assert [line["step"] for line in lines] == [2, 2]
  stored = "".join(p.read_text(errors="ignore") for p in workdir.rglob("*.json*"))
  assert "scan-" not in stored
  # Where the data lie stands beside the route, for the other commands, and nowhere in it.
  stored = "".join(p.read_text(errors="ignore") for p in folder.rglob("*.json*"))
  assert str(tmp_path) not in stored

  stamps = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
  assert train.main(arguments) == 0
  told = capsys.readouterr()
  assert "background is trained already" in told.out
  assert "held-out images" in told.out
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == stamps

  with pytest.raises(SystemExit) as left:
    cli.run(train.main, [*arguments, "--config.seed=1"])
  assert left.value.code == 2
  assert "holds a run of another config (seed: 0 -> 1): use an" in capsys.readouterr().err
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == stamps


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
  """A run of one process on one device that nothing stopped."""
  workdir = tmp_path_factory.mktemp("reference")
  out, err = finish(start(workdir))
  assert "held-out images" in out
  assert "phantoms 100 %  40/40 images" in err
  return workdir


def outcome(workdir: Path) -> tuple[object, object, object]:
  folder = workdir / "background"
  done = json.loads((folder / "DONE.json").read_text())
  return tiny_run.metrics(folder), done, json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_a_terminated_run_goes_on_by_the_same_command(reference, tmp_path):
  # As a scheduler does, the signal is sent to all processes of the run, those that read ahead too.
  process = start(tmp_path, "--config.data.workers=1")
  log = tmp_path / "background" / "metrics.jsonl"
  waited = time.monotonic()
  while not (log.exists() and log.read_text()):  # steps are being made
    assert process.poll() is None, process.communicate()
    assert time.monotonic() - waited < 200
    time.sleep(0.002)
  os.killpg(process.pid, signal.SIGTERM)
  _, err = finish(process, 143)
  assert "stopping after this step" in err
  # Python's resource tracker may add that it has cleared away batches on their way.
  assert "the same command goes on from there" in err
  assert "Traceback" not in err
  assert not (tmp_path / "background" / "DONE.json").exists()
  assert max(line["step"] for line in tiny_run.metrics(tmp_path / "background")) < tiny.STEPS
  finish(start(tmp_path))
  assert outcome(tmp_path) == outcome(reference)


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_as_one(reference, tmp_path):
  common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
  workers = [start(tmp_path, **common, JAX_PROCESS_ID=str(index)) for index in range(2)]
  said = [finish(worker) for worker in workers]
  assert "background 100 %  10/10 steps" in said[0][1]
  # The second one is silent, but for what the library of collectives prints.
  assert [line for line in "".join(said[1]).splitlines() if "Gloo" not in line] == []
  (lines, done, results), (expected, _, _) = outcome(tmp_path), outcome(reference)
  assert [line["step"] for line in lines] == [line["step"] for line in expected]
  for line, other in zip(lines, expected):
    assert line == pytest.approx(other, rel=1e-5, abs=1e-5)
  assert done["results"] == results
