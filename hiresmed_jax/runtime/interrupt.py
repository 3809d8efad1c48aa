"""How a run stops: by a signal that the loop reads between steps, or with its other processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hiresmed_jax.errors import UserError

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


GONE = 75  # the status of a process that ends because another has: for whoever started them
# How gloo, NCCL and JAX's coordination service speak of a process that is gone.
_GONE = re.compile(r"gloo|nccl|(closed|reset) by peer|heartbeat|coordination ?service", re.I)


@contextlib.contextmanager
def leave_together(
  *, patience: float = 10.0, unless: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
  """Ends this process when what runs within fails, though others may still be at work.

  A process ends only when all the others have come to their end too, and these wait for it in the
  next collective: without this they would wait for minutes. A collective that failed because
  another process is gone becomes one line, and status 75, at once. With any other exception, which
  passes through, the others have `patience` seconds to make the same mistake; then this process
  ends, and they see that it is gone. In a run of one process nothing is changed.

  Args:
    patience: seconds.
    unless: exceptions that all processes have agreed upon.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1 or isinstance(error, unless):
      raise
    told = " ".join(str(error).split())
    if isinstance(error, Exception) and not isinstance(error, UserError) and _GONE.search(told):
      print(
        f"error: another process of this run is gone ({told[:160]}): see what it said; the same "
        "command, given to all of them, goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
      )
      _end(GONE)
    timer = threading.Timer(patience, _end, (2 if isinstance(error, UserError) else 1,))
    timer.daemon = True
    timer.start()
    raise


def _end(status: int) -> None:
  sys.stdout.flush()
  os._exit(status)
