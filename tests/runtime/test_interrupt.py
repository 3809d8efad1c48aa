"""The first signal asks, the second one ends; what was there before comes back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from hiresmed_jax.runtime.interrupt import Interrupt, agree


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
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
  )
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


def test_one_process_agrees_with_itself():
  assert agree(True) is True
  assert agree(False) is False
