"""How commands are run and disturbed for `faults.py`, in children of a process that has them."""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from benchmarks import faults_places
from benchmarks.faults_inputs import Bad
from benchmarks.faults_places import Place
from hiresmed_jax import evaluate, prepare, routes, synthesize, train, weights
from hiresmed_jax.errors import printable
from hiresmed_jax.runtime import cli

LIMIT_S = 600.0  # after which a command hangs, on a machine with much else to do
_MEMORY_MB = 1500  # above that of the process that all come from
_SIGHT_S = 0.002  # between two looks for a file that is being written
_REPOSITORY = pathlib.Path(__file__).parents[1]
# Once for all children; `train` imports what a config asks for.
for _route in routes.known():
  routes.module(_route, "train")
COMMANDS: dict[str, Callable[[list[str]], Any]] = {
  "train": train.main,
  "prepare": prepare.main,
  "synthesize": synthesize.main,
  "evaluate": evaluate.main,
  "weights": weights.main,
  "arrays": faults_places.print_arrays,
  "draw": faults_places.draw,
}


Trial = dict[
  str, Any
]  # "count" of disturbances, "problem" or "", "told": the last line of a command


class Ended(NamedTuple):
  """How a command ended."""

  status: int  # exit status; -N: by signal N
  told: str  # all that it wrote
  peak_mb: float  # memory, above that of the parent
  seconds: float

  def problem(self, *, may_refuse: bool = True) -> str:
    """What is wrong with that; "" where nothing is."""
    errors = [line for line in self.told.splitlines() if line.startswith("error: ")]
    if self.status == -signal.SIGALRM:
      return "hang"
    if "Traceback" in self.told or self.status in (1, -signal.SIGSEGV, -signal.SIGABRT):
      return "traceback"
    if self.peak_mb > _MEMORY_MB:
      return f"memory: {self.peak_mb:.0f} MB"
    if self.status == 2 and (len(errors) != 1 or not may_refuse):
      return "lost: " + " ".join(errors)[:300]
    return "" if self.status in (0, 2) else f"lost: status {self.status}"


def start(argv: Sequence[str], log: pathlib.Path) -> int:
  """Runs a command in a child of this process; its number."""
  sys.stdout.flush()
  sys.stderr.flush()
  if child := os.fork():
    return child
  os.setpgid(0, 0)
  written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(written, 1)
  os.dup2(written, 2)
  return cli.run(COMMANDS[argv[0]], argv[1:])


def wait(
  child: int, log: pathlib.Path, *, until: Callable[[], bool] = lambda: False
) -> Ended | None:
  """Waits for its end; None when `until` came first."""
  began, own = time.monotonic(), _peak_mb()
  number = None
  while True:
    found, status, usage = os.wait4(child, os.WNOHANG)
    if found:
      code = os.waitstatus_to_exitcode(status)
      code = -signal.SIGALRM if number else code
      told = log.read_text(errors="replace")
      return Ended(code, told, usage.ru_maxrss / 1024 - own, time.monotonic() - began)
    if until():
      return None
    if time.monotonic() - began > LIMIT_S and number is None:
      number = signal.SIGKILL
      os.killpg(child, number)
    time.sleep(_SIGHT_S)


def run(argv: Sequence[str], log: pathlib.Path) -> Ended:
  """Runs a command to its end."""
  ended = wait(start(argv, log), log)
  assert ended is not None
  return ended


def disturbed(
  place: Place, folder: pathlib.Path, rng: random.Random, *, times: int, how: str
) -> Trial:
  """Disturbs a command so many times, and lets it come to its end."""
  place.make(folder)
  log, reached = folder / "log", 0
  for _ in range(times):
    child = start(place.argv(folder), log)
    at = time.monotonic() + rng.uniform(0.02, 0.95) * place.seconds
    writing = how == "kill while writing"
    until = partial(place.writes, folder) if writing else partial(_is_past, at)
    ended = wait(child, log, until=until)
    if ended is None:
      time.sleep(rng.uniform(0, 0.03) if writing else 0)
      number = signal.SIGKILL if how != "stop" else rng.choice((signal.SIGTERM, signal.SIGINT))
      with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
      ended = wait(child, log)
      assert ended is not None
    if how == "stop" and ended.status in (128 + signal.SIGTERM, 128 + signal.SIGINT):
      reached += 1
      if "Traceback" in ended.told or "stopped" not in ended.told:
        return {"count": reached, "problem": "traceback"}
    elif ended.status in (-signal.SIGKILL, -signal.SIGTERM):  # SIGTERM: before it began
      reached += 1
    elif problem := ended.problem(may_refuse=False):
      return {"count": reached, "problem": problem}
    else:
      break  # it came to its end
  if reached:
    ended = run(place.argv(folder), log)
  assert ended is not None
  problem = ended.problem(may_refuse=False) or place.difference(folder, arrays)
  return {"count": reached, "problem": problem}


def arrays(folder: pathlib.Path) -> str:
  """A digest of the arrays in the newest checkpoint of a route."""
  log = folder.parent / f"{folder.name}.arrays"
  ended = run(["arrays", str(folder)], log)
  return ended.told.strip().splitlines()[-1] if ended.status == 0 else f"unreadable: {ended.told}"


def damaged(place: Place, folder: pathlib.Path, rng: random.Random, *, how: str) -> Trial:
  """Damages one file of what a command reads."""
  place.make(folder)
  chances = [path for path in place.damageable(folder) if path.stat().st_size]
  path = rng.choice(chances)
  content = bytearray(path.read_bytes())
  if how == "bit flip":
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  else:
    del content[rng.randrange(len(content)) :]
  path.write_bytes(content)
  ended = run(place.argv(folder), folder / "log")
  problem = ended.problem()
  if not problem and ended.status == 0:
    problem = place.difference(folder, arrays)
  name = path.relative_to(folder).as_posix()
  return {"count": 1, "told": f"{name}: {_last(ended.told)}", "problem": problem}


def both(place: Place, folder: pathlib.Path, _: random.Random) -> Trial:
  """Starts two of a command at once."""
  place.make(folder)
  logs = folder / "log", folder / "log2"
  children = [start(place.argv(folder), log) for log in logs]
  ended = [one for child, log in zip(children, logs) if (one := wait(child, log))]
  problem = next(filter(None, (one.problem() for one in ended)), "")
  if all(one.status for one in ended):
    problem = problem or "lost: both were refused"
  return {"count": 1, "problem": problem or place.difference(folder, arrays)}


def _is_past(moment: float) -> bool:
  return time.monotonic() > moment


def _last(told: str) -> str:
  """The line of an error, else the last one."""
  lines = told.strip().splitlines()
  errors = [line for line in lines if line.startswith("error: ")]
  return printable((errors or lines)[-1])[-200:] if lines else ""


def _peak_mb() -> float:
  with open("/proc/self/status") as status:
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def refused(bad: Bad, folder: pathlib.Path, _: random.Random) -> Trial:
  """A command with a broken input: it does without it, or one line says what is wrong."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  bad.make(folder)
  ended = run([part.replace("{}", str(folder)) for part in bad.command], folder / "log")
  return {"count": 1, "told": _last(ended.told), "problem": ended.problem()}


def without_space(place: Place, folder: pathlib.Path, _: random.Random) -> Trial:
  """A command on a small file system, and again when there is space; not tried without mounts."""
  place.make(folder)
  small = folder / pathlib.Path(place.result).parts[0]
  small.mkdir(exist_ok=True)
  inside = {f"{{}}/{small.name}": f"{{}}/{small.name}/{small.name}"}
  command = tuple(inside.get(part, part) for part in place.command)
  result = place.result.replace(small.name, f"{small.name}/{small.name}", 1)
  inner = dataclasses.replace(place, command=command, result=result)
  mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(small)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    return {"count": 0, "told": "not tried: nothing may be mounted here", "problem": ""}
  try:
    ended = run(inner.argv(folder), folder / "log")
    shutil.copytree(small, folder / "left", symlinks=True)
  finally:
    subprocess.run(["umount", str(small)], capture_output=True, check=False)
  problem = ended.problem() or ("" if ended.status == 2 else "lost: no word of the disk")
  shutil.copytree(folder / "left", small, dirs_exist_ok=True)
  again = run(inner.argv(folder), folder / "log")
  problem = problem or again.problem(may_refuse=False) or inner.difference(folder, arrays)
  return {"count": 1, "told": _last(ended.told), "problem": problem}


def of_two(place: Place, folder: pathlib.Path, _: random.Random) -> Trial:
  """Kills one of two processes of a run: the other ends within a minute, and the run goes on."""
  place.make(folder)
  command = ["bash", str(_REPOSITORY / "launch" / "local.sh"), "2", sys.executable, "-m"]
  command += ["hiresmed_jax.train", *place.argv(folder)[1:]]
  log, checkpoints = folder / "log", folder / place.result / "checkpoints"
  with log.open("w") as told:
    first = subprocess.Popen(command, stdout=told, stderr=told, cwd=_REPOSITORY)
    while first.poll() is None and not any(checkpoints.glob("[0-9]*")):
      time.sleep(_SIGHT_S)
    listed = subprocess.run(
      ["ps", "-o", "pid=,args=", "--ppid", str(first.pid)],
      capture_output=True,
      text=True,
      check=True,
    )
    running = [line.split()[0] for line in listed.stdout.splitlines() if "hiresmed_jax" in line]
    os.kill(int(running[-1]), signal.SIGKILL)
    began = time.monotonic()
    try:
      status = first.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
      first.kill()
      return {"count": 1, "problem": "hang"}
    seconds = time.monotonic() - began
    second = subprocess.run(command, stdout=told, stderr=told, cwd=_REPOSITORY, check=False)
  text = log.read_text()
  problem = "traceback" if "Traceback" in text else ""
  if not status or second.returncode or not (folder / place.result / "DONE.json").is_file():
    problem = problem or f"lost: ended with {status}, then {second.returncode}"
  return {"count": 1, "told": f"the other ended after {seconds:.0f} s", "problem": problem}
