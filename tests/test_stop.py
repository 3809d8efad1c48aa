"""SIGTERM ends the command within seconds, whatever it does, and the same command goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hiresmed_jax import routes
from tests import tiny, tiny_run
from tests.test_train import environment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("train")]
SECONDS = 10.0
PHANTOMS = ["--config.data.phantom.size=128", "--config.data.phantom.num=40"]


def start(workdir: Path, route: str, *overrides: str) -> subprocess.Popen[str]:
  """A run that would take hours."""
  steps = "cpu_steps" if route == "lesion" else "steps"
  long = [f"--config.{route}.{steps}=100000", f"--config.{route}.log_every=1"]
  often = "save_every" if route in ("lesion", "singan") else "eval_every"
  command = [sys.executable, "-m", "hiresmed_jax.train", "--workdir", str(workdir)]
  command += ["--config", f"{tiny.__file__}:{route}", *long, f"--config.{route}.{often}=100000"]
  return subprocess.Popen(
    [*command, *PHANTOMS, *overrides], env=environment(), stderr=subprocess.PIPE, text=True
  )


def wait_for(process: subprocess.Popen[str], reached) -> None:
  waited = time.monotonic()
  while not reached():
    assert process.poll() is None, process.communicate()
    if time.monotonic() - waited > 240:
      process.kill()  # or it would go on for hours
      process.communicate()
      pytest.fail("the run never came so far")
    time.sleep(0.01)


def hears(process: subprocess.Popen[str]) -> bool:
  """Whether SIGTERM has a handler in the process."""
  status = Path(f"/proc/{process.pid}/status").read_text()
  (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
  return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def stop(process: subprocess.Popen[str]) -> str:
  """The last line of a run that is sent SIGTERM."""
  asked = time.monotonic()
  process.terminate()
  _, told = process.communicate(timeout=120)
  assert time.monotonic() - asked < SECONDS
  assert process.returncode == 143, told
  # Raised inside a callback of the collector, Python prints the exception and goes on; the run ends
  # after its patience all the same.
  assert "Traceback" not in told.partition("Exception ignored")[0]
  last = told.strip().splitlines()[-1]
  assert last.startswith("stopped")
  return last


@pytest.mark.parametrize("route", routes.known())
def test_a_route_stops_within_seconds_and_goes_on(tmp_path, route):
  log, steps = tmp_path / route / "metrics.jsonl", [0]

  def goes_on() -> bool:
    lines = tiny_run.metrics(log.parent) if log.exists() and log.read_text().endswith("\n") else []
    return bool(lines) and lines[-1]["step"] > steps[-1]

  # That a run which was stopped ends like one which was not: tests of the loop and of each task.
  for _ in range(2 if route == "danger" else 1):
    process = start(tmp_path, route)
    wait_for(process, goes_on)
    last = stop(process)
    assert last.endswith(": the same command goes on from there")
    steps.append(int(last.split("saved at step ")[1].split(":")[0]))
  assert steps == sorted(set(steps))
  assert not (log.parent / "DONE.json").exists()


# While phantoms are drawn, programs are traced or compiled: what it does there depends on how fast
# this machine is.
@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_a_run_stops_before_its_first_step(tmp_path, seconds):
  process = start(tmp_path, "background")
  wait_for(process, lambda: hears(process))
  time.sleep(seconds)
  stop(process)


def test_a_run_stops_while_phantoms_are_drawn(tmp_path):
  overrides = ["--config.data.phantom.num=5000", "--config.data.phantom.size=512"]
  process = start(tmp_path, "background", *overrides)
  wait_for(process, lambda: (tmp_path / ".data.partial").exists())
  stop(process)
  assert not list(tmp_path.glob("**/*.partial"))


def test_prepare_stops_and_leaves_nothing(tmp_path):
  command = [sys.executable, "-m", "hiresmed_jax.prepare", "--kind", "phantom", "--num", "5000"]
  process = subprocess.Popen(
    [*command, "--out", str(tmp_path / "out")], env=environment(), stderr=subprocess.PIPE, text=True
  )
  wait_for(process, lambda: (tmp_path / ".out.partial").exists())
  assert "begins anew" in stop(process)
  assert not list(tmp_path.iterdir())


def test_a_run_stops_while_lesions_are_taken_out(tmp_path):
  overrides = ["--config.data.phantom.num=100", "--config.data.phantom.size=192"]
  emptied = tmp_path / "location" / "bare"
  process = start(tmp_path, "location", *overrides)
  wait_for(process, lambda: list(emptied.glob("*.png")))
  stop(process)
  assert not (emptied / "DONE").exists()
  before = {path: path.stat().st_mtime_ns for path in emptied.glob("*.png")}
  process = start(tmp_path, "location", *overrides)
  wait_for(process, lambda: len(list(emptied.glob("*.png"))) > len(before))
  stop(process)
  assert before.items() <= {p: p.stat().st_mtime_ns for p in emptied.glob("*.png")}.items()
