"""A training step that has become costlier is caught here, without a clock."""

import json
import subprocess
import sys

import pytest

from benchmarks import programs

COMMITTED = json.loads(programs.COMMITTED.read_text())
LARGE = ("wide, 8 x 8", "wide, 32 x 8")  # more devices than a test has
SAME_COMPILER = COMMITTED["compiler"] == programs.compiler()


def names(part, fast):
  found = [n for n, facts in COMMITTED["programs"].items() if part in facts and n not in LARGE]
  return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in found]


def assert_not_costlier(name, now, part):
  old = COMMITTED["programs"][name]
  for key in ("mesh", "images", "size"):
    assert now[key] == old[key]
  lines = programs.costlier(name, now[part], old[part])
  assert not lines, "\n".join(lines)


@pytest.mark.parametrize("name", names("traced", fast=("demo, residual",)))
def test_a_traced_step_costs_no_more_than_committed(name):
  now = programs.figures(programs.PROGRAMS[name], parts=["traced"])
  assert_not_costlier(name, now, "traced")


# What another version of the compiler makes of the same step is another question.
if SAME_COMPILER:

  @pytest.mark.optimised
  @pytest.mark.parametrize("name", names("compiled", fast=()))
  def test_a_compiled_step_costs_no_more_than_committed(name):
    now = programs.figures(programs.PROGRAMS[name], parts=["compiled"])
    assert_not_costlier(name, now, "compiled")


@pytest.mark.optimised
@pytest.mark.slow
def test_programs_for_64_and_256_devices(tmp_path):
  out = tmp_path / "programs.json"
  command = [sys.executable, "-m", "benchmarks.programs", "--only", *LARGE, "--out", str(out)]
  told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=480)
  assert "32 x 8" in told.stdout
  found = json.loads(out.read_text())["programs"]
  assert list(found) == list(LARGE)
  for name, now in found.items():
    if SAME_COMPILER:
      assert_not_costlier(name, now, "compiled")
  # A device of 256 sends and holds no more than one of 64: only the axis "data" has grown.
  few, many = (found[name]["compiled"] for name in LARGE)
  assert many["collectives"] == few["collectives"]
  assert many["state_and_batch_bytes"] == few["state_and_batch_bytes"]


def test_every_program_is_committed():
  assert list(COMMITTED["programs"]) == list(programs.PROGRAMS)
  assert COMMITTED["commit"]


def test_what_has_grown_is_told_with_the_command_that_accepts_it():
  old = {"flops": 100.0, "collectives": {"all-reduce": {"times": 2, "bytes": 1000}}}
  assert programs.costlier("p", old, old) == []
  less = {"flops": 50.0, "collectives": {}}
  assert programs.costlier("p", less, old) == []
  assert programs.costlier("p", {**old, "flops": 101.9}, old) == []
  command = "if this is meant: python -m benchmarks.programs --out"
  grown, accept = programs.costlier("p", {**old, "flops": 102.1e3}, old)
  assert grown == "p: flops was 100 and is 102,100"
  assert accept.startswith(command)
  traffic = {"all-reduce": {"times": 3, "bytes": 1001}, "all-gather": {"times": 1, "bytes": 8}}
  assert programs.costlier("p", {**old, "collectives": traffic}, old)[:-1] == [
    "p: collectives all-reduce times was 2 and is 3",
    "p: collectives all-gather times was 0 and is 1",
    "p: collectives all-gather bytes was 0 and is 8",
  ]
