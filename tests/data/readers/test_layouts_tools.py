"""Labels of tools: the same box and class of each, negatives, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from hiresmed_jax.data import annotations, matching
from hiresmed_jax.data.readers import layouts
from hiresmed_jax.data.readers.boxes import boxes_of
from hiresmed_jax.data.readers.text import BadBoxes
from hiresmed_jax.data.sample import Sample, Unreadable
from tests.data.readers.label_files import all_boxes

W, H = 40, 20
BOX = [8, 5, 16, 10]


def task(*results: dict, image: str = "/data/upload/3/0a1b2c3d-a.png", **more: object) -> dict:
  done = [{"result": list(results), "was_cancelled": False, **more}]
  return {"id": 1, "data": {"image": image}, "annotations": done}


RECTANGLE = {
  "type": "rectanglelabels", "original_width": W, "original_height": H,
  "value": {"x": 20, "y": 25, "width": 20, "height": 25, "rectanglelabels": ["stone"]},
}  # fmt: skip
CVAT = (
  '<annotations><version>1.1</version><image id="0" name="set/a.png" width="40" height="20">'
  '<box label="stone" xtl="8" ytl="5" xbr="16" ybr="10" occluded="0"/></image>'
  '<image id="1" name="set/b.png" width="40" height="20"/></annotations>'
)
LABELME = {
  "version": "5", "imagePath": "a.png", "imageWidth": W, "imageHeight": H, "imageData": None,
  "shapes": [{"label": "stone", "points": [[16, 10], [8, 5]], "shape_type": "rectangle"}],
}  # fmt: skip
VINDR = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
RSNA = "patientId,x,y,width,height,Target\n"


@pytest.mark.parametrize(
  ("file", "text", "kind", "negative"),
  [
    ("a.xml", CVAT, "cvat", "set/b.png"),
    ("a.json", json.dumps([task(RECTANGLE), task(image="/data/upload/3/9f8e7d6c-b.png")]),
     "labelstudio", "/data/upload/3/9f8e7d6c-b.png"),
    ("a.json", json.dumps(LABELME), "labelme", None),
    ("train.csv", VINDR + "a,stone,1,R9,8,5,16,10\nb,No finding,14,R1,,,,\n", "csv", "b"),
    ("train.csv", RSNA + "a,8,5,8,5,1\nb,,,,,0\n", "csv", "b"),
    ("a.txt", "0 0.3 0.375 0.2 0.25\n", "yolo", None),
    ("a.txt", "0 0.2 0.25 0.4 0.25 0.4 0.5 0.2 0.5\n", "yolo", None),
  ],
)  # fmt: skip
def test_labels_of_a_tool(tmp_path: Path, file: str, text: str, kind: str, negative: str) -> None:
  path = tmp_path / file
  path.write_text(text)
  assert layouts.format_of(path) == kind
  found = all_boxes(path, kind, W, H)
  assert len(found.pop(negative)) == 0 if negative else True
  ((name, boxes),) = found.items()
  np.testing.assert_allclose(boxes, [BOX], atol=1e-4)
  assert list(matching.match([name], ["p0/a.png"] if "set" not in name else ["a.png"]).found)


@pytest.mark.parametrize(
  ("content", "kind", "says"),
  [
    ([task({**RECTANGLE, "value": {**RECTANGLE["value"], "rotation": 9}})],
     "labelstudio", "turned"),
    ([task({"type": "brushlabels", "value": {"rle": [1]}})], "labelstudio", "brushlabels"),
    ([{**task(), "annotations": task()["annotations"] * 2}], "labelstudio", "2 annotations"),
    ({**LABELME, "shapes": [{"label": "", "points": [[1, 2], [3, 4]], "shape_type": "circle"}]},
     "labelme", "circle"),
  ],
)  # fmt: skip
def test_marks_that_are_not_read_are_refused(tmp_path, content, kind, says) -> None:
  (tmp_path / "a.json").write_text(json.dumps(content))
  with pytest.raises(BadBoxes, match=says):
    all_boxes(tmp_path / "a.json", kind, W, H)


def test_a_skipped_task_is_no_label(tmp_path: Path) -> None:
  tasks = [{**task(), "annotations": []}, task(RECTANGLE, was_cancelled=True)]
  (tmp_path / "a.json").write_text(json.dumps(tasks))
  assert layouts.read(tmp_path / "a.json", "labelstudio", "a") == []


def test_wrong_units_and_orders_are_told(tmp_path: Path) -> None:
  entry = {"id": 1, "file_name": "a.png", "width": W, "height": H}
  mark = {"id": 1, "image_id": 1, "category_id": 1}
  path = tmp_path / "coco.json"
  for bbox, says in (([0.2, 0.25, 0.2, 0.25], "in shares"), ([20, 8, 39, 16], "two corners")):
    path.write_text(json.dumps({"images": [entry], "annotations": [{**mark, "bbox": bbox}]}))
    with pytest.raises(BadBoxes, match=says):
      all_boxes(path, "coco", 0, 0)
  (tmp_path / "a.txt").write_text("0 0.6 0.7 0.9 0.95\n")
  (label,) = layouts.read(tmp_path / "a.txt", "yolo", "a")
  with pytest.raises(BadBoxes, match="two corners"):
    boxes_of(label, label.marks, W, H)
  with pytest.raises(Exception, match="are two corners"):
    annotations.read_labels([tmp_path / "a.txt"], "yolo", tmp_path)


def test_outlines_become_masks_by_pycocotools(tmp_path: Path, monkeypatch) -> None:
  coco_masks = pytest.importorskip("pycocotools.mask")
  lesion = np.zeros((H, W), np.uint8)
  lesion[5:10, 8:12], lesion[7:10, 8:16] = 1, 1
  packed = coco_masks.encode(np.asfortranarray(lesion))
  flat = lesion.ravel(order="F")
  edges = np.flatnonzero(np.diff(flat)) + 1
  counts = np.diff([0, *edges, flat.size]).tolist()
  polygon = [8, 5, 12, 5, 12, 7, 16, 7, 16, 10, 8, 10]
  entry = {"id": 1, "file_name": "a.png", "width": W, "height": H}
  path = tmp_path / "coco.json"
  for outline in (
    {"size": [H, W], "counts": packed["counts"].decode()},
    {"size": [H, W], "counts": counts},
    [polygon],
  ):
    for more in ({"bbox": [8, 5, 8, 5]}, {}):
      mark = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": outline, **more}
      path.write_text(json.dumps({"images": [entry], "annotations": [mark]}))
      labels = annotations.read_labels([path], None, tmp_path)
      by_image, _ = matching.attach(labels, ["a.png"], ["a.png"], "labels")
      known = annotations.Annotations(tmp_path, by_image)
      sample = Sample(np.zeros((H, W, 1), np.uint8), group="g", source="a.png")
      out = known.add_to(sample, "a.png")
      np.testing.assert_array_equal(out.boxes, [BOX])
      np.testing.assert_array_equal(out.lesion_mask, lesion)
  mark["segmentation"] = {"size": [H + 1, W], "counts": counts}
  path.write_text(json.dumps({"images": [entry], "annotations": [mark]}))
  labels = annotations.read_labels([path], None, tmp_path)
  known = annotations.Annotations(tmp_path, {"a.png": {None: labels[0]}})
  with pytest.raises(Unreadable, match="mask of another size"):
    known.add_to(sample, "a.png")
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(Exception, match=r"pip install 'hiresmed_jax\[coco\]'"):
    annotations.read_labels([path], None, tmp_path)
