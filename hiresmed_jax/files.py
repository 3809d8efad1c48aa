"""Files and folders that are whole, undamaged and one process's: writers, digests, locks.

An interrupted write leaves what was there before.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiresmed_jax.errors import UserError, printable

DIGESTS = "digests.json"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_CHUNK_BYTES = 1 << 22
_PATIENCE = 5.0  # seconds that strays may take to be removed
_PAUSE = 0.05  # seconds between two tries at a folder


def write(path: Path, content: bytes, *, replace: bool = True) -> None:
  """Writes a file whole or not at all, under another name first; its folder is made.

  One that is there, perhaps of another process that was first, stays without `replace`.

  Raises:
    UserError: there is no space, or no right to write there.
  """
  partial = path.with_name(f".{path.name}.{_own()}-{threading.get_ident()}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content)
    if replace:
      partial.replace(path)
    else:
      _put_where_none_is(partial, path)
  except BaseException as error:  # a stop, too
    with contextlib.suppress(OSError):
      partial.unlink()
    if isinstance(error, OSError):
      raise UserError(f"cannot write {path}: {error.strerror}") from error
    raise


def _put_where_none_is(partial: Path, path: Path) -> None:
  try:
    os.link(partial, path)
  except FileExistsError:
    pass
  except OSError:  # a file system without links
    if not path.exists():
      partial.replace(path)
      return
  partial.unlink()


def write_json(
  path: Path, content: Any, *, indent: int = 2, replace: bool = True, **options: Any
) -> None:
  """Writes indented JSON that ends in a newline; `options` are those of `json.dumps`."""
  text = json.dumps(content, indent=indent, **options) + "\n"
  write(path, text.encode(), replace=replace)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes named arrays as an uncompressed .npz without pickles.

  What killed writers of the same file have left is removed.
  """
  content = io.BytesIO()
  np.savez(content, allow_pickle=False, **dict(arrays))
  write(path, content.getvalue())
  _remove_strays(path.parent.glob(f".{glob.escape(path.name)}.*.partial"))


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
  """Yields an empty folder beside `out` that takes its place at the end of the block.

  After an error in the block the new folder is gone and `out` is unchanged.

  Raises:
    UserError: another process writes `out` now; there is no space, or no right to write there.
  """
  partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
  try:
    with locked(partial, refused=out):
      try:
        for left in partial.iterdir():  # by a run that was killed
          shutil.rmtree(left) if left.is_dir() else left.unlink()
        if old.exists() and not out.exists():  # killed while the folders were swapped
          old.rename(out)
        yield partial
        _swap(partial, out, old)
      except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
  except (OSError, RuntimeError) as error:
    # The record writer reports a full disk as a RuntimeError that quotes the system's message.
    full = isinstance(error, OSError) and error.errno in _FULL_DISK
    if full or "No space left on device" in str(error):
      raise UserError(
        f"no space left on the device of {out.parent}: nothing was written; free some, or name "
        "another place with --out"
      ) from error
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
      raise UserError(f"{out} cannot be written: {error.strerror}") from error
    raise


def _swap(new: Path, out: Path, old: Path) -> None:
  """Moves `new` to the place of `out`, which is `old` meanwhile and then removed."""
  shutil.rmtree(old, ignore_errors=True)
  if not out.exists():
    new.rename(out)
    return
  out.rename(old)
  try:
    new.rename(out)
  except BaseException:
    old.rename(out)
    raise
  shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(
  folder: Path, *, shared: bool = False, refused: Path | None = None, patience: float | None = None
) -> Iterator[None]:
  """Within, no other process holds the folder, which is made; a killed one holds nothing.

  What killed writers left in it is removed first, unless others hold it. A folder that was made
  here and is empty at the end is removed. The lock is of the folder itself, so that no file of it
  stays. It is advisory, and on network disks (NFS) it is of one machine.

  Args:
    folder: to hold.
    shared: others may hold it too, if they share it as well.
    refused: what the message names in place of `folder`.
    patience: seconds to wait for others. None: not at all; where the folder is shared, as long as
      one that shares it may take to remove what was left, for which it holds the folder alone.

  Raises:
    UserError: another process holds it, or it cannot be made.
  """
  if patience is None:
    patience = _PATIENCE if shared else 0.0
  descriptor, made = _held(folder, shared, refused or folder, time.monotonic() + patience)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      is_there = made and os.path.samestat(os.fstat(descriptor), folder.stat())
      if is_there and _try_lock(descriptor, fcntl.LOCK_EX):  # nobody shares it
        folder.rmdir()
    os.close(descriptor)


def _held(folder: Path, shared: bool, name: Path, until: float) -> tuple[int, bool]:
  """(an open, locked descriptor of a folder, whether it was made here)."""
  while True:
    try:
      made = not folder.exists()
      folder.mkdir(parents=True, exist_ok=True)
      descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
      raise UserError(f"cannot write {name}: {error.strerror}") from error
    try:
      if _is_taken(descriptor, folder, shared):
        with contextlib.suppress(FileNotFoundError):
          if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor, made
        # Moved or removed, by the process that held it until now.
      elif time.monotonic() >= until:
        raise UserError(
          f"another process writes {name} now: wait until it has ended, or name another folder"
        )
      else:
        time.sleep(_PAUSE)
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)


def _is_taken(descriptor: int, folder: Path, shared: bool) -> bool:
  """Tries to hold a folder, and removes strays from one that nobody else holds."""
  if _try_lock(descriptor, fcntl.LOCK_EX):
    _remove_strays(_partial_files(folder))
    return not shared or _try_lock(descriptor, fcntl.LOCK_SH)
  return shared and _try_lock(descriptor, fcntl.LOCK_SH)


def _try_lock(descriptor: int, kind: int) -> bool:
  try:
    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    tell(f"no lock is held, which this file system refuses ({error.strerror}): run one at a time")
  return True


def _partial_files(folder: Path) -> Iterator[Path]:
  """What `write` has begun, at any depth; folders that vanish meanwhile are passed over."""
  for root, _, names in os.walk(folder):
    yield from (Path(root) / n for n in names if n.startswith(".") and n.endswith(".partial"))


def _remove_strays(partial: Iterable[Path]) -> None:
  """Removes those of what `write` has left whose process is gone."""
  for path in partial:
    if path.is_file() and _is_of_nobody(path):
      path.unlink(missing_ok=True)


def _own() -> str:
  """What stands in the name of a file or folder that is this process's for now: number, machine."""
  return f"{os.getpid()}-{hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]}"


def _is_of_nobody(partial: Path) -> bool:
  """Whether a name, `.NAME.NUMBER-MACHINE-....partial`, is of a process here that is gone."""
  number, machine, *_ = [*partial.name.split(".")[-2].split("-"), ""]
  if machine != _own().split("-")[1]:
    return False
  try:
    os.kill(int(number), 0)
  except ProcessLookupError:
    return True
  except (OSError, OverflowError, ValueError):  # another user's, or no number of a process
    pass
  return False


@contextlib.contextmanager
def folder_for_now(out: Path) -> Iterator[Path]:
  """Yields an empty folder beside `out` that is removed at the end of the block.

  Those of processes that were killed are removed first.

  Raises:
    UserError: it cannot be made.
  """
  beside = out.absolute().parent
  for old in beside.glob(f".{out.name}.*-now.partial"):
    if _is_of_nobody(old):
      shutil.rmtree(old, ignore_errors=True)
  try:
    beside.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(dir=beside, prefix=f".{out.name}.{_own()}-", suffix="-now.partial")
  except OSError as error:
    raise UserError(f"cannot write {out}: {error.strerror}") from error
  try:
    yield Path(name)
  finally:
    shutil.rmtree(name, ignore_errors=True)


def tell(line: str) -> None:
  """Writes a line to standard error."""
  print(printable(line), file=sys.stderr, flush=True)


def write_digests(folder: Path, names: Iterable[str]) -> None:
  """Writes the sizes and checksums of files of a folder beside them, for `check_digests`.

  They find damage by disks and copies, not what somebody has changed on purpose.
  """
  write_json(folder / DIGESTS, {name: _digest(folder / name) for name in sorted(names)})


def check_digests(
  folder: Path, cure: str, *, whole: Callable[[str], bool] = lambda name: True
) -> None:
  """Compares a folder with its digests; one that has none, of an older version, gets a line.

  Args:
    folder: of the files.
    cure: what the user does about a damaged file, for the message.
    whole: whether a file of this name is read; of others the size is compared.

  Raises:
    UserError: a file is missing or damaged.
  """
  if not (folder / DIGESTS).is_file():
    tell(f"{folder} has no digests, as of an older version: damage to it would not be seen")
    return
  digests = read_json(folder / DIGESTS, {}, cure=cure)
  for name, wanted in digests.items():
    path = folder / name
    try:
      found = _digest(path) if whole(name) else [path.stat().st_size]
    except OSError as error:
      raise UserError(f"{path} cannot be read ({error.strerror}): {cure}") from error
    if not isinstance(wanted, list) or found != wanted[: len(found)]:
      raise UserError(f"{path} is damaged, for it is not what was written: {cure}")


def _digest(path: Path) -> list[int]:
  """[bytes, CRC-32]: four times as fast as SHA-256, and as good against chance."""
  size = checksum = 0
  if not path.is_file():
    path.stat()  # says what is missing
    raise OSError(errno.EINVAL, "it is no regular file", str(path))
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
  return [size, checksum]


def content(path: Path, most: int = 1 << 28) -> bytes:
  """All bytes of a regular file.

  Raises:
    OSError: it cannot be read, has more than `most` bytes, or is a pipe or device, which end never.
  """
  found = path.stat()
  if not stat.S_ISREG(found.st_mode):
    raise OSError(errno.EINVAL, "it is no regular file", str(path))
  if found.st_size > most:
    raise OSError(errno.EFBIG, f"it has more than {most >> 20} MB", str(path))
  return path.read_bytes()


def read_json(path: Path, kinds: Mapping[str, Any], *, cure: str = "") -> dict[str, Any]:
  """The object in a JSON file, in which the keys of `kinds` are there.

  Their values are of these types; of an object, the kinds of its keys may be given instead.

  Raises:
    UserError: it is damaged, or some other file; `cure` is what the user does about it.
  """
  try:
    found = json.loads(content(path))
    if _fits(found, kinds):
      return found
  except (ValueError, RecursionError):
    pass
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.EFBIG):
      raise
  raise UserError(f"{path} is damaged, or no file of this program" + (f": {cure}" if cure else ""))


def _fits(content: Any, kinds: Any) -> bool:
  if not isinstance(kinds, Mapping):
    return isinstance(content, kinds)
  return isinstance(content, dict) and all(
    key in content and _fits(content[key], kind) for key, kind in kinds.items()
  )
