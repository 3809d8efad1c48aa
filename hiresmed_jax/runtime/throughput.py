"""How fast a run is and how much memory it takes, measured and named for what it is."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax


class Rate:
  """Images and FLOPs per second between two measurements, pauses left out.

  Args:
    batch_size: images of one step, over all processes.
    flops_per_step: over all devices, from `flops`; NaN when unknown.
    step: where the run begins; without it the first call of `measure` only starts the clock.
  """

  def __init__(self, batch_size: int, flops_per_step: float, *, step: int | None = None) -> None:
    self._batch_size, self._flops_per_step = batch_size, flops_per_step
    self._step = step
    self._since = time.perf_counter()
    self._paused = 0.0

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time spent within does not count: evaluation, figures, checkpoints."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - began

  def measure(self, step: int) -> dict[str, float]:
    """Figures since the last call; the step's arrays must be ready, as after reading its losses.

    Returns:
      "images_per_second", "tflops_per_second" (where the FLOPs are known), and `peak_memory()`.
    """
    now = time.perf_counter()
    seconds, self._since, self._paused = now - self._since - self._paused, now, 0.0
    figures = peak_memory()
    if self._step is not None and step > self._step and seconds > 0:
      steps_per_second = (step - self._step) / seconds
      figures["images_per_second"] = steps_per_second * self._batch_size
      if math.isfinite(self._flops_per_step):
        figures["tflops_per_second"] = steps_per_second * self._flops_per_step / 1e12
    self._step = step
    return figures


def flops(lowered: Any) -> float:
  """FLOPs of one call over all devices, NaN when the backend does not tell.

  Args:
    lowered: `jitted.lower(...)`, before `.compile()`: a compiled program tells of one device's
      share, and of whatever rewriting the compiler has done. A multiply-add is two. The body of a
      loop is counted once, whatever its trip count.
  """
  analysis = lowered.cost_analysis()
  return float((analysis or {}).get("flops", math.nan))


def peak_memory() -> dict[str, float]:
  """Most memory that was in use at once since the process began, in bytes, named for what it is.

  "peak_device_memory_bytes" is the fullest local device's; on the CPU, which has no memory of its
  own, "peak_resident_memory_bytes" is the whole process's resident set.
  """
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
  if peaks:
    return {"peak_device_memory_bytes": float(max(peaks))}
  unit = 1 if sys.platform == "darwin" else 1024
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  return {"peak_resident_memory_bytes": float(resident)}
