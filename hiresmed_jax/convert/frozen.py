"""Published arrays -> the variables of a frozen network with batch norms.

Our flat names are the modules' paths and the leaf: "Mixed_5b/branch1x1/bn/mean". Kernels are HWIO,
those of dense layers IO, all float32.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.convert import arrays
from hiresmed_jax.errors import UserError

LEAVES = {
  "conv": {"weight": "kernel", "bias": "bias"},
  "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
}
STATISTICS = ("mean", "var")


def layout(net: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
  """Flat name -> shape of every array that the network needs; `size`: its input, pixels a side."""
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  return {
    name: leaf.shape
    for collection in variables.values()
    for name, leaf in flax.traverse_util.flatten_dict(collection, sep="/").items()
  }


def ours(value: np.ndarray) -> np.ndarray:
  """A torch tensor in our order, float32: kernels OIHW -> HWIO, OI -> IO."""
  order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
  return np.ascontiguousarray(value.transpose(order) if order else value, np.float32)


def read(path: Path, rename: Callable[[str], str | None]) -> dict[str, np.ndarray]:
  """All arrays of a file under our names and in our order.

  Args:
    path: .npz, .safetensors, .pth or .pt.
    rename: a torch name -> ours, or None for what is not needed; a name that has a "/" is ours.

  Raises:
    UserError: an unreadable file, or an array given twice.
  """
  found: dict[str, np.ndarray] = {}
  for name, value in arrays.read_arrays(path).items():
    key = name if "/" in name else rename(name)
    if key is None:
      continue
    if key in found:
      raise UserError(f"{path.name}: {name} was already given")
    found[key] = value.astype(np.float32) if "/" in name else ours(value)
  return found


def difference(found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
  """What is wrong with arrays that a network needs, in a few words; empty when nothing is."""
  missing = [name for name in expected if name not in found]
  if missing:
    return f"lacks {few(missing)}"
  for name, shape in expected.items():
    if found[name].shape != shape:
      return f"does not fit: {name} is {found[name].shape}, and {shape} is needed"
    if not np.isfinite(found[name]).all():
      return f"is damaged: {name} holds NaN or infinite numbers"
  return ""


def variables(
  found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, Any]:
  """{"params", "batch_stats"} of a network; arrays that it does not need are left out.

  Raises:
    UserError: an array is missing, of another shape, or not finite.
  """
  problem = difference(found, expected)
  if problem:
    raise UserError(f"{what} {problem}")
  parts: dict[str, dict[str, np.ndarray]] = {"params": {}, "batch_stats": {}}
  for name in expected:
    kind = "batch_stats" if name.rsplit("/", 1)[-1] in STATISTICS else "params"
    parts[kind][name] = found[name]
  return {
    kind: flax.traverse_util.unflatten_dict(part, sep="/") for kind, part in parts.items() if part
  }


def few(names: Sequence[str]) -> str:
  """The first three names, and how many there are beside."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more
