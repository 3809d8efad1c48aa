"""What a measurement was made on: stands in every file below results/."""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "lpips")


def environment() -> dict[str, Any]:
  """Device, cores, load and date when it was asked, versions, and the commit of the code."""
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
