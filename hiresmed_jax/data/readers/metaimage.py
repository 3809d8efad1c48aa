"""The header of a MetaImage file (.mha, .mhd), believed only after every line was looked at.

SimpleITK reads such files without suspicion: a header with `NDims = 3512` overwrites its memory,
damaged compressed voxels come back as whatever the memory held, and the header may name any file of
the machine as its voxels. So it is handed a file only after `check` has passed it.
"""

import math
import re
import zlib
from pathlib import Path

import numpy as np

from hiresmed_jax.data.readers.guard import check_growth, check_volume
from hiresmed_jax.data.sample import Unreadable

MAX_HEADER_BYTES = 1 << 16

_LINE = re.compile(r"[ \t]*(\w+)[ \t]*=[ \t]*([ -~]*)")
_ELEMENT_BYTES = {
  "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
  "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_VECTORS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Origin", "Position",
            "CenterOfRotation")  # fmt: skip
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")


def check(path: Path) -> None:
  """Passes a header that SimpleITK can be given, and its voxels beside or behind it.

  Raises:
    Unreadable: lines that are not understood, more or fewer dimensions than a volume has, another
      element than one number, voxels in another folder or in many files, too large, cut short or
      with a wrong checksum.
    OSError: the file cannot be opened.
  """
  fields, header_bytes = _fields(path)
  shape = _shape(fields)
  check_volume(shape)
  voxel_bytes = _ELEMENT_BYTES.get(fields.get("ElementType", ""), 0)
  if not voxel_bytes or fields.get("ElementNumberOfChannels", "1") != "1":
    raise Unreadable("holds several values a voxel, or values of an unusual type")
  if not _is_true(fields.get("BinaryData", "True")) or fields.get("HeaderSize", "0") != "0":
    raise Unreadable("keeps its voxels in a way that is not read: save it as one .mha")
  data = _data_file(path, fields["ElementDataFile"])
  start = header_bytes if data == path else 0
  needed = math.prod(shape) * voxel_bytes
  held = data.stat().st_size - start
  if _is_true(fields.get("CompressedData", "False")):
    size = fields.get("CompressedDataSize", "")
    if not size.isdecimal() or not 0 < int(size) <= held:
      raise Unreadable("does not say how many bytes its compressed voxels take, or holds fewer")
    check_growth(needed, int(size))
    _check_compressed(data, start, int(size), needed)
  elif needed > held:
    raise Unreadable(f"declares {needed} bytes of voxels and holds {held}")


def _fields(path: Path) -> tuple[dict[str, str], int]:
  """The header's fields, of which `ElementDataFile` is the last, and its length in bytes."""
  fields: dict[str, str] = {}
  read = 0
  with path.open("rb") as file:
    while "ElementDataFile" not in fields:
      line = file.readline(MAX_HEADER_BYTES)
      read += len(line)
      match = _LINE.fullmatch(line.decode("latin-1").rstrip("\r\n"))
      if match is None or read > MAX_HEADER_BYTES or match[1] in fields:
        raise Unreadable("is not a MetaImage file, or its header is damaged")
      fields[match[1]] = match[2].strip()
  if fields.get("NDims") not in ("2", "3", "4"):
    raise Unreadable("does not have the dimensions of a volume")
  dimensions = int(fields["NDims"])
  for keys, count in ((_VECTORS, dimensions), (_MATRICES, dimensions**2)):
    for key in keys:
      if key in fields and len(_numbers(fields[key])) != count:
        raise Unreadable(f"has a {key} that does not fit its dimensions")
  return fields, read


def _is_true(word: str) -> bool:
  if word.lower() not in ("true", "false", "t", "f", "1", "0"):
    raise Unreadable("is not a MetaImage file, or its header is damaged")
  return word.lower() in ("true", "t", "1")


def _numbers(text: str) -> list[float]:
  """The finite numbers of a line, [] when one is not."""
  try:
    numbers = [float(word) for word in text.split()]
  except ValueError:
    return []
  return numbers if np.isfinite(numbers).all() else []


def _shape(fields: dict[str, str]) -> tuple[int, ...]:
  words = fields.get("DimSize", "").split()
  if not all(word.isdecimal() and len(word) < 10 for word in words):
    raise Unreadable("has a DimSize that is not a size")
  return tuple(int(word) for word in words)


def _data_file(path: Path, name: str) -> Path:
  """The file that holds the voxels: the header's own, or one beside it."""
  if name in ("LOCAL", "Local", "local"):
    return path
  if name.startswith("LIST") or "%" in name:
    raise Unreadable("keeps its slices in many files: save it as one .mha")
  folder = path.parent.resolve()
  if Path(name).name != name or "\\" in name or (folder / name).resolve().parent != folder:
    raise Unreadable("points to voxels outside its own folder")
  if not (folder / name).is_file():
    raise Unreadable("points to voxels in a file that is missing")
  return folder / name


def _check_compressed(data: Path, start: int, size: int, needed: int) -> None:
  """Unpacks to the end, where the checksum is, and keeps nothing."""
  inflate, unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
  with data.open("rb") as file:
    file.seek(start)
    while size > 0 and (packed := file.read(min(size, 1 << 16))):
      size -= len(packed)
      unpacked += len(inflate.decompress(packed))
  if not inflate.eof or unpacked != needed:
    raise Unreadable("has compressed voxels that are damaged")
