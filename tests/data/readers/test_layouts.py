import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.data.readers import layouts
from hiresmed_jax.data.readers.boxes import inside
from hiresmed_jax.data.readers.text import BadBoxes, parse_xml
from tests.data.readers.label_files import all_boxes
from tests.data.readers.label_files import boxes as boxes_in

W, H = 640, 480


@st.composite
def whole_boxes(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
  """Boxes on whole pixels inside W x H."""
  boxes = []
  for _ in range(draw(st.integers(0, 5))):
    x = sorted(draw(st.lists(st.integers(0, W), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, H), min_size=2, max_size=2, unique=True)))
    boxes.append((x[0], y[0], x[1], y[1]))
  return boxes


def as_array(boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
  return np.asarray(boxes, np.float32).reshape(-1, 4)


def yolo_text(boxes: list[tuple[int, int, int, int]]) -> str:
  return "".join(
    f"0 {(a + c) / 2 / W:.9f} {(b + d) / 2 / H:.9f} {(c - a) / W:.9f} {(d - b) / H:.9f}\n"
    for a, b, c, d in boxes
  )


def voc_text(boxes: list[tuple[int, int, int, int]], name: str = "stone") -> str:
  objects = "".join(
    f"<object><name>{name}</name><bndbox><xmin>{a + 1}</xmin><ymin>{b + 1}</ymin>"
    f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
    for a, b, c, d in boxes
  )
  size = f"<size><width>{W}</width><height>{H}</height><depth>1</depth></size>"
  return f"<annotation>{size}{objects}</annotation>"


def coco(boxes: list[tuple[int, int, int, int]], **changes: object) -> dict[str, object]:
  return {
    "images": [
      {"id": 7, "file_name": "a/one.png", "width": W, "height": H},
      {"id": 8, "file_name": "none.png", "width": 5, "height": 5},
    ],
    "categories": [{"id": 3, "name": "stone"}],
    "annotations": [
      {"id": i, "image_id": 7, "category_id": 3, "bbox": [a, b, c - a, d - b]} | changes
      for i, (a, b, c, d) in enumerate(boxes)
    ],
  }


def write(folder: Path, text: str) -> Path:
  path = folder / "labels"
  path.write_text(text)
  return path


@given(boxes=whole_boxes())
def test_all_three_kinds_give_back_the_boxes(
  boxes: list[tuple[int, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
  folder = tmp_path_factory.mktemp("boxes")
  yolo = boxes_in(write(folder, yolo_text(boxes)), "yolo", W, H)
  voc = boxes_in(write(folder, voc_text(boxes)), "voc")
  found = all_boxes(write(folder, json.dumps(coco(boxes))), "coco", 0, 0)
  for array in (yolo, voc, found["a/one.png"]):
    assert array.dtype == np.float32
    assert array.shape == (len(boxes), 4)
    np.testing.assert_allclose(array, as_array(boxes), atol=1e-4)
  assert found["none.png"].shape == (0, 4)


def test_yolo_allows_a_confidence_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
  path = tmp_path / "labels"
  path.write_bytes(b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5 0.9\r\n\r\n")
  np.testing.assert_array_equal(boxes_in(path, "yolo", 100, 200), [[25, 50, 75, 150]])


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    ("0 0.5 0.5 0.5", "4 values"),
    ("0 0.1 0.1 0.2 0.1 0.3 0.3 0.4", "8 values"),
    ("0 0.1 0.1 3 0.1 0.3 0.3", "are these pixels"),
    ("0 nan 0.5 0.1 0.1", "not a finite"),
    ("0 inf 0.5 0.1 0.1", "not a finite"),
    ("0 x 0.5 0.1 0.1", "not a finite"),
    ("stone 0.5 0.5 0.1 0.1", "not a finite"),
    ("0.5 0.5 0.5 0.1 0.1", "whole number"),
    ("-1 0.5 0.5 0.1 0.1", "whole number"),
    ("0 0.5 0.5 0 0.1", "no area"),
    ("0 0.5 0.5 -0.1 0.1", "no area"),
    ("0 0.99 0.5 0.1 0.1", "outside"),
    ("0 320 240 20 20", "are these pixels"),
  ],
)
def test_yolo_says_which_line_is_wrong(tmp_path: Path, line: str, reason: str) -> None:
  path = write(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
  with pytest.raises(BadBoxes, match=r"^line 2 ") as caught:
    boxes_in(path, "yolo", W, H)
  assert reason in str(caught.value)


def test_a_small_overhang_is_clipped_and_a_larger_one_refused() -> None:
  boxes = [[-0.9, 0.0, 10.0, 10.0], [630.0, 470.0, 640.9, 481.0]]
  clipped = [inside(box, W, H, "box") for box in boxes]
  np.testing.assert_array_equal(clipped, [[0, 0, 10, 10], [630, 470, 640, 480]])
  for box in ([-1.1, 0, 10, 10], [0, 0, 641.5, 10], [700, 10, 720, 20]):
    with pytest.raises(BadBoxes, match="outside"):
      inside(box, W, H, "box")
  with pytest.raises(BadBoxes, match="no area inside"):
    inside([-0.5, 0, 0, 10], W, H, "box")
  with pytest.raises(BadBoxes, match="box 2 is not finite"):
    inside([0, 0, np.nan, 1], W, H, "box 2")


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"image_id": 9}, "belongs to no image"),
    ({"image_id": [7]}, "belongs to no image"),
    ({"category_id": 4}, "unknown category"),
    ({"iscrowd": 1}, "crowd"),
    ({"bbox": [1, 2, 3]}, "four numbers"),
    ({"bbox": [1, 2, float("nan"), 4]}, "finite"),
    ({"bbox": [1, 2, -3, 4]}, "wrong way round"),
    ({"bbox": [1, 2, "3px", 4]}, "finite"),
    ({"bbox": [1, 2, True, 4]}, "finite"),
    ({"bbox": [1, 2, 10**400, 4]}, "finite"),
    ({"bbox": [600, 2, 100, 4]}, "outside"),
  ],
)
def test_coco_says_which_annotation_is_wrong(
  tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
  with pytest.raises(BadBoxes, match=r"^annotation 0 ") as caught:
    all_boxes(write(tmp_path, json.dumps(coco([(1, 2, 3, 4)], **changes))), "coco", 0, 0)
  assert reason in str(caught.value)


def test_coco_has_a_plain_structure(tmp_path: Path) -> None:
  path = write(tmp_path, json.dumps(coco([(1, 2, 3, 4)])))
  assert len(all_boxes(path, "coco", 0, 0)["a/one.png"]) == 1
  twice = coco([])
  twice["images"] = [twice["images"][0]] * 2  # type: ignore[index]
  for text in (
    "",
    "[]",
    "{}",
    "[" * 100_000,
    '{"images": 3, "annotations": []}',
    '{"images": [], "annotations": 3}',
    '{"images": [{"id": [1], "file_name": "a", "width": 1, "height": 1}], "annotations": []}',
    '{"images": [{"id": 1, "file_name": "a", "width": 0, "height": 1}], "annotations": []}',
    json.dumps(twice),
  ):
    with pytest.raises(BadBoxes):
      all_boxes(write(tmp_path, text), "coco", 0, 0)


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    (voc_text([(0, 0, 9, 9), (9, 9, 3, 20)]), "object 2 has no area"),
    (voc_text([(0, 0, 900, 9)]), "object 1 lies outside"),
    (voc_text([(0, 0, 9, 9)]).replace("<xmax>9</xmax>", ""), "not a finite"),
    (voc_text([]).replace(f"<width>{W}</width>", "<width>0</width>"), "image width of 0"),
    (voc_text([]).replace(f"<width>{W}</width>", ""), "width"),
    ("<annotation>", "not well-formed"),
    ("no XML at all", "not well-formed"),
    ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "document type"),
    ('<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><a/>', "document type"),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>', "document type"),
  ],
)
def test_voc_says_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
  with pytest.raises(BadBoxes, match=reason):
    boxes_in(write(tmp_path, text), "voc")


def test_voc_counted_from_zero_is_clipped_at_the_border(tmp_path: Path) -> None:
  np.testing.assert_array_equal(
    boxes_in(write(tmp_path, voc_text([(-1, -1, 9, 9)])), "voc"), [[0, 0, 9, 9]]
  )


@given(data=st.binary(max_size=300))
def test_any_bytes_are_boxes_or_bad_boxes(
  data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
  path = tmp_path_factory.mktemp("boxes") / "labels"
  path.write_bytes(data)
  for kind in layouts.FORMATS:
    with contextlib.suppress(BadBoxes):
      all_boxes(path, kind, W, H)


@given(text=st.text(alphabet=st.sampled_from('<>&;!a/="[] \n'), max_size=60))
def test_any_markup_is_a_tree_or_bad_boxes(text: str) -> None:
  with contextlib.suppress(BadBoxes):
    parse_xml(text.encode())


def test_missing_file_is_bad_boxes(tmp_path: Path) -> None:
  with pytest.raises(BadBoxes, match=r"^cannot be opened as text$"):
    boxes_in(tmp_path / "nothing.txt")


def test_stones_all_have_believable_boxes(shared: Path) -> None:
  labels = sorted((shared / "data" / "stones_ct" / "labels").glob("*.txt"))
  boxes = np.concatenate([boxes_in(path, "yolo", 391, 320) for path in labels])
  assert len(labels) == 622
  assert np.median(boxes[:, 2:] - boxes[:, :2], axis=0) == pytest.approx([11, 9], abs=1)
