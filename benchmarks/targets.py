"""Accelerators that are not here, described to their compilers, which run on a CPU.

A GPU is described by a text; its plugin needs no driver and no NVIDIA library. A TPU is known to
libtpu by name. Neither tells time, tunes cuDNN's algorithms or knows their workspaces.

  bash launch/targets.sh
  JAX_PLATFORMS=cpu python -m benchmarks.programs --target h200
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import topologies

from hiresmed_jax.errors import UserError

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


class Target(NamedTuple):
  """A device by its data sheet."""

  name: str
  bytes_per_second: float
  flops_per_second: float  # of dense matrix products in `dtype`
  memory: int  # bytes
  dtype: Any
  gpu: str = ""  # the text of a GPU; "" for a TPU
  cudnn: tuple[int, int, int] = (9, 10, 0)


def _tpu(name: str, bandwidth: float, flops: float, gib: float) -> Target:
  return Target(name, bandwidth, flops, int(gib * (1 << 30)), jnp.bfloat16)


# The usable memory of a v5e is what its compiler allows a program.
TARGETS = {
  "h200": Target("NVIDIA H200", 4.8e12, 989e12, 151_397_597_184, jnp.bfloat16, _HOPPER),
  "h100": Target("NVIDIA H100 80GB HBM3", 3.35e12, 989e12, 85_520_809_984, jnp.bfloat16, _HOPPER),
  "a100": Target("NVIDIA A100-SXM4-80GB", 2.04e12, 312e12, 85_097_971_712, jnp.bfloat16, _AMPERE),
  # No bfloat16, and no tensor cores for float32.
  "v100": Target("Tesla V100-SXM2-32GB", 0.9e12, 15.7e12, 34_079_637_504, jnp.float32, _VOLTA),
  "v5e": _tpu("v5e", 0.82e12, 197e12, 15.75),
  "v5p": _tpu("v5p", 2.77e12, 459e12, 95.0),
  "v6e": _tpu("v6e", 1.64e12, 918e12, 31.25),
}
# Slices of TPUs by their number of devices. (The smallest of a v5p has four: one of them is used.)
_SLICES = {
  "v5e": {1: "v5e:1x1", 8: "v5e:2x4", 32: "v5e:4x8"},
  "v5p": {1: "v5p:2x2x1", 8: "v5p:2x2x2", 32: "v5p:2x4x4"},
  "v6e": {1: "v6e:1x1", 8: "v6e:2x4", 32: "v6e:4x8"},
}


def installed(name: str) -> bool:
  """Whether the compiler of a target is there; nothing is loaded."""
  plugin = "jax_plugins.xla_cuda12" if TARGETS[name].gpu else "libtpu"
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
  target = TARGETS[name]
  if target.gpu:
    machine = topologies.get_topology_desc(
      platform="cuda", target_config=_text(target), topology=f"1x1x{count}"
    )
  elif count in _SLICES[name]:
    alone = {"chips_per_host_bounds": (1, 1, 1)} if _SLICES[name][count].endswith(":1x1") else {}
    machine = topologies.get_topology_desc(_SLICES[name][count], "tpu", **alone)
  else:
    raise UserError(
      f"no slice of {name} with {count} devices: {', '.join(map(str, _SLICES[name]))}"
    )
  return machine.devices[:count]


def _text(target: Target) -> str:
  major, minor, patch = target.cudnn
  return (
    f"gpu_device_info {{ {_COMMON} {target.gpu}"
    f" memory_bandwidth: {target.bytes_per_second:.0f} device_memory_size: {target.memory} }}"
    f' platform_name: "CUDA" device_description_str: "{target.name}"'
    f" dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}"
    " runtime_version { major: 12 minor: 9 patch: 0 }"
  )
