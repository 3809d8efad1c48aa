"""Identities of images: keyed hashes, the private table that undoes them, the split of a group.

Records hold hashes alone. The split follows from the raw group name, so that all routes agree.
"""

import contextlib
import csv
import dataclasses
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

from hiresmed_jax.errors import UserError

_SALT_FILE = "salt"
_IGNORE = ".gitignore"  # so that no repository takes the folder in
_HASH_DIGITS = 32  # 128 bits, enough for 10^15 names without a collision

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Identity:
  """The key of one project.

  Attributes:
    salt: private key of the hashes.
    folder: private folder; None for phantoms.
  """

  salt: bytes = dataclasses.field(repr=False)
  folder: Path | None

  def image_id(self, source: str) -> str:
    """Keyed hash (32 hex digits) of a raw relative path, `#frame` included."""
    return self._keyed("image", source)

  def group_id(self, group: str) -> str:
    """Keyed hash (32 hex digits) of a raw patient or series name."""
    return self._keyed("group", group)

  def write_table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes `<folder>/<name>.csv`, readable by its owner only; nothing when there is no folder."""
    if self.folder is None:
      return
    # A file name need not be UTF-8.
    with _private_file(self.folder / f"{name}.csv", replace=True) as file:
      writer = csv.writer(file)
      writer.writerow(header)
      writer.writerows(rows)

  def _keyed(self, what: str, name: str) -> str:
    message = f"{what}:{name}".encode("utf-8", "surrogateescape")
    return hmac.new(self.salt, message, hashlib.sha256).hexdigest()[:_HASH_DIGITS]


# A public key: phantoms have the same ids on every machine.
PHANTOM = Identity(salt=b"phantom", folder=None)


def open_identity(source: Path, out: Path, private: Path | None = None) -> Identity:
  """Opens the project's key, or makes it.

  Args:
    source: folder of the raw images. Earlier versions kept the key in `<source>.private`: where it
      is there, the new folder takes over its salt, so that ids stay as they were.
    out: the prepared dataset; the private folder is `<out>.private`.
    private: another private folder. Datasets with the same one have the same hashes.

  Raises:
    UserError: the private folder cannot be written.
  """
  folder = private.absolute() if private is not None else _beside(out)
  try:
    return _open(folder, _old_salt(_beside(source)) if private is None else "")
  except OSError as error:
    raise UserError(
      f"the private folder {folder} cannot be written ({error.strerror}): name another one for the "
      "salt and the table of names with --private DIR"
    ) from error


def _old_salt(folder: Path) -> str:
  """The salt beside the source, "" where there is none."""
  try:
    return (folder / _SALT_FILE).read_text().strip()
  except OSError:
    return ""


def _beside(folder: Path) -> Path:
  folder = folder.absolute()
  if not folder.name or ".." in folder.parts:
    folder = folder.resolve()
  return folder.with_name(f"{folder.name or 'source'}.private")


def _open(folder: Path, salt: str = "") -> Identity:
  """Opens a private folder; one without a salt gets this one, or a new one."""
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  path = folder / _SALT_FILE
  if not path.exists():
    with _private_file(path) as file:
      file.write(salt or secrets.token_hex(32))
  path.chmod(0o600)
  if not os.access(folder, os.W_OK):
    raise PermissionError(13, "Permission denied")
  if not (folder / _IGNORE).exists():
    with _private_file(folder / _IGNORE) as file:
      file.write("*\n")
  salt = path.read_text().strip()
  if not salt:
    raise UserError(
      f"the salt {path} is empty: restore it, or delete it to give all images new ids"
    )
  return Identity(salt=salt.encode(), folder=folder)


@contextlib.contextmanager
def _private_file(path: Path, *, replace: bool = False) -> Iterator[TextIO]:
  """Writes a file of the owner's alone, whole or not at all; one that is there stays: `replace`."""
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  partial.unlink(missing_ok=True)
  descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
  try:
    with open(descriptor, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
      yield file
    try:
      if not replace:
        os.link(partial, path)
    except FileExistsError:  # of another process, which was first
      return
    except OSError:  # a file system without links
      replace = not path.exists()
    if replace:
      partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def split_of(group: str) -> Split:
  """Split of the patient group of a raw name: "test" (held out, one in five), "val", or "train".

  The hash is not salted, so the same patients are held out in every project and on every machine.
  """
  residue = int(hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest(), 16) % 5
  return "test" if residue == 0 else "val" if residue == 1 else "train"
