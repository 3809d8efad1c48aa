import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hiresmed_jax.data import annotations, matching
from hiresmed_jax.data.annotations import Annotations
from hiresmed_jax.data.readers import masks
from hiresmed_jax.data.readers.mask_values import instances
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.errors import UserError

NONE = np.zeros((0, 4), np.float32)


def _sample(**known: Any) -> Sample:
  known = {"source": "s", **known}
  return Sample(np.zeros((20, 30, 1), np.uint8), group="g", **known)


def _mask(*rectangles: tuple[int, int, int, int], label: int = 255) -> np.ndarray:
  mask = np.zeros((20, 30), np.uint8)
  for x1, y1, x2, y2 in rectangles:
    mask[y1:y2, x1:x2] = label
  return mask


def _known(root: Path, *names: str, masks: str = "", **more: Any) -> Annotations:
  """Annotations of images by the label files in a folder, or by the masks in it."""
  found = []
  for kind in ("txt", "xml", "json"):
    found += sorted(root.rglob(f"*.{kind}"))
  labels = annotations.read_labels(found, None, root)
  by_image, _ = matching.attach(labels, [label.name for label in labels], names, "labels")
  files = sorted(root.glob("*.png")) if masks else []
  by_mask, _ = matching.attach(files, [p.name for p in files], names, "masks")
  return Annotations(root, by_image, **({masks: by_mask} if masks else {}), **more)


def test_the_box_formats_agree_and_unknown_is_not_negative(tmp_path: Path) -> None:
  voc = (
    "<annotation><size><width>30</width><height>20</height></size><object><name>stone</name>"
    "<bndbox><xmin>13</xmin><ymin>9</ymin><xmax>18</xmax><ymax>12</ymax></bndbox></object>"
    "</annotation>"
  )
  coco = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 30, "height": 20} for n in (1, 2)],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [12, 8, 6, 4]}],
    "categories": [{"id": 1, "name": "stone"}],
  }
  for kind, files in (
    ("yolo", {"sub/1.txt": "0 0.5 0.5 0.2 0.2\n", "2.txt": ""}),
    ("voc", {"1.xml": voc, "2.xml": voc[: voc.index("<object>")] + "</annotation>"}),
    ("coco", {"coco.json": json.dumps(coco)}),
  ):
    for name, text in files.items():
      (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / kind / name).write_text(text)
    known = _known(tmp_path / kind, "sub/1.png", "2.png", "3.png")
    one, negative, unknown = (
      known.add_to(_sample(source=n), n) for n in ("sub/1.png", "2.png", "3.png")
    )
    np.testing.assert_allclose(one.boxes, [[12, 8, 18, 12]], atol=1e-5)
    assert (one.labelled, negative.labelled, unknown.labelled) == (True, True, False)
    assert len(negative.boxes) == len(unknown.boxes) == 0


def test_boxes_that_cannot_be_believed_refuse_their_image(tmp_path: Path) -> None:
  (tmp_path / "a.txt").write_text("0 120 80 20 20\n")
  with pytest.raises(Unreadable, match="label file that line 1") as raised:
    _known(tmp_path, "a.png").add_to(_sample(source="a.png"), "a.png")
  assert str(tmp_path) not in str(raised.value)


def test_masks_and_what_is_said_of_all_images(tmp_path: Path) -> None:
  cv2.imwrite(str(tmp_path / "a.png"), _mask((3, 4, 8, 9), (20, 10, 25, 15)))
  known = _known(tmp_path, "sub/a.jpg", "b.png", masks="lesion_masks")
  known = dataclasses.replace(
    known,
    forbidden_masks=known.lesion_masks,
    host_masks=known.lesion_masks,
    physics="ct",
    spacing_mm=(0.7, 0.5),
  )
  out = known.add_to(_sample(source="sub/a.jpg"), "sub/a.jpg")
  np.testing.assert_array_equal(out.boxes, [[3, 4, 8, 9], [20, 10, 25, 15]])
  assert (out.lesion_mask[5, 5], out.lesion_mask[12, 22], out.lesion_mask[0, 0]) == (1, 2, 0)
  assert (out.forbidden_mask > 0).sum() == (out.host_mask > 0).sum() == 50
  assert (out.physics, out.spacing_mm, out.labelled) == ("ct", (0.7, 0.5), True)
  told = known.add_to(_sample(source="b.png", spacing_mm=(1.0, 1.0)), "b.png")
  assert told.spacing_mm == (1.0, 1.0)
  assert told.lesion_mask.shape == (0, 0)
  assert not told.labelled


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
  cv2.imwrite(str(tmp_path / "a.png"), np.zeros((5, 6), np.uint8))
  (tmp_path / "b.png").write_text("text")
  known = _known(tmp_path, "a.png", "b.png", masks="lesion_masks")
  for name, says in (("a.png", "another size"), ("b.png", "has a mask|is not")):
    with pytest.raises(Unreadable, match=says):
      known.add_to(_sample(source=name), name)


def test_classes_are_chosen(tmp_path: Path) -> None:
  text = "0 0.5 0.5 1 1\n1 0.5 0.5 0.2 0.2\n2 0.1 0.1 0.2 0.2\n1 0.5 0.5 0.2 0.2\n"
  (tmp_path / "a.txt").write_text(text)
  (tmp_path / "data.yaml").write_text("names: {0: kidney, 1: stone, 2: bone}\n")
  known = _known(tmp_path, "a.png")
  counts = annotations.class_counts(x for pages in known.labels.values() for x in pages.values())
  assert counts == {"bone": 1, "kidney": 1, "stone": 2}
  with pytest.raises(UserError, match=r"bone \(1\), kidney \(1\), stone \(2\)"):
    annotations.choose(counts, host=["kidney"])
  with pytest.raises(UserError, match="'stones'"):
    annotations.choose(counts, ["stones"])
  chosen = annotations.choose(counts, host=["kidney"], forbidden=["bone"])
  assert chosen.is_lesion("stone")
  known = dataclasses.replace(known, classes=chosen)
  out = known.add_to(_sample(source="a.png"), "a.png")
  np.testing.assert_allclose(out.boxes, [[12, 8, 18, 12]], atol=1e-5)
  assert any("given twice" in note for note in out.notes)
  assert out.host_mask.all()
  assert (out.forbidden_mask > 0).sum() == 6 * 4


def test_lesions_are_numbered_as_their_boxes() -> None:
  boxes = np.array([[19, 9, 26, 16], [2, 3, 9, 10]], np.float32)
  ids, merged = masks.match(instances(_mask((3, 4, 8, 9), (20, 10, 25, 15), (12, 0, 14, 2))), boxes)
  np.testing.assert_array_equal(merged, [*boxes, [12, 0, 14, 2]])
  assert (ids[12, 22], ids[5, 5], ids[1, 13]) == (1, 2, 3)
  assert ids.dtype == np.uint16


def test_labels_of_a_mask_are_kept_apart() -> None:
  mask = _mask((3, 4, 8, 9), label=1) + _mask((8, 4, 12, 9), label=2)  # two that touch
  ids, boxes = masks.match(mask, NONE)
  np.testing.assert_array_equal(boxes, [[3, 4, 8, 9], [8, 4, 12, 9]])
  np.testing.assert_array_equal(ids, mask)


def test_an_empty_mask_is_a_known_absence() -> None:
  ids, boxes = masks.match(_mask(), NONE)
  assert ids.shape == (20, 30)
  assert not ids.any()
  assert boxes.shape == (0, 4)
