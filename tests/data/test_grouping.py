from pathlib import Path

import pytest

from hiresmed_jax.data import grouping
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError


@pytest.mark.parametrize(
  ("image", "group"),
  [
    ("p1/a.png", "p1"),
    ("x/site/a.png", "x/site"),
    ("a.b.nii.gz", "a.b"),
    ("train/patient00001/study2/view1_frontal.jpg", "patient00001"),
    ("valid/XR_HAND/patient00001/study1_positive/image1.png", "patient00001"),
    ("LIDC-IDRI-0003/1.3.6.1.4.1.14519/000001.png", "LIDC-IDRI-0003"),
    ("4711/2020-01-02/series-1/a.png", "4711"),
    ("series-1/a.png", "series-1"),
    ("train/images/case_0_png.rf.0123456789abcdef.jpg", "case_0_png"),
    ("imagesTr/kidney_004_0000.nii.gz", "kidney_004"),
    ("benign/a.png", "a"),
  ],
)
def test_the_patient_in_a_path(image: str, group: str) -> None:
  assert grouping.default_group(image).name == group


def test_a_pattern_names_the_patient() -> None:
  pattern = grouping.pattern_of("(?P<patient>[^/]+)/.*")
  found = grouping.Grouping(pattern=pattern)
  assert found.group_of("A7/b/c.png", "of the header").name == "A7"
  with pytest.raises(Unreadable, match="group-pattern"):
    found.group_of("c.png")
  for text in ("(", "[a-z]+"):
    with pytest.raises(UserError, match="--group-pattern"):
      grouping.pattern_of(text)


def test_names_that_differ_in_their_last_number_only() -> None:
  names = ("p01_01.png", "p01_02.png", "p02-img3.png", "scan-1.png", "a.png")
  assert [grouping.name_family(name) for name in names] == ["p01", "p01", "p02", "", ""]


def test_a_split_of_files_or_of_groups(tmp_path: Path) -> None:
  path = tmp_path / "split.csv"
  path.write_text("file,Split\na.png,Training\nsub/b,valid\n")
  found, by_group, use = grouping.read_split(path, ["a.png", "sub/b.png", "c.png"])
  assert (found, by_group) == ({"a.png": "train", "sub/b.png": "val"}, False)
  assert use is not None
  split = grouping.Grouping(split=found)
  assert split.split_of("a.png", "g") == "train"
  with pytest.raises(Unreadable, match="no row"):
    split.split_of("c.png", "g")
  path.write_text("patient,subset\nA,test\n")
  found, by_group, _ = grouping.read_split(path, ["a.png"])
  assert grouping.Grouping(split=found, split_by_group=by_group).split_of("a.png", "A") == "test"
  path.write_text("patient,subset\nA,7\n")
  with pytest.raises(UserError, match="the split '7'"):
    grouping.read_split(path, [])


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
  groups, use = grouping.read_groups(path, ["a.png", "sub/b.png", "c.png"])
  assert groups == {"a.png": "acq1", "sub/b.png": "acq2"}
  assert (use.found, use.ambiguous, use.unused) == (2, (), ())


@pytest.mark.parametrize(
  ("table", "says"),
  [
    (b"picture,patient\na,1\n", "columns picture, patient"),
    (b"file,colour\na,1\n", "columns file, colour"),
    (b"", r"columns \(none\)"),
    (b"file,group\na,1\na,2\n", "line 3 .* second group"),
    (b"file,group\na,\n", "line 2 .* lacks"),
    (b"file,group\na\n", "line 2 .* lacks"),
    (b"\xff\xfe\x00", "no table"),
  ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, table: bytes, says: str) -> None:
  path = tmp_path / "groups.csv"
  path.write_bytes(table)
  with pytest.raises(UserError, match=says):
    grouping.read_groups(path, [])


def test_no_table(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="not there"):
    grouping.read_groups(tmp_path / "groups.csv", [])
