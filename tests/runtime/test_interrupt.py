"""The first signal asks, the second one ends; what was there before comes back."""

import os
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

from hiresmed_jax.runtime import interrupt
from hiresmed_jax.runtime.interrupt import Interrupt, Pace, Stopped, stops_at_once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks(number, capfd):
  before = signal.getsignal(number)
  with Interrupt() as stop:
    seen = [(stop.requested, stop.exit_code)]
    os.kill(os.getpid(), number)
    seen.append((stop.requested, stop.exit_code))
  assert seen == [(False, 143), (True, 128 + number)]
  assert signal.getsignal(number) is before
  assert "stopping after this step" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(number):
  code = f"""
import os, signal
from hiresmed_jax.runtime.interrupt import Interrupt
with Interrupt():
  os.kill(os.getpid(), {int(number)})
  print("still here", flush=True)
  os.kill(os.getpid(), {int(number)})
  print("too far", flush=True)
"""
  result = run(code)
  assert result.stdout == "still here\n"
  assert result.returncode == -number


def test_another_thread_may_use_it_too():
  seen = []

  def work():
    with Interrupt() as stop:
      seen.append(stop.requested)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_once_where_there_is_nothing_to_save(number):
  before = signal.getsignal(number)
  with pytest.raises(Stopped) as stopped, stops_at_once():
    os.kill(os.getpid(), number)
  assert stopped.value.code == 128 + number
  assert str(stopped.value) == "stopped: the same command goes on from there"
  assert signal.getsignal(number) is before
  assert signal.set_wakeup_fd(-1) == -1


def test_within_stops_at_once_what_has_something_to_save_is_left_time(capfd):
  with stops_at_once(patience=0.1), Interrupt() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    assert stop.requested
  assert "stopped:" not in capfd.readouterr().err


def run(code: str) -> subprocess.CompletedProcess[str]:
  arguments = [sys.executable, "-c", code]
  return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


# The main thread waits in C for a lock that it holds itself, as it would for a compiler.
_DEAF = """
import contextlib, ctypes, os, signal, threading
from hiresmed_jax.runtime import interrupt
lock = ctypes.create_string_buffer(256)
library = ctypes.CDLL(None)
with interrupt.stops_at_once("begin anew", patience={patience}), {within}:
  for seconds in {signals}:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
  for _ in range(2):
    library.pthread_mutex_lock(lock)
"""


def test_a_process_that_does_not_hear_ends_all_the_same():
  result = run(_DEAF.format(patience=0.3, within="contextlib.nullcontext()", signals=[0.3]))
  assert result.returncode == 143
  said, stopped = result.stderr.strip().splitlines()
  assert said.startswith("stopping: within 0.3 s")
  assert stopped == "stopped: begin anew"


@pytest.mark.parametrize("within", ["contextlib.nullcontext()", "interrupt.Interrupt()"])
def test_a_second_signal_ends_at_once_what_does_not_hear(within):
  result = run(_DEAF.format(patience=1000, within=within, signals=[0.3, 1.2]))
  assert result.returncode == 143
  said, stopped = result.stderr.strip().splitlines()
  assert said.startswith("stopping")
  assert stopped == "stopped: begin anew"


def test_a_stop_that_the_collector_swallows_is_no_traceback():
  result = run("""
import gc, os, signal, time
from hiresmed_jax.runtime import interrupt

class Deaf:
  def __del__(self):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)

with interrupt.stops_at_once(patience=0.3):
  Deaf()
  time.sleep(10)
""")
  assert result.returncode == 143
  assert "Traceback" not in result.stderr
  assert result.stderr.endswith("stopped: the same command goes on from there\n")


@pytest.fixture
def clock(monkeypatch):
  clock = types.SimpleNamespace(now=100.0)
  monkeypatch.setattr(interrupt.time, "monotonic", lambda: clock.now)
  return clock


@pytest.mark.parametrize(
  ("seconds", "most", "expected"),
  [(0.01, 100, 100), (0.03, 100, 33), (0.3, 100, 3), (5.0, 100, 1), (0.01, 4, 4)],
)
def test_a_call_takes_about_a_second(clock, seconds, most, expected):
  pace = Pace(most)
  assert pace.steps == 1
  for _ in range(10):
    before = pace.steps
    clock.now += seconds * pace.steps
    assert not pace.agree(False, pace.steps)
    assert pace.steps <= 2 * before
  assert pace.steps == expected
  assert pace.slow == (seconds * expected > 0.5)


def test_one_process_is_heard_after_every_call(clock):
  pace = Pace()
  for asked in (False, True, False, True):
    clock.now += 1e-4
    assert pace.agree(asked) is asked


def decisions(clock, monkeypatch, mine, others, asked_at):
  """What a process decides after each call, when the other one takes `others` seconds a step."""
  asks: list[int] = []
  found = []

  def gather(values):
    asks.append(len(found))
    # The other process reads its clock at the same call.
    return np.stack([values, np.float32([len(found) >= asked_at, others])])

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(interrupt.multihost_utils, "process_allgather", gather)
  pace = Pace(8)
  for _ in range(400):
    steps = pace.steps
    clock.now += mine * steps
    found.append((steps, pace.agree(False, steps)))
    if found[-1][1]:
      break
  return found, asks


@pytest.mark.parametrize(("one", "other"), [(0.001, 0.001), (0.02, 0.001), (0.4, 0.3)])
def test_processes_ask_each_other_once_a_second_and_decide_alike(clock, monkeypatch, one, other):
  mine, asks = decisions(clock, monkeypatch, one, other, asked_at=100)
  theirs, others = decisions(clock, monkeypatch, other, one, asked_at=100)
  assert (mine, asks) == (theirs, others)
  assert mine[-1][1]
  assert not any(stops for _, stops in mine[:-1])
  # Between two questions there are at most a second's steps, of the slower process, or one call.
  gaps = np.diff(asks)
  steps = [count for count, _ in mine]
  for start, gap in zip(asks, gaps):
    assert gap == 1 or sum(steps[start + 1 : start + 1 + gap]) * max(one, other) < 1.01
  if max(one, other) < 0.01:
    assert gaps.max() > 30


def test_what_another_process_is_asked_stops_this_one_too(clock, monkeypatch):
  found, _ = decisions(clock, monkeypatch, 0.5, 0.5, asked_at=3)
  assert [stops for _, stops in found] == [False] * 3 + [True]
