"""A bar for a person, few lines for a log, honest figures in both."""

import io
import re

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


def test_a_log_gets_a_line_every_ten_seconds_with_rate_and_time_left(clock):
  stream = io.StringIO()
  with Progress(100, "train background", stream=stream) as bar:
    bar.describe("l1 0.05")
    for step in range(1, 101):
      clock.now += 0.5
      bar.update(step)
  lines = stream.getvalue().splitlines()
  assert lines[0] == "train background 1 %  1/100 steps  l1 0.05"
  assert lines[1] == "train background 21 %  21/100 steps  2 step/s  40 s left  l1 0.05"
  assert lines[-1] == "train background 100 %  100/100 steps  2 step/s  l1 0.05"
  assert len(lines) == 6


def test_a_resumed_run_counts_its_own_steps_only(clock):
  stream = io.StringIO()
  with Progress(1000, "train", done=900, stream=stream) as bar:
    clock.now += 60  # compilation
    for step in (901, 902):
      clock.now += 20
      bar.update(step)
  assert "902/1000 steps  20 s/step  32 min 40 s left" in stream.getvalue()


def test_a_day_long_run_gets_few_lines(clock):
  stream = io.StringIO()
  with Progress(86400, "train", stream=stream) as bar:
    for step in range(1, 86401):
      clock.now += 1.0
      bar.update(step)
  assert 100 < len(stream.getvalue().splitlines()) < 1000


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
