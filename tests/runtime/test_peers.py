import time

import jax
import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli, interrupt

LOST = "UNKNOWN: Gloo AllGather failed: [pair.cc:547]\nConnection closed by peer [127.0.0.1]:48308"


@pytest.fixture
def ends(monkeypatch):
  """Statuses that a process of two would have ended with."""
  found = []

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(cli, "end", found.append)
  return found


def fail(error, **options):
  with interrupt.leave_together(**options):
    raise error


def wait(ends):
  waited = time.monotonic()
  while not ends and time.monotonic() - waited < 5:
    time.sleep(0.01)
  return ends


def test_a_lost_process_is_one_line(ends, capsys):
  with pytest.raises(ValueError, match="Gloo"):  # here the process would be gone
    fail(ValueError(LOST), patience=100.0)
  assert ends == [75]
  told = capsys.readouterr().err
  assert told.startswith("error: another process of this run is gone (UNKNOWN: Gloo AllGather")
  assert "the same command, given to all of them, goes on from the last checkpoint" in told
  assert told.count("\n") == 1


@pytest.mark.parametrize(
  ("error", "status"),
  [(UserError("the disk is full of gloo"), 2), (ValueError("a bug"), 1), (KeyboardInterrupt(), 1)],
  ids=repr,
)
def test_any_other_failure_passes_and_ends_the_process_in_a_while(ends, capsys, error, status):
  with pytest.raises(type(error)):
    fail(error, patience=0.2)
  assert ends == []
  assert wait(ends) == [status]
  assert capsys.readouterr().err == ""


def test_what_all_have_agreed_upon_is_no_failure(ends):
  with pytest.raises(StopIteration):
    fail(StopIteration(), patience=0.0, unless=(StopIteration,))
  with interrupt.leave_together(patience=0.0):
    pass
  time.sleep(0.1)
  assert ends == []


def test_a_run_of_one_process_is_left_alone(monkeypatch):
  monkeypatch.setattr(cli, "end", lambda status: pytest.fail("ended"))
  with pytest.raises(ValueError, match="Gloo"):
    fail(ValueError(LOST), patience=0.0)
  time.sleep(0.1)
