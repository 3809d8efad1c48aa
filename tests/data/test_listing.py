from pathlib import Path
from typing import Any

from hiresmed_jax.data import listing


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


def test_links_are_followed_out_of_the_folder_and_never_twice(tmp_path: Path) -> None:
  _touch(tmp_path, "archive/p0/b.png", "cohort/a.png", "cohort/p1/c.png")
  cohort = tmp_path / "cohort"
  for name, target in (
    ("p0", tmp_path / "archive" / "p0"),
    ("again", tmp_path / "archive" / "p0"),
    ("inner", cohort / "p1"),
    ("loop", tmp_path),
    ("itself.png", cohort / "itself.png"),  # is refused when it is read
  ):
    (cohort / name).symlink_to(target)
  found = listing.walk(cohort, "images")
  names = [p.relative_to(cohort).as_posix() for p in found.files]
  assert names == ["a.png", "itself.png", "p1/c.png", "again/b.png"]
  assert [p.name for p, _ in found.passed_over] == ["inner", "loop", "p0"]


def test_what_is_passed_over_says_why(tmp_path: Path) -> None:
  _touch(tmp_path, "a.png", "a_mask.png", "a_mask_1.png", "b-seg.png", "._a.png", "Thumbs.db")
  _touch(tmp_path, "notes.docx", "kub.private/salt", "__MACOSX/a.png")
  found = listing.walk(tmp_path, "images")
  assert [p.name for p in found.files] == ["a.png", "b-seg.png"]
  why = {p.name: reason for p, reason in found.passed_over}
  assert why.keys() == {
    "a_mask.png", "a_mask_1.png", "._a.png", "Thumbs.db", "notes.docx", "__MACOSX"
  }  # fmt: skip
  assert "mask" in why["a_mask.png"]
  assert "suffix" in why["notes.docx"]


def test_the_images_folder_is_found(tmp_path: Path) -> None:
  _touch(tmp_path, "images/a.png", "labels/a.txt")
  assert listing.image_folder(tmp_path) == tmp_path / "images"
  _touch(tmp_path, "b.png")
  assert listing.image_folder(tmp_path) == tmp_path
