"""The kernels of a step on an accelerator by the time they take, from a trace."""

import collections
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import jax


def longest(call: Callable[[], Any], *, rounds: int = 2, count: int = 25) -> dict[str, Any]:
  """Traces `rounds` calls.

  Args:
    call: runs once and waits for the result; compiled and warmed up already.
    rounds: calls that are traced.
    count: operations that are listed.

  Returns:
    Milliseconds and launches per call, of all kernels and of the longest; the kernels of one
    operation of the compiled program are added. {} on the CPU, whose traces have no kernels.
  """
  if jax.default_backend() != "gpu":
    return {}
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(rounds):
        call()
    path = next(pathlib.Path(folder).rglob("*.xplane.pb"))
    with warnings.catch_warnings():  # about the types of the trace's reader
      warnings.simplefilter("ignore", DeprecationWarning)
      times = _times(jax.profiler.ProfileData.from_file(str(path)))
  rows = sorted(times.items(), key=lambda item: -item[1][0])
  return {
    "milliseconds": sum(ms for ms, _ in times.values()) / rounds,
    "launches": sum(launched for _, launched in times.values()) / rounds,
    "longest": [
      {"operation": operation, "milliseconds": ms / rounds, "launches": launched / rounds}
      for operation, (ms, launched) in rows[:count]
    ],
  }


def _times(trace: Any) -> dict[str, tuple[float, int]]:
  """{operation of the program: (milliseconds, launches)} of all streams."""
  times: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
  for plane in trace.planes:
    if "GPU" not in plane.name:
      continue
    for line in plane.lines:
      if line.name.startswith("Stream"):
        for event in line.events:
          # Operations in a captured graph are named by their kernel.
          name = dict(event.stats).get("hlo_op") or event.name
          key = event.name if str(name).startswith("command_buffer") else str(name)
          times[key][0] += event.duration_ns / 1e6
          times[key][1] += 1
  return {name: (ms, int(launched)) for name, (ms, launched) in times.items()}
