"""What all benchmarks share: options, facts of the machine, timing, and the result file."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from hiresmed_jax import files
from hiresmed_jax.errors import UserError

# For programs that run once: they compile sooner and run slower.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "lpips")


def parser(doc: str | None) -> argparse.ArgumentParser:
  """Options of a benchmark: `--out`, and its module's docstring as help."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument("--out", type=pathlib.Path, help="also write the result to this JSON file")
  return made


def publish(result: Mapping[str, Any], out: pathlib.Path | None) -> None:
  """Prints a result as one JSON line, and writes it to a file where one is given."""
  print(json.dumps(result), flush=True)
  if out:
    files.write_json(out, result, indent=1)


def environment() -> dict[str, Any]:
  """Device, cores, load and date at the time of the call, versions, and the commit of the code."""
  described = subprocess.run(
    ["git", "describe", "--always", "--dirty"],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parent,
    check=False,
  )
  # A tree that was exported to another machine has no history there.
  commit = os.environ.get("HIRESMED_COMMIT") or described.stdout.strip() or None
  device = jax.devices()[0]
  return {
    "device": _processor() if device.platform == "cpu" else device.device_kind,
    "devices": jax.device_count(),
    "cores": os.cpu_count(),
    "load_average_1min": round(os.getloadavg()[0], 2),
    "date": time.strftime("%Y-%m-%d"),
    "commit": commit,
    "versions": {"python": platform.python_version()}
    | {p: importlib.metadata.version(p) for p in _PACKAGES if importlib.util.find_spec(p)},
  }


def _processor() -> str:
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
  return f"cpu, {names[0] if names else platform.processor()}"


def torch_device() -> str:
  """The device of PyTorch that jax uses, too: "cuda" or "cpu".

  Raises:
    UserError: PyTorch is not installed, or cannot use the GPU that jax uses.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError("this comparison needs PyTorch: pip install torch") from error
  if jax.default_backend() != "gpu":
    return "cpu"
  if not torch.cuda.is_available():
    raise UserError("jax uses a GPU that PyTorch does not see: install PyTorch for CUDA")
  return "cuda"


def interleaved(
  calls: Mapping[Any, Callable[[], Any]], rounds: int, *, limit_s: float | None = None
) -> dict[Any, list[float]]:
  """Times several sides in turn: after one call of each, `rounds` rounds of two calls of each.

  Of the two calls only the second counts: after PyTorch its threads spin for tenths of a second,
  and memory changes hands. With one call of each in turn, a step of YOLO11n took 1.29 s, not 0.88.

  Args:
    calls: name of a side -> what to time, which waits for its own result.
    rounds: at most.
    limit_s: seconds after which no new round begins, but not before five rounds; None: no limit.

  Returns:
    Seconds of each side's counted calls.
  """
  times: dict[Any, list[float]] = {side: [] for side in calls}
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
