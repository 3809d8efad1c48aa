"""The anatomy that was drawn by eye: it fits its images and looks like organs."""

import csv
import json
import re

import numpy as np
import pytest

from benchmarks import by_eye
from hiresmed_jax.data.identity import split_of
from hiresmed_jax.data.readers import images
from hiresmed_jax.errors import UserError

SETS = {"stones_ct": ("groups.csv", "image", "patient_group")}
SETS["nodules_ct"] = ("nodules.csv", "name", "seriesuid")
# Least and largest share of the picture that one outline covers.
AREA = {"kidney": (0.009, 0.1), "lung": (0.015, 0.25)}
AREA |= {"collecting_system": (0.0015, 0.04), "ureter_corridor": (0.003, 0.02)}


@pytest.mark.parametrize("name", SETS)
def test_outlines_lie_in_their_images_and_have_the_size_of_organs(name):
  drawn = by_eye.drawings(name)
  assert len({drawing.digest for drawing in drawn}) == by_eye.IMAGES
  for drawing in drawn:
    assert re.fullmatch("[0-9a-f]{64}", drawing.digest)
    for shape in drawing.shapes:
      corners = shape.polygon
      assert len(corners) >= 3
      assert ((corners >= 0) & (corners <= drawing.size)).all()
      covered = by_eye.masks(drawing._replace(shapes=(shape,)))[shape.organ]
      assert covered.shape == drawing.size[::-1]
      least, largest = AREA[shape.organ]
      assert least < covered.mean() < largest, (drawing.digest, shape.organ, covered.mean())


@pytest.mark.parametrize("name", SETS)
def test_pairs_lie_left_and_right_and_the_pelvis_at_its_kidney(name):
  for drawing in by_eye.drawings(name):
    middles = {(s.organ, s.side): s.polygon.mean(axis=0) for s in drawing.shapes}
    assert len(middles) == len(drawing.shapes)
    for (organ, side), middle in middles.items():
      assert side in ("left", "right")
      assert (middle[0] < drawing.size[0] / 2) == (side == "left")
      if organ == "collecting_system":
        kidney = next(s for s in drawing.shapes if (s.organ, s.side) == ("kidney", side))
        pelvis = next(s for s in drawing.shapes if (s.organ, s.side) == (organ, side))
        within = [by_eye.masks(drawing._replace(shapes=(s,)))[s.organ] for s in (pelvis, kidney)]
        assert within[0].sum() < 0.5 * within[1].sum()
        assert (within[0] & within[1]).sum() > 0.6 * within[0].sum()
    assert {organ for organ, _ in middles} & {"kidney", "lung"}


def test_the_first_organ_counts_where_two_overlap_and_pixels_count_by_their_middle():
  square = np.array([[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]])
  small = np.array([[1.6, 1.0], [4.0, 1.0], [4.0, 3.0], [1.6, 3.0]])
  shapes = (
    by_eye.Shape("kidney", "left", True, square),
    by_eye.Shape("collecting_system", "left", True, small),
  )
  drawing = by_eye.Drawing("", (6, 4), shapes)
  found = by_eye.masks(drawing)
  assert np.argwhere(found["kidney"]).tolist() == [[r, c] for r in (1, 2) for c in (1, 2, 3)]
  assert np.argwhere(found["collecting_system"]).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
  points = np.array([[3.0, 2.0], [1.2, 2.0], [5.5, 2.0]])
  assert by_eye.regions(drawing, points) == ["collecting_system", "kidney", by_eye.ELSEWHERE]
  np.testing.assert_allclose(by_eye.depth(drawing, points), [1.0, 0.2, -1.5], atol=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_the_rule_of_choice_finds_the_drawn_images_again(name, shared):
  folder = shared / "data" / name
  table, image, group = SETS[name]
  with (folder / table).open() as file:
    groups = {row[image].removesuffix(".jpg"): row[group] for row in csv.DictReader(file)}
  validation = [
    {"image": sample.image, "group": sample.group}  # as records hold them
    for path in (folder / "images").iterdir()
    if split_of(groups[path.stem]) == "val"
    for sample in images.read(path, group=groups[path.stem])
  ]
  drawn = by_eye.drawings(name)
  assert by_eye.choose(validation) == [drawing.digest for drawing in drawn]
  for drawing, item in zip(drawn, by_eye.drawn_items(drawn, validation)):
    assert item["image"].shape == (*drawing.size[::-1], 1)
  with pytest.raises(UserError, match="24 of 24"):
    by_eye.drawn_items(drawn, [])


def test_no_raw_names():
  for name in SETS:
    text = (by_eye.FOLDER / f"{name}.json").read_text()
    assert set(json.loads(text)["images"][0]) == {"digest", "size", "shapes"}
    assert not re.search(r"acq\d|luna|1\.3\.6|\.jpg|\.png", text)
