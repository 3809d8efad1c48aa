import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hiresmed_jax.data.annotations import Annotations, box_lookup, match
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.errors import UserError

NONE = np.zeros((0, 4), np.float32)


def _sample(**known: Any) -> Sample:
  return Sample(np.zeros((20, 30, 1), np.uint8), group="g", source="s", **known)


def _mask(*rectangles: tuple[int, int, int, int], label: int = 255) -> np.ndarray:
  mask = np.zeros((20, 30), np.uint8)
  for x1, y1, x2, y2 in rectangles:
    mask[y1:y2, x1:x2] = label
  return mask


def test_the_three_box_formats_agree(tmp_path: Path) -> None:
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
  voc = (
    "<annotation><size><width>30</width><height>20</height></size><object><name>stone</name>"
    "<bndbox><xmin>13</xmin><ymin>9</ymin><xmax>18</xmax><ymax>12</ymax></bndbox></object>"
    "</annotation>"
  )
  (tmp_path / "a.xml").write_text(voc)
  coco = {
    "images": [{"id": 1, "file_name": "a.png", "width": 30, "height": 20}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [12, 8, 6, 4]}],
    "categories": [{"id": 1, "name": "stone"}],
  }
  (tmp_path / "a.json").write_text(json.dumps(coco))
  for kind in ("yolo", "voc", "coco"):
    look_up = box_lookup(kind, tmp_path)
    found = look_up(Path("sub/a.png"), 30, 20)
    assert found is not None
    np.testing.assert_allclose(found, [[12, 8, 18, 12]], atol=1e-5)
    assert look_up(Path("other.png"), 30, 20) is None


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco"])
def test_labels_that_are_not_there(tmp_path: Path, kind: str) -> None:
  with pytest.raises(UserError):
    box_lookup(kind, tmp_path / "missing")
  with pytest.raises(UserError):
    box_lookup(kind, tmp_path)


def test_boxes_that_cannot_be_believed_refuse_their_image(tmp_path: Path) -> None:
  (tmp_path / "a.txt").write_text("0 120 80 20 20\n")
  known = Annotations(boxes=box_lookup("yolo", tmp_path))
  with pytest.raises(Unreadable, match="label file that line 1") as raised:
    known.add_to(_sample(), Path("a.png"))
  assert str(tmp_path) not in str(raised.value)


def test_an_image_without_labels_keeps_what_it_had(tmp_path: Path) -> None:
  (tmp_path / "a.txt").write_text("")
  known = Annotations(boxes=box_lookup("yolo", tmp_path))
  assert len(known.add_to(_sample(), Path("b.png")).boxes) == 0


def test_masks_and_what_is_said_of_all_images(tmp_path: Path) -> None:
  cv2.imwrite(str(tmp_path / "a.png"), _mask((3, 4, 8, 9), (20, 10, 25, 15)))
  known = Annotations(
    lesion_masks=tmp_path, forbidden_masks=tmp_path, physics="ct", spacing_mm=(0.7, 0.5)
  )
  out = known.add_to(_sample(), Path("sub/a.jpg"))
  np.testing.assert_array_equal(out.boxes, [[3, 4, 8, 9], [20, 10, 25, 15]])
  assert (out.lesion_mask[5, 5], out.lesion_mask[12, 22], out.lesion_mask[0, 0]) == (1, 2, 0)
  assert (out.forbidden_mask > 0).sum() == 50
  assert (out.physics, out.spacing_mm) == ("ct", (0.7, 0.5))
  told = known.add_to(_sample(spacing_mm=(1.0, 1.0)), Path("a.png"))
  assert told.spacing_mm == (1.0, 1.0)
  absent = known.add_to(_sample(), Path("b.png"))
  assert absent.lesion_mask.shape == (0, 0)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
  cv2.imwrite(str(tmp_path / "a.png"), np.zeros((5, 6), np.uint8))
  (tmp_path / "b.png").write_text("text")
  known = Annotations(lesion_masks=tmp_path)
  with pytest.raises(Unreadable, match="another size"):
    known.add_to(_sample(), Path("a.png"))
  with pytest.raises(Unreadable, match="not a PNG"):
    known.add_to(_sample(), Path("b.png"))


def test_lesions_are_numbered_as_their_boxes() -> None:
  boxes = np.array([[19, 9, 26, 16], [2, 3, 9, 10]], np.float32)
  ids, merged = match(_mask((3, 4, 8, 9), (20, 10, 25, 15), (12, 0, 14, 2)), boxes)
  np.testing.assert_array_equal(merged, [*boxes, [12, 0, 14, 2]])
  assert (ids[12, 22], ids[5, 5], ids[1, 13]) == (1, 2, 3)
  assert ids.dtype == np.uint16


def test_labels_of_a_mask_are_kept_apart() -> None:
  mask = _mask((3, 4, 8, 9), label=1) + _mask((8, 4, 12, 9), label=2)  # two that touch
  ids, boxes = match(mask, NONE)
  np.testing.assert_array_equal(boxes, [[3, 4, 8, 9], [8, 4, 12, 9]])
  np.testing.assert_array_equal(ids, mask)


def test_an_empty_mask_is_a_known_absence() -> None:
  ids, boxes = match(_mask(), NONE)
  assert ids.shape == (20, 30)
  assert not ids.any()
  assert boxes.shape == (0, 4)
