import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hiresmed_jax.data.readers import images, lidc, lidc_readings
from hiresmed_jax.data.readers.lidc import read as read_folder
from hiresmed_jax.data.sample import Sample, Unreadable
from tests.data.readers.dicom_files import CR, SECRET
from tests.data.readers.label_files import boxes as boxes_in
from tests.data.readers.lidc_series import (
  disc,
  message,
  nodule,
  other,
  outline,
  point,
  rim,
  uid,
  write_series,
  write_slice,
)

SHAPE = (40, 48)
BIG, SMALL = disc(SHAPE, 20, 25, 8), disc(SHAPE, 20, 25, 6)
THREE = ([(3, outline(BIG), True), (4, outline(BIG), True)], [(3, outline(SMALL), True)], [])


def folder(tmp_path: Path, readers: Sequence[Sequence[str]], **options) -> Path:
  write_series(tmp_path / "LIDC-IDRI-0001", **options)
  (tmp_path / "LIDC-IDRI-0001" / "069.xml").write_text(message(readers))
  return tmp_path


def all_of(
  root: Path, *, agree: int = 2, free: int = 0
) -> tuple[list[Sample], list[tuple[str, str]]]:
  refused: list[tuple[str, str]] = []
  files = sorted(path for path in root.rglob("*") if path.is_file())
  seen = []
  samples = read_folder(
    files,
    root=root,
    agree=agree,
    nodule_free=free,
    refuse=lambda path, reason: refused.append((path.name, reason)),
    advance=lambda: seen.append(1),
  )
  found = list(samples)
  assert len(seen) == len(files)
  return found, refused


def level(sample: Sample) -> int:
  """Which slice it is: its only HU value."""
  values = sample.rescale_slope * sample.image.astype(float) + sample.rescale_intercept
  return int(values.mean()) + 1000


def test_the_consensus_of_two_readers(tmp_path: Path) -> None:
  root = folder(tmp_path, [[nodule(rois)] for rois in THREE])
  samples, refused = all_of(root)
  assert refused == []
  (sample,) = samples  # the slice that two readers drew on, of the two
  assert level(sample) == 3
  np.testing.assert_array_equal(sample.lesion_mask, SMALL)
  np.testing.assert_array_equal(sample.boxes, [[19, 14, 32, 27]])
  assert sample.boxes.dtype == np.float32
  assert sample.physics == "ct"
  assert sample.spacing_mm == (0.5, 0.8)
  assert sample.group == f"{SECRET}-1"  # raw here, hashed on writing
  assert (root / sample.source).is_file()


@pytest.mark.parametrize(("agree", "slices"), [(1, [3, 4]), (2, [3]), (3, [])])
def test_how_many_must_agree(tmp_path: Path, agree: int, slices: list[int]) -> None:
  samples, refused = all_of(folder(tmp_path, [[nodule(rois)] for rois in THREE]), agree=agree)
  assert [level(sample) for sample in samples] == slices
  if agree == 1:
    np.testing.assert_array_equal(samples[0].lesion_mask, BIG)
  assert refused == ([] if slices else [("069.xml", "has no nodule that enough readers agree on")])


def test_a_hole_and_two_nodules(tmp_path: Path) -> None:
  ring, far = BIG & ~disc(SHAPE, 20, 25, 3), disc(SHAPE, 8, 8, 3)
  mark = [
    nodule([(5, outline(BIG), True), (5, rim(disc(SHAPE, 20, 25, 3)), False)], name="IL057_1"),
    nodule([(5, outline(far), True)], name="IL057_2"),
  ]
  # The readers name their nodules as they like, and in any order.
  samples, _ = all_of(folder(tmp_path, [mark, [m.replace("IL057", "MI0") for m in mark[::-1]]]))
  (sample,) = samples
  np.testing.assert_array_equal(sample.lesion_mask > 0, ring | far)
  assert len(np.unique(sample.lesion_mask[ring])) == len(np.unique(sample.lesion_mask[far])) == 1
  for index, (x1, y1, x2, y2) in enumerate(sample.boxes.astype(int)):
    mask = sample.lesion_mask == index + 1
    assert mask[y1:y2, x1:x2].sum() == mask.sum()
    assert mask[y1].any()
    assert mask[:, x2 - 1].any()


def test_small_nodules_and_other_things_give_no_mask(tmp_path: Path) -> None:
  readers = [[point(6, 20, 20), other(7, 9, 9)], [point(6, 20, 20), other(7, 9, 9)]]
  samples, refused = all_of(folder(tmp_path, readers))
  assert samples == []
  assert refused == [("069.xml", "has no nodule that enough readers agree on")]


def test_slices_without_nodules(tmp_path: Path) -> None:
  readers = [[nodule(THREE[0]), point(6, 20, 20), other(7, 9, 9)], [nodule(THREE[1])], [], []]
  samples, _ = all_of(folder(tmp_path, readers), free=100)
  empty = [level(sample) for sample in samples if not sample.lesion_mask.any()]
  # Not 4, which one reader drew on, and not 6, where a nodule below 3 mm is.
  assert empty == [0, 1, 2, 5, 7, 8, 9, 10, 11]
  for sample in samples:
    assert sample.lesion_mask.shape == SHAPE
    assert len(sample.boxes) == sample.lesion_mask.max()
  samples, _ = all_of(tmp_path, free=3)
  assert [level(sample) for sample in samples] == [1, 3, 7, 10]


def test_slices_are_in_the_order_of_z(tmp_path: Path) -> None:
  paths = write_series(tmp_path)
  refused: list[str] = []
  (slices,) = lidc.series_of(paths[::-1], lambda path, _: refused.append(path.name)).values()
  assert [one.z for one in slices] == list(range(0, 60, 5))
  assert [one.path.name for one in slices] != sorted(one.path.name for one in slices)
  assert [one.sop_uid for one in slices] == [uid(n) for n in range(12)]
  assert refused == []


def test_contours_find_their_slice_by_z_where_its_uid_is_another(tmp_path: Path) -> None:
  readers = [[nodule(rois, uids=False)] for rois in THREE[:2]]
  samples, refused = all_of(folder(tmp_path, readers))
  assert [level(sample) for sample in samples] == [3]
  assert refused == []


def test_two_slices_at_one_z(tmp_path: Path) -> None:
  root = folder(tmp_path, [[nodule(rois)] for rois in THREE[:2]])
  write_slice(root / "LIDC-IDRI-0001" / "again.dcm", 90, 15.0)
  samples, refused = all_of(root)  # by UID there is no doubt
  assert [level(sample) for sample in samples] == [3]
  assert refused == []
  text = message([[nodule(rois, uids=False)] for rois in THREE[:2]])
  (root / "LIDC-IDRI-0001" / "069.xml").write_text(text)
  samples, refused = all_of(root, agree=1)
  assert [level(sample) for sample in samples] == [4]
  assert refused == [("069.xml", "has contours on slices that are not there")]
  samples, _ = all_of(root, agree=1, free=100)  # on one of the two there is a nodule
  assert {level(sample) for sample in samples}.isdisjoint({3, 90})


def test_missing_slices(tmp_path: Path) -> None:
  root = folder(tmp_path, [[nodule(rois)] for rois in THREE[:2]])
  for path in (root / "LIDC-IDRI-0001").glob("*.dcm"):
    (sample,) = lidc.dicom.read(path)
    if level(sample) == 4:
      path.unlink()
  samples, refused = all_of(root)
  assert [level(sample) for sample in samples] == [3]
  assert refused == [("069.xml", "has contours on slices that are not there")]


def test_readings_and_series_that_do_not_meet(tmp_path: Path) -> None:
  root = folder(tmp_path, [[nodule(rois)] for rois in THREE])
  (root / "b.xml").write_text((root / "LIDC-IDRI-0001" / "069.xml").read_text())
  (root / "c.xml").write_text(message([], series="1.2.3"))
  (root / "d.xml").write_text("<annotation/>")
  for number in range(2):
    write_slice(root / f"e{number}", number, 5.0 * number, SeriesInstanceUID="9.9")
  write_slice(root / "f", 1, 5.0)
  write_slice(root / "g", 60, 5.0, Modality="CR", SOPClassUID=CR)
  write_slice(root / "h", 61, 5.0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
  (root / "i").write_text("no DICOM")
  samples, refused = all_of(root)
  assert [level(sample) for sample in samples] == [3]
  assert sorted(refused) == [
    ("b.xml", "is a second reading of one series"),
    ("c.xml", "is the reading of a series that is not there"),
    ("d.xml", "is XML, but no LIDC reading"),
    ("e0", "is of a series without a reading"),
    ("f", "is a second copy of a slice"),
    ("g", "is no slice of a CT series"),
    ("h", "is no slice of a CT series"),
    ("i", "is not a DICOM file"),
  ]


def test_slices_of_two_sizes_and_pixels_that_are_lost(tmp_path: Path) -> None:
  slices = [lidc.Slice(tmp_path / "a", "1", 0.0, shape) for shape in ((4, 4), (4, 5))]
  with pytest.raises(Unreadable, match="several sizes"):
    lidc.label(slices, lidc_readings.Reading("1", ()))
  root = folder(tmp_path, [[nodule(rois)] for rois in THREE])
  paths = {level(s): p for p in root.rglob("*.dcm") for s in lidc.dicom.read(p)}
  paths[3].write_bytes(paths[3].read_bytes()[:-100])
  samples, refused = all_of(root, agree=1)
  assert [level(sample) for sample in samples] == [4]
  assert len(refused) == 1
  assert "bytes of pixels" in refused[0][1]


def test_nodules_lie_where_another_set_has_them(shared: Path) -> None:
  """LUNA16 gives centre and diameter of nodules in 21 of the series, at 1 mm a pixel."""
  folder = shared / "data" / "nodules_ct"
  with (folder / "nodules.csv").open() as file:
    rows = list(csv.DictReader(file))
  found = 0
  for path in sorted((shared / "data" / "lidc_xml").glob("*.xml")):
    reading = lidc_readings.read(path)
    mine = [row for row in rows if row["seriesuid"] == reading.series_uid]
    marks = {(c.sop_uid, c.z) for reader in reading.readers for one in reader for c in one}
    if not mine:
      continue
    slices = [
      lidc.Slice(Path(f"{z}"), sop, z, (512, 512)) for sop, z in sorted(marks, key=lambda m: m[1])
    ]
    labelled, lost = lidc.label(slices, reading)
    assert lost == 0
    for row in mine:
      height, width = next(images.read(folder / "images" / f"{row['name']}.png")).image.shape[:2]
      label = folder / "labels" / f"{row['name']}.txt"
      ((x1, y1, x2, y2),) = boxes_in(label, "yolo", width, height)
      one = min(labelled, key=lambda one: abs(float(one.path.name) - float(row["coordZ"])))
      # The slice of 512 pixels was resampled whole to one pixel a mm.
      y, x = int((y1 + y2) / 2 * 512 / height), int((x1 + x2) / 2 * 512 / width)
      near = one.lesion_mask[y - 3 : y + 4, x - 3 : x + 4]
      area = np.count_nonzero(one.lesion_mask == near.max())
      diameter = 2 * np.sqrt(area / np.pi) * width / 512
      assert near.any()
      assert abs(diameter - float(row["diameter_mm"])) < max(1.3, 0.2 * diameter)
      found += 1
  assert found == 29
