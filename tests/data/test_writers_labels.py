"""COCO, YOLO and the manifest, read back; our own readers of boxes are the judge where they can."""

import json

import cv2
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from hiresmed_jax import files
from hiresmed_jax.data import writers
from tests.data.readers.label_files import boxes as boxes_in

BOXES = [(3.0, 4.0, 9.0, 8.0), (0.0, 0.0, 1.0, 2.0)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=90)))
def test_run_lengths_are_those_of_pycocotools(mask):
  given_back = {"size": list(mask.shape), "counts": writers.run_lengths(mask)}
  np.testing.assert_array_equal(coco_masks.decode(given_back), mask)
  encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
  assert encoded["counts"].decode() == given_back["counts"]


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
    lesions = [
      {"box": box, "area": 1, "counts": writers.run_lengths(np.zeros((20, 30), bool))}
      for box in BOXES
    ]
    entry = {"id": 1, "file_name": "a.png", "height": 20, "width": 30, "lesions": lesions}
    labels.write_bytes(writers.coco([entry]))
  found = boxes_in(labels / "a.txt" if form == "yolo" else labels, form, 30, 20)
  np.testing.assert_allclose(found, BOXES, atol=1e-5)


def test_data_yaml_has_the_users_classes_and_real_images_alone_validate():
  classes = writers.Classes({"kidney": 0, "kidney: stone": 2}, "kidney: stone")
  plain, with_real = (
    yaml.safe_load(writers.yolo_dataset(classes, val=val)) for val in (None, "real/images")
  )
  names = {0: "kidney", 1: "class 1", 2: "kidney: stone"}
  assert plain == {"train": "images", "names": names}
  assert with_real == {"train": "images", "val": "real/images", "names": names}
  assert classes.categories() == {"kidney": 1, "kidney: stone": 3}
  own = writers.Classes({"bone": 7, "stone": 3}, "stone", coco=True)
  assert (own.yolo(), own.categories()) == ({"stone": 0, "bone": 1}, {"bone": 7, "stone": 3})


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
