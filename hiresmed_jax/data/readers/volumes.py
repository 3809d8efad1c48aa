"""Slices of CT and MR volumes in NIfTI (nibabel) and MetaImage (SimpleITK) files.

Volumes are turned to patient axes first (x to the left, y to the back, z to the head), so that
slices look as radiologists read them: the patient's right on the left of the image, the front or
the head on top, and in sagittal slices the front on the left.
"""

import gzip
import itertools
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from hiresmed_jax.data.readers.guard import (
  check_growth,
  check_regular,
  check_volume,
  or_unreadable,
)
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.data.stored import (
  CT_RANGE,
  increasing,
  rescale_with,
  source_of,
  to_stored,
  without_fill,
)

SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")
AXES = ("axial", "coronal", "sagittal")
MAX_HEADER_BYTES = 1 << 16

_CT_LIMITS = (-32768.0, 32767.0)
_PLAIN = 1e7  # larger numbers are rare in images
_FILLED = "holds fill values, which became its lowest real value"
_SHEARED = "comes from a volume with sheared slices (a tilted gantry)"
_DAMAGED = "is not such a volume, or is damaged or cut short"
# Of MetaImage headers.
_LINE = re.compile(r"[ \t]*(\w+)[ \t]*=[ \t]*([ -~]*)")
_ELEMENT_BYTES = {
  "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
  "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_VECTORS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Origin", "Position",
            "CenterOfRotation")  # fmt: skip
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")


class _Volume(NamedTuple):
  voxels: np.ndarray  # [z, y, x]: towards the head, the back, the patient's left
  spacing_mm: tuple[float, float, float]  # the same order
  slope: float
  intercept: float
  sheared: bool = False


def read(
  path: Path,
  *,
  root: Path | None = None,
  group: str | None = None,
  physics: str = "none",
  axis: str = "axial",
) -> Iterator[Sample]:
  """The slices of one volume, from the feet to the head, front to back or right to left.

  Args:
    path: a .nii, .nii.gz, .mha or .mhd file.
    root: folder that `source` is relative to; None gives the file's name alone.
    group: patient or series name; None takes the file's name without its suffix.
    physics: "ct" where the values are HU.
    axis: one of `AXES`.

  Yields:
    Sample per slice, [H, W, 1], `source` ending in `#index`: integers within 16 bits are kept
    exactly, others are quantised, with one slope and intercept for the whole volume. `value_range`
    is `CT_RANGE` for "ct", else that of the volume. Voxels that hold a fill value get the lowest
    real one, which is noted. Anisotropic voxels are not resampled.

  Raises:
    Unreadable: damaged, not a single scalar volume, too large, no finite values, or a MetaImage
      header that points to data outside its folder.
    ValueError: an axis that is not one of `AXES`.
  """
  if axis not in AXES:
    raise ValueError(f"axis {axis!r} is none of {', '.join(AXES)}")
  volume, suffix = _opened(path)
  voxels, filled = without_fill(volume.voxels, _limits(volume, physics))
  volume = volume._replace(voxels=voxels)
  stored, scale, offset = to_stored(volume.voxels)
  slope, intercept = rescale_with(volume.slope, volume.intercept, scale, offset)
  ends = [slope * int(end) + intercept for end in (stored.min(), stored.max())]
  source = source_of(path, root)
  slices, spacing_mm = _slices(stored, volume.spacing_mm, axis)
  notes = (_SHEARED,) if volume.sheared else ()
  have_fill: Iterator[bool] = itertools.repeat(False)
  if filled.size:
    have_fill = (bool(part.any()) for part in _slices(filled, volume.spacing_mm, axis)[0])
  for index, (image, has_fill) in enumerate(zip(slices, have_fill)):
    yield Sample(
      image=np.ascontiguousarray(image[..., None]),
      group=path.name[: -len(suffix)] if group is None else group,
      source=f"{source}#{index}",
      rescale_slope=slope,
      rescale_intercept=intercept,
      value_range=CT_RANGE if physics == "ct" else increasing(ends[0], ends[1]),
      physics=physics,
      spacing_mm=spacing_mm,
      notes=(*notes, _FILLED) if has_fill else notes,
    )


def label_slices(path: Path, *, axis: str = "axial") -> list[np.ndarray]:
  """The slices of a label map, int32[H, W] each, in the order of `read`.

  Raises:
    Unreadable: see `read`.
  """
  volume, _ = _opened(path)
  with or_unreadable(_DAMAGED):
    labels = np.rint(volume.voxels * volume.slope + volume.intercept).astype(np.int32)
  return list(_slices(labels, volume.spacing_mm, axis)[0])


def _opened(path: Path) -> tuple[_Volume, str]:
  """(the volume of a file, the suffix of its name)."""
  suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
  if not suffix:
    raise Unreadable(f"is none of {', '.join(SUFFIXES)}")
  check_regular(path)
  return (_metaimage(path) if suffix in (".mha", ".mhd") else _nifti(path)), suffix


def _limits(volume: _Volume, physics: str) -> tuple[float, float]:
  """(low, high) of the file's own numbers that are data and no fill values.

  HU have 16 bits. Other data have at most 10,000 times the size that most of them have.
  """
  if physics == "ct":
    ends = [(end - volume.intercept) / volume.slope for end in _CT_LIMITS]
    return min(ends), max(ends)
  few = np.abs(volume.voxels.ravel()[:: max(1, volume.voxels.size >> 16)].astype(np.float64))
  plain = few[few <= _PLAIN]
  if plain.size < 0.1 * few.size:
    return -np.finfo(np.float64).max, np.finfo(np.float64).max
  most = max(_PLAIN, 1e4 * float(np.percentile(plain, 99)))
  return -most, most


def _slices(
  voxels: np.ndarray, spacing_mm: tuple[float, float, float], axis: str
) -> tuple[Iterator[np.ndarray], tuple[float, float]]:
  z, y, x = spacing_mm
  if axis == "axial":
    return iter(voxels), (y, x)
  from_head = voxels[::-1]
  if axis == "coronal":
    return (from_head[:, j, :] for j in range(voxels.shape[1])), (z, x)
  return (from_head[:, :, i] for i in range(voxels.shape[2])), (z, y)


def _checked(volume: _Volume) -> _Volume:
  spacing = tuple(float(mm) if 1e-4 < mm < 100.0 else np.nan for mm in volume.spacing_mm)
  return volume._replace(spacing_mm=(spacing[0], spacing[1], spacing[2]))


def _nifti(path: Path) -> _Volume:
  with or_unreadable(_DAMAGED):
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
      raise Unreadable(_DAMAGED)
    check_volume(image.shape, image.get_data_dtype().itemsize)
    check_growth(math.prod(image.shape), path.stat().st_size)
    if path.name.lower().endswith(".gz"):
      _check_gzip(path)
    proxy: Any = image.dataobj
    raw = np.asarray(proxy.get_unscaled())
    if raw.dtype.fields is not None:
      raise Unreadable("holds colours, not one value a voxel")
    raw = raw.reshape((*raw.shape, 1)[:3])
    start = nib.orientations.io_orientation(image.affine)
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt("LPS"))
    xyz = nib.orientations.apply_orientation(raw, turn)
    order = np.argsort(turn[:, 0])  # which of the file's axes became x, y and z
    x, y, z = nib.affines.voxel_sizes(image.affine)[order]
    slope, intercept = float(proxy.slope), float(proxy.inter)
    sheared = _is_sheared(image.affine)
    volume = _Volume(xyz.transpose(2, 1, 0), (z, y, x), slope, intercept, sheared)
  return _checked(volume)


def _is_sheared(affine: np.ndarray) -> bool:
  """Whether two axes of the voxels meet at more than half a degree from a right angle."""
  axes = affine[:3, :3] / nib.affines.voxel_sizes(affine)
  return bool(np.abs(axes.T @ axes - np.eye(3)).max() > math.sin(math.radians(0.5)))


def _metaimage(path: Path) -> _Volume:
  with or_unreadable(_DAMAGED):
    _check_metaimage(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    image = reader.Execute()
    while image.GetDimension() > 3:
      image = image[(*(slice(None),) * (image.GetDimension() - 1), 0)]
    if image.GetDimension() == 2:
      image = sitk.JoinSeries(image)
    image = sitk.DICOMOrient(image, "LPS")
    x, y, z = image.GetSpacing()
    volume = _Volume(sitk.GetArrayFromImage(image), (z, y, x), 1.0, 0.0)
  return _checked(volume)


def _check_gzip(path: Path) -> None:
  """Reads to the end, where the checksum is; nibabel stops before it."""
  with gzip.open(path) as file:
    while file.read(1 << 20):
      pass


def _check_metaimage(path: Path) -> None:
  """Checks a header and its voxels before SimpleITK opens them.

  Raises:
    Unreadable: lines that are not understood, more or fewer dimensions than a volume has, another
      element than one number, voxels in another folder or in many files, too large, cut short or
      with a wrong checksum.
    OSError: the file cannot be opened.
  """
  fields, header_bytes = _fields(path)
  shape = _shape(fields)
  voxel_bytes = _ELEMENT_BYTES.get(fields.get("ElementType", ""), 0)
  check_volume(shape, voxel_bytes)
  if not voxel_bytes or fields.get("ElementNumberOfChannels", "1") != "1":
    raise Unreadable("holds several values a voxel, or values of an unusual type")
  if not _is_true(fields.get("BinaryData", "True")) or fields.get("HeaderSize", "0") != "0":
    raise Unreadable("keeps its voxels in a way that is not read: save it as one .mha")
  data = _data_file(path, fields["ElementDataFile"])
  check_regular(data)
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
  """The fields of the header, up to `ElementDataFile`, and its length in bytes."""
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
  """The numbers of a line, [] when one of them is not finite."""
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
  """Unpacks to the end, where the checksum is, without keeping the voxels."""
  inflate, unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
  with data.open("rb") as file:
    file.seek(start)
    while size > 0 and (packed := file.read(min(size, 1 << 16))):
      size -= len(packed)
      unpacked += len(inflate.decompress(packed))
  if not inflate.eof or unpacked != needed:
    raise Unreadable("has compressed voxels that are damaged")
