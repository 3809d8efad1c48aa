"""Writers of whole files and folders: an interrupted write leaves what was there before."""

import contextlib
import errno
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiresmed_jax.errors import UserError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def write(path: Path, content: bytes) -> None:
  """Writes a file whole or not at all, under another name first; its folder is made.

  Raises:
    UserError: there is no space, or no right to write there.
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


def write_json(path: Path, content: Any, *, indent: int = 2, **options: Any) -> None:
  """Writes indented JSON that ends in a newline; `options` are those of `json.dumps`."""
  write(path, (json.dumps(content, indent=indent, **options) + "\n").encode())


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes named arrays as an uncompressed .npz without pickles."""
  content = io.BytesIO()
  np.savez(content, allow_pickle=False, **dict(arrays))
  write(path, content.getvalue())


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
  """Yields an empty folder beside `out` that takes its place at the end of the block.

  After an error in the block the new folder is gone and `out` is unchanged.

  Raises:
    UserError: there is no space, or no right to write there.
  """
  partial = out.with_name(f".{out.name}.partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    yield partial
    _swap(partial, out)
  except (OSError, RuntimeError) as error:
    # The record writer reports a full disk as a RuntimeError that quotes the system's message.
    full = isinstance(error, OSError) and error.errno in _FULL_DISK
    if full or "No space left on device" in str(error):
      raise UserError(
        f"no space left on the device of {out.parent}: nothing was written; free some, or name "
        "another place with --out"
      ) from error
    if isinstance(error, PermissionError):
      raise UserError(f"{out} cannot be written: {error.strerror}") from error
    raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _swap(new: Path, out: Path) -> None:
  """Moves `new` to the place of `out`, and only then removes the old folder."""
  if not out.exists():
    new.rename(out)
    return
  old = out.with_name(f".{out.name}.old")
  shutil.rmtree(old, ignore_errors=True)
  out.rename(old)
  try:
    new.rename(out)
  except BaseException:
    old.rename(out)
    raise
  shutil.rmtree(old, ignore_errors=True)
