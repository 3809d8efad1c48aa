"""How two sides are timed beside each other in one process."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved(
  calls: Mapping[str, Callable[[], Any]], rounds: int, *, limit_s: float | None = None
) -> dict[str, list[float]]:
  """Seconds of the second of two calls of each side in turn, for `rounds` rounds after a first one.

  The first of the two does not count: after PyTorch its threads spin for tenths of a second, and
  memory goes to and fro. Of one call each in turn, a step of YOLO11n took 1.29 s instead of .88.

  Args:
    calls: name of a side -> what to time, which waits for its own result.
    limit_s: after so many seconds it ends, though not before five rounds; None for no limit.
  """
  times: dict[str, list[float]] = {side: [] for side in calls}
  for call in calls.values():
    call()
  begin = time.perf_counter()
  for done in range(rounds):
    if limit_s is not None and done >= 5 and time.perf_counter() - begin > limit_s:
      break
    for side, call in calls.items():
      call()
      start = time.perf_counter()
      call()
      times[side].append(time.perf_counter() - start)
  return times
