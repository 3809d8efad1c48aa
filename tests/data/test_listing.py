from pathlib import Path
from typing import Any

import pytest

from hiresmed_jax.data import listing
from hiresmed_jax.errors import UserError


def _touch(root: Path, *names: str) -> None:
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"")


def _names(root: Path, kind: str, **options: Any) -> list[str]:
  return [p.relative_to(root).as_posix() for p in listing.list_files(root, kind, **options)]


def test_files_of_each_kind(tmp_path: Path) -> None:
  _touch(tmp_path, "b.PNG", "a.jpeg", "sub/c.tif", "v.nii.gz", "w.mha", "IM001", "x.dcm")
  _touch(tmp_path, "notes.txt", "DICOMDIR", ".hidden.png", ".cache/d.png", "kub.private/e.png")
  assert _names(tmp_path, "images") == ["a.jpeg", "b.PNG", "sub/c.tif"]
  assert _names(tmp_path, "volumes") == ["v.nii.gz", "w.mha"]
  assert _names(tmp_path, "dicom") == ["IM001", "x.dcm"]
  _touch(tmp_path, "069.xml", "slice.npy")
  assert _names(tmp_path, "dicom") == ["IM001", "x.dcm"]
  assert _names(tmp_path, "lidc") == ["069.xml", "IM001", "b.PNG", "slice.npy", "x.dcm"]


def test_folders_of_masks_are_no_images(tmp_path: Path) -> None:
  _touch(tmp_path, "a.png", "masks/a.png", "bone/a.png")
  assert _names(tmp_path, "images", leave_out=(tmp_path / "masks", tmp_path / "bone")) == ["a.png"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
  _touch(tmp_path, "a.png", "sub/b.png")
  (tmp_path / "sub" / "loop").symlink_to(tmp_path)
  assert _names(tmp_path, "images") == ["a.png", "sub/b.png"]


def test_the_images_folder_is_found(tmp_path: Path) -> None:
  _touch(tmp_path, "images/a.png", "labels/a.txt")
  assert listing.image_folder(tmp_path) == tmp_path / "images"
  _touch(tmp_path, "b.png")
  assert listing.image_folder(tmp_path) == tmp_path


def test_groups_from_folders_and_names(tmp_path: Path) -> None:
  assert listing.folder_group(tmp_path / "p1" / "a.png", tmp_path) == "p1"
  assert listing.folder_group(tmp_path / "x" / "p1" / "a.png", tmp_path) == "x/p1"
  assert listing.folder_group(tmp_path / "a.b.nii.gz", tmp_path) == "a.b"


@pytest.mark.parametrize(
  "table",
  [
    "image,patient_group\na.png,acq1\nsub/b.png,acq2\n",
    "name,row,SeriesUID\na,5,acq1\nb,6,acq2\n",
    "\ufeffPatient ID,File Name\nacq1,a.png\nacq2,./sub\\b.png\n",
  ],
)
def test_groups_from_tables(tmp_path: Path, table: str) -> None:
  path = tmp_path / "groups.csv"
  path.write_text(table, encoding="utf-8")
  groups = listing.read_groups(path)
  assert listing.group_in(groups, tmp_path / "a.png", tmp_path) == "acq1"
  assert listing.group_in(groups, tmp_path / "sub" / "b.png", tmp_path) == "acq2"
  assert listing.group_in(groups, tmp_path / "c.png", tmp_path) is None


@pytest.mark.parametrize(
  ("table", "says"),
  [
    (b"picture,patient\na,1\n", "columns picture, patient"),
    (b"file,colour\na,1\n", "columns file, colour"),
    (b"", r"columns \(none\)"),
    (b"file,group\na,1\na,2\n", "line 3 .* second group"),
    (b"file,group\na,\n", "line 2 .* lacks"),
    (b"file,group\na\n", "line 2 .* lacks"),
    (b"\xff\xfe\x00", "not UTF-8"),
  ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, table: bytes, says: str) -> None:
  path = tmp_path / "groups.csv"
  path.write_bytes(table)
  with pytest.raises(UserError, match=says):
    listing.read_groups(path)


def test_no_table(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="No such file"):
    listing.read_groups(tmp_path / "groups.csv")
