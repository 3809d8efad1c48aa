"""A bar for a person, few lines for a log, honest figures in both."""

import io
import re
import time

import pytest

from hiresmed_jax.runtime import progress
from hiresmed_jax.runtime.progress import Progress, duration


class Clock:
  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
  return Clock(monkeypatch)


def test_a_log_gets_a_line_within_ten_seconds_with_rate_and_time_left(clock):
  stream = io.StringIO()
  with Progress(100, "train background", stream=stream) as bar:
    bar.describe("l1 0.05")
    for step in range(1, 101):
      clock.now += 0.5
      bar.update(step)
  lines = stream.getvalue().splitlines()
  assert lines[0] == "train background 1 %  1/100 steps  l1 0.05"
  assert lines[1] == "train background 19 %  19/100 steps  2 step/s  40 s left  l1 0.05"
  assert lines[-1] == "train background 100 %  100/100 steps  2 step/s  l1 0.05"
  assert len(lines) == 7


def test_a_resumed_run_counts_its_own_steps_only(clock):
  stream = io.StringIO()
  with Progress(1000, "train", done=900, stream=stream) as bar:
    clock.now += 60  # compilation
    for step in (901, 902):
      clock.now += 20
      bar.update(step)
  assert "902/1000 steps  20 s/step  32 min 40 s left" in stream.getvalue()


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.02)
  monkeypatch.setattr(progress, "_TICK", 0.005)


def lines_after(stream, count):
  """What a stream gets next, at least so many lines; a minute is long enough."""
  begin = len(stream.getvalue().splitlines())
  for _ in range(6000):
    if len(lines := stream.getvalue().splitlines()) >= begin + count:
      return lines[begin:]
    time.sleep(0.01)
  return pytest.fail("nothing is written while the work is silent")


def test_a_log_gets_lines_while_the_work_is_silent(quick):
  stream = io.StringIO()
  with Progress(10, "train", stream=stream) as bar:
    with bar.doing("compiling: may take minutes", announce=True):
      first = stream.getvalue().splitlines()[0]
      assert first == "train 0 %  0/10 steps  compiling: may take minutes, 0 s so far"
      assert "0/10 steps  compiling" in lines_after(stream, 2)[-1]
    bar.update(1)
    last = lines_after(stream, 3)[-1]
    assert last.startswith("train 10 %  1/10 steps")
    assert "compiling" not in last
  ended = stream.getvalue()
  time.sleep(0.1)
  assert stream.getvalue() == ended


def test_of_several_the_innermost_writes(quick):
  outer, inner = io.StringIO(), io.StringIO()
  with Progress(None, "evaluate", unit="", stream=outer):
    assert re.fullmatch(r"evaluate  at work for \d+ s", lines_after(outer, 1)[-1])
    with Progress(2, "images", stream=inner):
      lines_after(inner, 1)
      before = outer.getvalue()
      lines_after(inner, 2)
      assert outer.getvalue() == before
    lines_after(outer, 1)


def test_an_unknown_total_still_tells_the_rate(clock):
  stream = io.StringIO()
  with Progress(None, "prepare", unit="image", stream=stream) as bar:
    for _ in range(30):
      clock.now += 0.1
      bar.advance()
  assert stream.getvalue().splitlines()[-1] == "prepare  30 images  10 image/s"


def test_nothing_done_says_nothing(clock):
  stream = io.StringIO()
  with Progress(0, "prepare", stream=stream):
    pass
  assert "nan" not in stream.getvalue()


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch):
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setenv("COLUMNS", "120")
  monkeypatch.delenv("NO_COLOR", raising=False)
  stream = Terminal()
  with Progress(10, "train [x]", stream=stream) as bar:
    bar.describe("l1 [0.05]")
    for step in range(1, 11):
      bar.update(step)
    bar.print("saved [bold] step 10")
  text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
  assert "train [x]" in text
  assert "10/10 steps" in text
  assert "l1 [0.05]" in text
  assert "saved [bold] step 10" in text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.4, "0 s"),
    (59.4, "59 s"),
    (59.6, "1 min 00 s"),
    (185, "3 min 05 s"),
    (7800, "2 h 10 min"),
    (86399, "1 d 0 h"),
    (273600, "3 d 4 h"),
  ],
)
def test_durations_read_as_people_say_them(seconds, text):
  assert duration(seconds) == text
