"""Slices of CT and MR volumes in NIfTI (nibabel) and MetaImage (SimpleITK) files.

Both are brought to patient axes first (x to the left, y to the back, z to the head), so that slices
look as radiologists read them: the patient's right on the left of the image, the front or the head
on top, and in sagittal slices the front on the left.
"""

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from hiresmed_jax.data.readers import metaimage
from hiresmed_jax.data.readers.guard import check_growth, check_volume, foreign
from hiresmed_jax.data.readers.stored import (
  CT_RANGE,
  increasing,
  rescale_with,
  source_of,
  to_stored,
)
from hiresmed_jax.data.sample import Sample, Unreadable

SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")
AXES = ("axial", "coronal", "sagittal")

_DAMAGED = "is not such a volume, or is damaged or cut short"


class _Volume(NamedTuple):
  voxels: np.ndarray  # [z, y, x]: towards the head, the back, the patient's left
  spacing_mm: tuple[float, float, float]  # the same order
  slope: float
  intercept: float


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
    root: folder that `source` is relative to; None gives the bare file name.
    group: patient or series name; None takes the file's name without its suffix.
    physics: "ct" where the values are HU; neither format says so.
    axis: one of `AXES`.

  Yields:
    Sample per slice, [H, W, 1], `source` ending in `#index`: integers within 16 bits are kept
    exactly, others are quantised, with one slope and intercept for the whole volume. `value_range`
    is `CT_RANGE` for "ct", else what the volume holds. Anisotropic voxels stay as they are: the
    spacing tells.

  Raises:
    Unreadable: damaged, not a single scalar volume, too large, values that are not finite, or a
      MetaImage header that points to data outside its folder.
    ValueError: an axis that is not one of `AXES`.
  """
  if axis not in AXES:
    raise ValueError(f"axis {axis!r} is none of {', '.join(AXES)}")
  suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
  if not suffix:
    raise Unreadable(f"is none of {', '.join(SUFFIXES)}")
  volume = _metaimage(path) if suffix in (".mha", ".mhd") else _nifti(path)
  stored, scale, offset = to_stored(volume.voxels)
  slope, intercept = rescale_with(volume.slope, volume.intercept, scale, offset)
  ends = [slope * int(end) + intercept for end in (stored.min(), stored.max())]
  source = source_of(path, root)
  slices, spacing_mm = _slices(stored, volume.spacing_mm, axis)
  for index, image in enumerate(slices):
    yield Sample(
      image=np.ascontiguousarray(image[..., None]),
      group=path.name[: -len(suffix)] if group is None else group,
      source=f"{source}#{index}",
      rescale_slope=slope,
      rescale_intercept=intercept,
      value_range=CT_RANGE if physics == "ct" else increasing(ends[0], ends[1]),
      physics=physics,
      spacing_mm=spacing_mm,
    )


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
  spacing = tuple(float(mm) if np.isfinite(mm) and mm > 0 else np.nan for mm in volume.spacing_mm)
  return volume._replace(spacing_mm=(spacing[0], spacing[1], spacing[2]))


def _nifti(path: Path) -> _Volume:
  with foreign(_DAMAGED):
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
      raise Unreadable(_DAMAGED)
    check_volume(image.shape)
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
    volume = _Volume(xyz.transpose(2, 1, 0), (z, y, x), float(proxy.slope), float(proxy.inter))
  return _checked(volume)


def _metaimage(path: Path) -> _Volume:
  with foreign(_DAMAGED):
    metaimage.check(path)
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
  """Reads to the end, where the checksum is: nibabel stops before it and takes what it got."""
  with gzip.open(path) as file:
    while file.read(1 << 20):
      pass
