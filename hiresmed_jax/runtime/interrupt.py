"""Stopping a run politely: a signal becomes a flag that the loop reads between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
  """Within `with Interrupt() as stop:` the first SIGTERM or Ctrl-C only sets `stop.requested`.

  The second one ends the process at once. Outside the main thread, where Python delivers no
  signals, nothing is changed.

  Attributes:
    requested: whether a signal has come.
    exit_code: 128 + the signal's number, as a shell reports it; that of SIGTERM where only another
      process was told.
  """

  def __init__(self) -> None:
    self.requested = False
    self.exit_code = 128 + signal.SIGTERM
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> Interrupt:
    if threading.current_thread() is threading.main_thread():
      self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, _: FrameType | None) -> None:
    if self.requested:
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
    self.requested = True
    self.exit_code = 128 + number
    # print() may be what was interrupted, and is not safe to enter again.
    os.write(2, b"\nstopping after this step; once more to end at once\n")


def agree(flag: bool) -> bool:
  """True on every process when `flag` is True on any of them.

  All processes must call it together, and with several of them it waits for the device: ask every
  few steps. With one process it returns the flag and costs nothing.
  """
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))
