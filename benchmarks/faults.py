"""What is lost when a run is killed, a disk fails, or an input is broken?

  python -m benchmarks.faults --work runs/faults --out benchmarks/results/faults_cpu.json

Every route and command is killed at random moments and while it writes checkpoints, its files are
damaged, it is given broken inputs, and two of it write into one folder. What it makes afterwards is
compared, byte for byte, with what an undisturbed run has made; of checkpoints the arrays, since
their files have random names, and of datasets what the records hold, since protobuf orders their
fields in another way in each process. A trial has held when nothing is lost: the result is the
same, or one line refuses. Anything else counts: another result, a traceback, a hang, more than
1.5 GB of memory.

The commands run in children of a process that has imported them, as starting Python takes longer
than they do; only the runs of two processes are started anew. The same command goes on where it was
stopped. About 30 minutes of one core.
"""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from benchmarks import faults_inputs, faults_places, harness
from benchmarks.faults_commands import (
  arrays,
  both,
  damaged,
  disturbed,
  of_two,
  refused,
  run,
  without_space,
)
from benchmarks.faults_places import Place
from hiresmed_jax.runtime import cli, compilation

# Programs that are soon compiled, and slow.
_QUICK_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__[:2] == (0, 10):  # a version that does not know a flag ends the process
  _QUICK_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
KINDS = {
  "kill": "killed at random moments, then the same command again",
  "kill while writing": "the same, at the sight of a file or checkpoint that is not whole yet",
  "stop": "SIGTERM or Ctrl-C at random moments, then the same command again",
  "two at once": "two of the same command into one folder",
  "bit flip": "a bit of a checkpoint, bank or dataset",
  "truncation": "a file of them cut short",
  "bad input": "broken images, volumes, masks, labels, tables, weights, files of a run",
  "full disk": "a file system of a few megabytes",
  "process of two": "one of two processes killed, then the same command again",
}


class Trials:
  """Trials by name, kept in a file as they end: a stopped benchmark goes on."""

  def __init__(self, folder: pathlib.Path, kinds: Sequence[str]) -> None:
    self._folder, self._kinds = folder, kinds
    self._file = folder / "trials.jsonl"
    lines = self._file.read_text().splitlines() if self._file.exists() else []
    self.all: list[dict[str, Any]] = [json.loads(line) for line in lines]

  def make(
    self, kind: str, name: str, trial: Callable[[pathlib.Path, random.Random], dict[str, Any]]
  ) -> None:
    """Makes a trial in a folder of its own, unless it is made: {"kind", "name", "count", ...}."""
    if any((made["kind"], made["name"]) == (kind, name) for made in self.all):
      return
    if kind not in self._kinds:
      return
    folder = self._folder / f"trial{os.getpid()}"
    found = {"kind": kind, "name": name} | trial(folder, random.Random(f"{kind} {name}"))
    found = {key: _plain(value, self._folder) for key, value in found.items()}
    self.all.append(found)
    with self._file.open("a") as file:
      file.write(json.dumps(found) + "\n")
    if found["problem"]:
      print(f"{kind}, {name}: {found['problem']}", flush=True)
      shutil.rmtree(self._folder / "kept", ignore_errors=True)
      shutil.copytree(folder, self._folder / "kept", symlinks=True, ignore=_special)
    shutil.rmtree(folder, ignore_errors=True)


def _plain(value: Any, folder: pathlib.Path) -> Any:
  """A text without the paths of this machine."""
  return (
    re.sub(rf"{re.escape(str(folder))}/(trial\d+/)?", "", value) if type(value) is str else value
  )


def _special(folder: str, names: list[str]) -> list[str]:
  """Pipes, which cannot be copied, and files of gigabytes."""
  paths = {name: pathlib.Path(folder, name) for name in names}
  return [
    name
    for name, path in paths.items()
    if not path.is_dir() and (not path.is_file() or path.stat().st_size > 1 << 28)
  ]


def references(folder: pathlib.Path) -> dict[str, Place]:
  """Places with the results of undisturbed runs, and how long these take."""
  folder.mkdir(parents=True, exist_ok=True)
  done = folder / "seconds.json"
  seconds = json.loads(done.read_text()) if done.is_file() else {}
  if not seconds:
    # In a child: nothing may be computed here, or no process could be made of this one.
    run(["draw", str(folder)], folder / "log")
    # Its key is the same in all trials, so that the same images get the same names.
    run(["prepare", "--source", str(folder / "images"), "--out", str(folder / "first"),
         "--private", str(folder / "private")], folder / "log")  # fmt: skip
  found = {}
  for place in faults_places.places(folder):
    trial = folder / "trial"
    for _ in range(2 if place.name not in seconds else 0):  # the second has programs
      place.make(trial)
      ended = run(place.argv(trial), trial / "log")
      if ended.status or ended.problem(may_refuse=False):
        print(ended.told[-2000:])
        raise SystemExit(f"{place.name} does not run undisturbed: status {ended.status}")
      if not place.same.exists():
        if "train" in place.name:
          shutil.copytree(trial / "run", folder / "run", dirs_exist_ok=True)
        elif (trial / place.result).is_dir():
          shutil.copytree(trial / place.result, place.same)
        else:
          shutil.copy(trial / place.result, place.same)
      elif difference := place.difference(trial, arrays):
        raise SystemExit(f"{place.name} twice is not the same: {difference}")
      seconds[place.name] = ended.seconds
      print(f"{place.name}: {ended.seconds:.1f} s", flush=True)
    done.write_text(json.dumps(seconds))
    found[place.name] = dataclasses.replace(place, seconds=seconds[place.name])
  return found


def all_trials(trials: Trials, places: dict[str, Place], folder: pathlib.Path, times: int) -> None:
  """Every trial that has not been made, the fast ones first.

  `times`: a place is disturbed in one way.
  """
  places = dict(sorted(places.items(), key=lambda place: place[1].seconds))
  whole = {name: place for name, place in places.items() if " from " not in f"{name} "}
  whole.pop("prepare phantoms")
  for name, place in whole.items():
    several = ("kill", "kill while writing", "stop")
    for how in several if "train" in name else (*several, "kill, again"):
      # Training takes the time: the other commands are disturbed more often.
      number = times if "train" in name else 5 * times
      number = 1 + number // 3 if how == "stop" else number
      kind, _, again = how.partition(",")
      trials.make(kind, name + again, partial(disturbed, place, times=number, how=kind))
    trials.make("two at once", name, partial(both, place))
  for name, place in places.items():
    for how in ("bit flip", "truncation") if place.damage else ():
      for number in range(4 * times - 1):
        trials.make(how, f"{name} {number}", partial(damaged, place, how=how))
  for bad in faults_inputs.bad_inputs(folder):
    trials.make("bad input", bad.name, partial(refused, bad))
  for name in ("prepare", "synthesize", "train danger"):
    trials.make("full disk", name, partial(without_space, places[name]))
  trials.make("process of two", "train danger", partial(of_two, places["train danger"]))


def table(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """What was tried and what held, by kind."""
  rows = []
  for kind, what in KINDS.items():
    made = [one for one in found if one["kind"] == kind]
    tried = sum(one["count"] for one in made)
    broken = [one for one in made if one["problem"]]
    rows.append({"kind": kind, "what": what, "tried": tried, "held": tried - len(broken)})
    for sort in ("lost", "traceback", "hang", "memory"):
      rows[-1][sort] = sum(one["problem"].startswith(sort) for one in broken)
  return rows


def main(argv: list[str]) -> None:
  """Makes all trials, and prints and writes the table."""
  parser = harness.parser(__doc__)
  parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/faults"))
  parser.add_argument("--times", type=int, default=2, help="training is disturbed in one way (2)")
  parser.add_argument(
    "--kinds",
    nargs="*",
    choices=KINDS,
    default=list(KINDS),
    help="which trials to make now, or none; those of earlier calls count too (all)",
  )
  options = parser.parse_args(argv)
  work = options.work.absolute()
  work.mkdir(parents=True, exist_ok=True)
  os.environ["HIRESMED_CACHE"] = str(work / "cache")
  compilation.LEAST_SECONDS = 0.0  # all programs of these commands are small
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {' '.join(_QUICK_FLAGS)}"
  places = references(work / "references")
  trials = Trials(work, options.kinds)
  all_trials(trials, places, work / "references", options.times)
  rows = table(trials.all)
  for row in rows:
    print(f"{row['kind']:20} {row['held']} of {row['tried']} held", flush=True)
  result = {
    "benchmark": "faults",
    **harness.environment(),
    "times": options.times,
    "rows": rows,
    "not_held": [one for one in trials.all if one["problem"]],
    "told": {f"{one['kind']}, {one['name']}": one["told"] for one in trials.all if "told" in one},
  }
  harness.publish(result, options.out)


if __name__ == "__main__":
  cli.run(main)
