"""COCO, YOLO and the manifest, read back; our own readers of boxes are the judge where they can."""

import json

import cv2
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax import files
from hiresmed_jax.data import writers
from tests.data.readers.label_files import boxes as boxes_in

BOXES = [(3.0, 4.0, 9.0, 8.0), (0.0, 0.0, 1.0, 2.0)]


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_undone_are_the_mask(mask):
  counts = writers.run_lengths(mask)
  values = np.arange(len(counts)) % 2 == 1
  np.testing.assert_array_equal(np.repeat(values, counts).reshape(mask.shape, order="F"), mask)
  assert all(count > 0 for count in counts[1:])


def test_coco_is_read_back(tmp_path):
  mask = np.zeros((20, 30), bool)
  mask[4:8, 3:9] = True
  lesions = [{"box": box, "area": 24, "counts": writers.run_lengths(mask)} for box in BOXES]
  image = {"id": 7, "file_name": "images/a.png", "height": 20, "width": 30, "lesions": lesions}
  empty = {"id": 8, "file_name": "images/b.png", "height": 20, "width": 30, "lesions": []}
  path = tmp_path / "annotations.json"
  path.write_bytes(writers.coco([image, empty]))
  content = json.loads(path.read_text())
  assert [i["id"] for i in content["images"]] == [7, 8]
  assert [a["id"] for a in content["annotations"]] == [1, 2]
  assert content["annotations"][0]["bbox"] == [3.0, 4.0, 6.0, 4.0]
  assert content["categories"] == [{"id": 1, "name": "lesion"}]


@pytest.mark.parametrize("form", ["yolo", "coco"])
def test_our_own_readers_of_boxes_agree(tmp_path, form):
  picture = tmp_path / "images" / "a.png"
  files.write(picture, cv2.imencode(".png", np.zeros((20, 30), np.uint8))[1].tobytes())
  if form == "yolo":
    labels = tmp_path / "labels"
    files.write(labels / "a.txt", writers.yolo_labels(BOXES, height=20, width=30))
  else:
    labels = tmp_path / "annotations.json"
    lesions = [{"box": box, "area": 1, "counts": [600]} for box in BOXES]
    entry = {"id": 1, "file_name": "a.png", "height": 20, "width": 30, "lesions": lesions}
    labels.write_bytes(writers.coco([entry]))
  found = boxes_in(labels / "a.txt" if form == "yolo" else labels, form, 30, 20)
  np.testing.assert_allclose(found, BOXES, atol=1e-5)


def test_data_yaml_can_be_read():
  content = yaml.safe_load(writers.yolo_dataset(name="kidney: stone"))
  assert content == {"train": "images", "val": "images", "names": {0: "kidney: stone"}}


def test_a_manifest_is_json_whatever_is_in_it():
  records = [{"b": float("nan"), "a": [1, (float("inf"), 2.5)]}, {"c": {"d": -float("inf")}}]
  lines = b"".join(map(writers.json_line, records)).decode().splitlines()
  assert lines == ['{"a": [1, [null, 2.5]], "b": null}', '{"c": {"d": null}}']


@given(st.dictionaries(st.text(), st.floats() | st.text()))
def test_every_line_is_one_line(record):
  line = writers.json_line(record).decode()
  assert line.endswith("\n")
  assert line.count("\n") == 1
  assert set(json.loads(line)) == set(record)
