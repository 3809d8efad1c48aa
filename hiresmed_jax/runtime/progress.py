"""How far a long command has come: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import ClassVar, TextIO

import jax
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from hiresmed_jax.errors import printable

_SECONDS_BETWEEN_LINES = 9.0
_TICK = 0.5  # seconds after which a thread looks whether a line is due, whatever the work does


class Progress:
  """Shows count, rate and time left of a piece of work, on process 0 only.

  The rate is the mean since the first update, so that compilation before it does not count, and
  pauses for evaluation do: the time left is honest. Of several that are open only the innermost
  writes.

  Args:
    total: how much there is to do; None when nobody knows.
    name: what is being done.
    done: how much was done before, by an earlier run.
    unit: what is counted; "": nothing is, and a log gets lines that say for how long it is at work.
    stream: where to write, standard error by default.
  """

  _open: ClassVar[list[Progress]] = []

  def __init__(
    self,
    total: int | None,
    name: str,
    *,
    done: int = 0,
    unit: str = "step",
    stream: TextIO | None = None,
  ) -> None:
    self._total, self._name, self._unit = total, name, unit
    self._done, self._detail = done, ""
    self._start: tuple[float, int] | None = None
    self._doing: tuple[str, float] | None = None
    self._began = time.monotonic()
    self._next_line = self._began + _SECONDS_BETWEEN_LINES
    self._shown = -1
    self._lock = threading.RLock()
    self._over = threading.Event()
    self._watch: threading.Thread | None = None
    self._stream = sys.stderr if stream is None else stream
    self._console = Console(file=self._stream)
    self._bar: Bar | None = None
    self._speaks = jax.process_index() == 0

  def __enter__(self) -> Progress:
    if self._speaks and self._open and (outer := self._open[-1]._bar) is not None:
      outer.stop()
    self._open.append(self)
    if self._speaks and self._console.is_terminal and self._unit:
      self._bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[line]}", markup=False),
        console=self._console,
        # What a command prints belongs to its own stream, which may be a file.
        redirect_stdout=sys.stdout.isatty(),
      )
      self._bar.add_task(self._name, total=self._total, completed=self._done, line="")
      self._bar.start()
    if self._speaks and (self._bar is not None or not self._console.is_terminal):
      self._watch = threading.Thread(target=self._speak, daemon=True)
      self._watch.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._over.set()
    if self._watch is not None:
      self._watch.join()
    self._open.remove(self)
    if self._bar is not None:
      self._refresh()
      self._bar.stop()
      self._bar = None
    elif self._speaks and self._unit and self._shown != self._done:
      self._write_line()
    if self._speaks and self._open and (outer := self._open[-1]._bar) is not None:
      outer.start()

  def update(self, done: int) -> None:
    """Says that `done` of the total are done. Cheap: call it at every step."""
    now, first = time.monotonic(), self._start is None
    if first:
      self._start = (now, done)
    self._done = done
    if self._bar is not None:
      self._refresh()
    elif self._speaks and (first or now >= self._next_line):
      self._write_line()

  def advance(self, count: int = 1) -> None:
    """Says that `count` more are done."""
    self.update(self._done + count)

  def describe(self, detail: str) -> None:
    """Sets the few words at the end of the line, such as the newest loss."""
    self._detail = detail

  @contextlib.contextmanager
  def doing(self, what: str, *, announce: bool = False) -> Iterator[None]:
    """Within, the line names work that is not counted, and the seconds that it has taken.

    Args:
      what: the work.
      announce: whether a log gets a line when it begins.
    """
    self._doing = (what, time.monotonic())
    if announce and self._speaks and self._bar is None:
      self._write_line()
    try:
      yield
    finally:
      self._doing = None

  def print(self, line: str) -> None:
    """Writes a line of its own, above the bar when there is one."""
    if self._speaks:
      self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

  def _speak(self) -> None:
    """Keeps the line alive while the work is silent; runs in a thread of its own."""
    while not self._over.wait(_TICK):
      if self._open[-1] is not self:
        continue
      if self._bar is not None:
        self._refresh()
      elif time.monotonic() >= self._next_line:
        self._write_line()

  def _refresh(self) -> None:
    assert self._bar is not None
    self._bar.update(self._bar.task_ids[0], completed=self._done, line=self._line())

  def _write_line(self) -> None:
    with self._lock:
      self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
      self._shown = self._done
      share = f" {100 * self._done / self._total:.0f} %" if self._total else ""
      print(f"{self._name}{share}  {self._line()}", file=self._stream, flush=True)

  def _line(self) -> str:
    if not self._unit:
      return f"at work for {duration(time.monotonic() - self._began)}"
    count = f"{self._done}/{self._total}" if self._total else f"{self._done}"
    parts = [f"{count} {self._unit}s"]
    rate = self._rate()
    if rate:
      parts.append(
        f"{rate:.3g} {self._unit}/s" if rate >= 0.1 else f"{1 / rate:.3g} s/{self._unit}"
      )
    left = self._seconds_left()
    if left:
      parts.append(f"{duration(left)} left")
    if self._doing is not None:
      what, began = self._doing
      parts.append(f"{what}, {duration(time.monotonic() - began)} so far")
    return "  ".join([*parts, self._detail] if self._detail else parts)

  def _rate(self) -> float | None:
    """Units per second, None before there is anything to measure."""
    if self._start is None:
      return None
    began, first = self._start
    seconds = time.monotonic() - began
    return (self._done - first) / seconds if seconds > 0 and self._done > first else None

  def _seconds_left(self) -> float | None:
    rate = self._rate()
    if rate is None or self._total is None:
      return None
    return max(self._total - self._done, 0) / rate


def duration(seconds: float) -> str:
  """Seconds as a person says them: "8 s", "3 min 05 s", "2 h 10 min", "3 d 4 h"."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60:02d} s"
  minutes = round(seconds / 60)
  if minutes < 24 * 60:
    return f"{minutes // 60} h {minutes % 60:02d} min"
  hours = round(seconds / 3600)
  return f"{hours // 24} d {hours % 24} h"
