"""How a run stops: by a signal, at once or after the step in hand, or with its other processes.

`stops_at_once` is for a whole command. Within it, `Interrupt` is for stretches after which there is
something to save.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hiresmed_jax.errors import GOES_ON, Stopped, UserError
from hiresmed_jax.runtime import cli

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEARD_SECONDS = 0.5  # in which a main thread that is not at work in C hears a signal
_CALL_SECONDS = 1.0  # aimed at, of a call and between two questions to the other processes


@contextlib.contextmanager
def stops_at_once(then: str = GOES_ON, *, patience: float = 5.0) -> Iterator[None]:
  """Within, SIGTERM or Ctrl-C raises `Stopped` in the main thread.

  Python hears a signal only between two of its own instructions, and a compiler takes minutes for
  one. So a thread listens as well: where the main thread does not hear, it says that the signal
  has come; after `patience` seconds, or at a second signal, it ends the process, with the line and
  the status of `Stopped`. Outside the main thread nothing is changed.

  Args:
    then: what the same command will do, for the line.
    patience: seconds.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def stop(number: int, _: FrameType | None) -> None:
    for each in _SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    raise Stopped(128 + number, then=then)

  def next_signal(seconds: float | None = None) -> int | None:
    """Its number; 0 when the block has been left; None after so many seconds without one."""
    while select.select([heard], [], [], seconds)[0]:
      if (number := os.read(heard, 1)[0]) in (0, *_SIGNALS):
        return number
    return None

  def watch() -> None:
    if number := next_signal():
      # A handler of `Interrupt` means that the main thread saves first.
      saves = getattr(signal.getsignal(number), "__self__", None)
      again = next_signal(_HEARD_SECONDS)
      if again is None and isinstance(saves, Interrupt):
        saves.say()
        again = next_signal()
        if again and next_signal(_HEARD_SECONDS) == 0:
          again = 0
      elif again is None:
        latest = f"stopping: within {patience:g} s, whatever is at work"
        os.write(2, f"\n{latest}; once more to end at once\n".encode())
        again = next_signal(patience)
      if again != 0:
        stopped = Stopped(128 + number, then=then)
        cli.end(stopped.code, str(stopped))
    os.close(heard)

  heard, tell = os.pipe()
  os.set_blocking(tell, False)

  def hook(unraisable: Any) -> None:
    # Raised within a callback of the collector it ends nothing: the thread will.
    if not isinstance(unraisable.exc_value, Stopped):
      unraised(unraisable)

  unraised, sys.unraisablehook = sys.unraisablehook, hook
  handlers = {number: signal.signal(number, stop) for number in _SIGNALS}
  before = signal.set_wakeup_fd(tell)
  threading.Thread(target=watch, daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    sys.unraisablehook = unraised
    for number, handler in handlers.items():
      signal.signal(number, handler)
    os.write(tell, b"\0")  # the thread ends
    os.close(tell)


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
    self._said = False

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
    self.say()

  def say(self) -> None:
    """Says once that the run stops."""
    if not self._said:
      self._said = True
      # print() may be what was interrupted, and is not safe to enter again.
      os.write(2, b"\nstopping after this step; once more to end at once\n")


class Pace:
  """Asks all processes whether to stop, about once a second, and sizes calls to a second's work.

  With several processes the question is a collective, which all of them must reach after the same
  call. They tell each other how long a step takes; the slowest says after how many calls they ask
  again, and how many steps a call makes: both are the same everywhere.

  Args:
    most: steps of a call.

  Attributes:
    steps: of the next call.
    slow: whether a call takes so long that not even one should wait behind it.
  """

  def __init__(self, most: int = 1) -> None:
    self.steps, self.slow = 1, False
    self._most, self._calls, self._wait = most, 1, 1
    self._since, self._done = time.monotonic(), 0

  def agree(self, asked: bool, steps: int = 1) -> bool:
    """To be called after every call of so many steps; True where any process was asked to stop."""
    self._done, self._wait = self._done + steps, self._wait - 1
    if self._wait:
      return False
    now, several = time.monotonic(), jax.process_count() > 1
    answers = np.array([[asked, (now - self._since) / self._done]], np.float32)
    if several:
      answers = multihost_utils.process_allgather(answers[0])
    seconds = max(float(np.max(answers[:, 1])), 1e-6)
    # At most twice as many as before: the first calls may return before their work is done.
    self.steps = max(1, min(self._most, 2 * self.steps, int(_CALL_SECONDS / seconds)))
    self.slow = seconds * self.steps > _CALL_SECONDS / 2
    if several:
      calls = int(_CALL_SECONDS / (seconds * self.steps))
      self._calls = max(1, min(2 * self._calls, calls))
    self._wait, self._since, self._done = self._calls, now, 0
    return bool(np.any(answers[:, 0]))


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
  ends, and they see that it is gone. In a run of one process nothing is changed, nor by exceptions
  of `unless`, which all processes have agreed upon.
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
      cli.end(GONE)
    timer = threading.Timer(patience, cli.end, (2 if isinstance(error, UserError) else 1,))
    timer.daemon = True
    timer.start()
    raise
