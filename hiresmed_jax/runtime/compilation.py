"""How programs are compiled and kept between runs, and what their convolutions compute in."""

import contextlib
import functools
import hashlib
import pathlib
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.errors import UserError

LEAST_SECONDS = 0.5  # what compiles faster is not worth a file
_MOST_BYTES = 2 << 30
_WRITTEN_SECONDS = 60.0  # after which nobody is still writing a program


def keep_programs(folder: pathlib.Path) -> None:
  """Lets XLA keep what it compiles below `folder`, at most 2 GiB, the oldest going first.

  Programs for a CPU hold that CPU's instructions, which XLA's own key does not include: in a home
  folder that several machines share, each kind of processor gets a folder of its own.
  """
  programs = folder / f"xla-{_processor()}"
  _remove_half_kept(programs)
  jax.config.update("jax_compilation_cache_dir", str(programs))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
  jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)


def _remove_half_kept(programs: pathlib.Path) -> None:
  """Removes programs of processes that were killed while they kept them.

  One without its time of last use makes JAX keep nothing more, whatever the program.
  """
  for kept in programs.glob("*-cache"):
    with contextlib.suppress(OSError):
      used = kept.with_name(f"{kept.name.removesuffix('-cache')}-atime")
      if not used.exists() and time.time() - kept.stat().st_mtime > _WRITTEN_SECONDS:
        kept.unlink()


@functools.cache
def options() -> dict[str, Any]:
  """Compiler options for programs that run many times on the default backend.

  Newer XLA for the CPU gives convolutions and matrix products to a library that, as it is called,
  computes on one core. Without it they go to Eigen and every core (benchmarks/cpu_gains.py). {} on
  other backends and where the compiler does not know the option.
  """
  if jax.default_backend() != "cpu":
    return {}
  wanted: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
  try:
    jax.jit(lambda: 0, compiler_options=wanted)()
  except jax.errors.JaxRuntimeError:
    return {}
  return wanted


def _processor() -> str:
  about = [platform.machine(), platform.processor()]
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.is_file():
    lines = cpuinfo.read_text(errors="replace").splitlines()
    about += sorted(
      {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    )
  return hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]


def compute_dtype(name: str) -> Any:
  """The dtype of the convolutions: "auto" is bfloat16 where the hardware has it, else float32.

  V100 and older GPUs have no bfloat16 units, and CPUs gain nothing.

  Raises:
    UserError: an unknown name.
  """
  if name == "auto":
    device = jax.devices()[0]
    if device.platform == "gpu":
      major = int(str(getattr(device, "compute_capability", "0")).split(".")[0])
      return jnp.bfloat16 if major >= 8 else jnp.float32
    return jnp.bfloat16 if device.platform == "tpu" else jnp.float32
  if name not in ("float32", "bfloat16"):
    raise UserError(f"dtype={name!r}: use 'auto', 'float32' or 'bfloat16'")
  return jnp.dtype(name)
