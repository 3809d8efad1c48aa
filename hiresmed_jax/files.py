"""Files and folders that appear whole or not at all, whatever stops the work on them."""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
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


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def refuse_to_replace(out: Path, *, marker: str, overwrite: bool) -> None:
  """Raises UserError when `out` holds something that may not be replaced.

  Args:
    out: folder to be made; it may be missing or empty.
    marker: name of the file that shows that `out` was made by us. Nothing else is ever replaced.
    overwrite: whether one made by us may be.
  """
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not (out / marker).is_file():
    raise UserError(f"{out} is there and is no prepared dataset: name another folder with --out")
  if not overwrite:
    raise UserError(f"{out} is prepared already: add --overwrite to replace it")


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
  """Yields an empty folder beside `out` that takes its place when the block ends well.

  When it does not, nothing is left of the new folder and `out` is what it was.

  Raises:
    UserError: no space is left, or nothing may be written there.
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
  """Puts `new` in the place of `out`; the old one goes only once the new one stands."""
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
