"""A file that appears whole or not at all, whatever stops the work on it."""

import contextlib
import os
import threading
from pathlib import Path

from hiresmed_jax.errors import UserError


def write(path: Path, content: bytes) -> None:
  """Writes a file beside its place and moves it there; its folder is made.

  Raises:
    UserError: nothing can be written there: no space, no right.
  """
  partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content)
    partial.replace(path)
  except OSError as error:
    with contextlib.suppress(OSError):
      partial.unlink()
    raise UserError(f"cannot write {path}: {error.strerror}") from error
