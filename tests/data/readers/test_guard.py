"""Files that would never end, or would not fit: every reader refuses them before it opens them."""

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hiresmed_jax.data.readers import dicom, images, mask_values, volumes
from hiresmed_jax.data.sample import Unreadable

READERS: dict[str, Callable[[Path], object]] = {
  "a.png": lambda path: list(images.read(path)),
  "a.dcm": lambda path: list(dicom.read(path)),
  "a.nii": lambda path: list(volumes.read(path)),
  "a.nii.gz": lambda path: list(volumes.read(path)),
  "a.mha": lambda path: list(volumes.read(path)),
  "mask.png": lambda path: mask_values.read(path, (4, 4)),
}


@pytest.mark.parametrize("name", READERS)
def test_pipes_devices_and_giants_are_never_opened(tmp_path: Path, name: str) -> None:
  os.mkfifo(tmp_path / name)
  with pytest.raises(Unreadable, match="no regular file"):
    READERS[name](tmp_path / name)
  link = tmp_path / "link" / name
  link.parent.mkdir()
  link.symlink_to("/dev/zero")
  with pytest.raises(Unreadable, match="no regular file"):
    READERS[name](link)
  giant = tmp_path / "giant" / name
  giant.parent.mkdir()
  with giant.open("wb") as file:
    file.truncate(10 << 30)  # sparse: it takes no room
  with pytest.raises(Unreadable, match="larger than"):
    READERS[name](giant)
  folder = tmp_path / "folder" / name
  folder.mkdir(parents=True)
  with pytest.raises(Unreadable, match="no regular file"):
    READERS[name](folder)


def test_pixels_and_voxels_are_counted_before_they_are_decoded(tmp_path: Path) -> None:
  path = tmp_path / "mask.png"
  Image.new("1", (32_000, 32_000)).save(path)
  with pytest.raises(Unreadable, match="than this program opens"):
    mask_values.read(path, (32_000, 32_000))
  header = nib.Nifti1Header()
  header.set_data_dtype(np.int16)
  header.set_data_shape((1000, 1000, 1000))
  volume = tmp_path / "a.nii"
  with volume.open("wb") as file:
    file.write(header.binaryblock)
    file.truncate(2_000_000_400)
  with pytest.raises(Unreadable, match="than this program opens"):
    list(volumes.read(volume))


@pytest.mark.parametrize("shape", [(1, 500), (4000, 3), (1, 1), (2, 9)])
def test_odd_shapes_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
  pixels = (np.arange(shape[0] * shape[1]) % 256).astype(np.uint8).reshape(shape)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  (sample,) = images.read(tmp_path / "a.png")
  np.testing.assert_array_equal(sample.image[..., 0], pixels)
  Image.fromarray(pixels).save(tmp_path / "mask.png")
  assert mask_values.read(tmp_path / "mask.png", shape, meaning="ids").shape == shape
