"""What the convolutions compute in."""

from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.errors import UserError


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
