"""Accelerators that are not here, described to their compilers, which run on a CPU.

A GPU is described by a text; its plugin needs no driver and no NVIDIA library. A TPU is known to
libtpu by name. Neither tells time, tunes cuDNN's algorithms or knows their workspaces.

  bash launch/targets.sh
  JAX_PLATFORMS=cpu python -m benchmarks.programs --target h200
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from jax.experimental import topologies

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.devices import DEVICES

# What the plugins read when they are loaded: there is no device to look for.
ENVIRONMENT = {
  "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_COMMON = """
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  threads_per_core_limit: 2048 registers_per_core_limit: 65536 registers_per_block_limit: 65536
"""
_HOPPER = """
  core_count: 132 fpus_per_core: 128 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
"""
_AMPERE = """
  core_count: 108 fpus_per_core: 64 shared_memory_per_core: 167936
  shared_memory_per_block_optin: 166912 cuda_compute_capability { major: 8 }
  l2_cache_size: 41943040 clock_rate_ghz: 1.41
"""
_VOLTA = """
  core_count: 80 fpus_per_core: 64 shared_memory_per_core: 98304
  shared_memory_per_block_optin: 98304 cuda_compute_capability { major: 7 }
  l2_cache_size: 6291456 clock_rate_ghz: 1.53
"""


# The texts of GPUs; what is not among them is a TPU.
_GPUS = {"h200": _HOPPER, "h100": _HOPPER, "a100": _AMPERE, "v100": _VOLTA}
_CUDNN = (9, 10, 0)
# Slices of TPUs by their number of devices. (The smallest of a v5p has four: one of them is used.)
_SLICES = {
  "v5e": {1: "v5e:1x1", 8: "v5e:2x4", 32: "v5e:4x8"},
  "v5p": {1: "v5p:2x2x1", 8: "v5p:2x2x2", 32: "v5p:2x4x4"},
  "v6e": {1: "v6e:1x1", 8: "v6e:2x4", 32: "v6e:4x8"},
}


def is_gpu(name: str) -> bool:
  return name in _GPUS


def installed(name: str) -> bool:
  """Whether the compiler of a target is there; nothing is loaded."""
  plugin = "jax_plugins.xla_cuda12" if is_gpu(name) else "libtpu"
  try:
    return importlib.util.find_spec(plugin) is not None
  except ModuleNotFoundError:
    return False


def devices(name: str, count: int = 1) -> Sequence[Any]:
  """The first `count` devices of a described machine.

  Raises:
    UserError: the compiler is not installed, or knows no such machine.
  """
  if not installed(name):
    raise UserError(f"the compiler of {name} is not installed: bash launch/targets.sh")
  os.environ.update(ENVIRONMENT)
  if is_gpu(name):
    machine = topologies.get_topology_desc(
      platform="cuda", target_config=_text(name), topology=f"1x1x{count}"
    )
  elif count in _SLICES[name]:
    alone = {"chips_per_host_bounds": (1, 1, 1)} if _SLICES[name][count].endswith(":1x1") else {}
    machine = topologies.get_topology_desc(_SLICES[name][count], "tpu", **alone)
  else:
    raise UserError(
      f"no slice of {name} with {count} devices: {', '.join(map(str, _SLICES[name]))}"
    )
  return machine.devices[:count]


def _text(name: str) -> str:
  target, (major, minor, patch) = DEVICES[name], _CUDNN
  return (
    f"gpu_device_info {{ {_COMMON} {_GPUS[name]}"
    f" memory_bandwidth: {target.bytes_per_second:.0f} device_memory_size: {target.memory} }}"
    f' platform_name: "CUDA" device_description_str: "{target.name}"'
    f" dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}"
    " runtime_version { major: 12 minor: 9 patch: 0 }"
  )
