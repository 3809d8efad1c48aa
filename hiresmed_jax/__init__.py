"""High-resolution synthetic medical images with small lesions, in JAX and Flax.

`run = hiresmed_jax.open_run(workdir)` opens what `train` has made; see `hiresmed_jax.api`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from hiresmed_jax.api import Run, Synthetic, SyntheticImages, open_run
  from hiresmed_jax.errors import UserError

__all__ = ["Run", "Synthetic", "SyntheticImages", "UserError", "open_run"]


def __getattr__(name: str) -> Any:
  """Imports the API on first use: importing the package alone is quick and does not start jax."""
  if name in __all__:
    return getattr(importlib.import_module("hiresmed_jax.api"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
