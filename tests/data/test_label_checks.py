from pathlib import Path

import numpy as np
import pytest

from hiresmed_jax.data.label_checks import check_order, settle_names
from hiresmed_jax.data.readers.boxes import Label, Mark
from hiresmed_jax.errors import UserError


def _yolo(numbers: np.ndarray) -> list[Label]:
  """Labels of YOLO's four numbers [N, 4]."""
  half = numbers[:, 2:] / 2
  boxes = np.concatenate([numbers[:, :2] - half, numbers[:, :2] + half], axis=1)
  marks = [Mark("stone", tuple(box), "line 1") for box in boxes]
  return [Label("a", Path(), (mark,), in_shares=True) for mark in marks]


def _lesions(count: int, most: float) -> np.ndarray:
  """Corners [N, 4] of small lesions in the left upper part of an image."""
  rng = np.random.default_rng(count)
  corner = rng.uniform(0.05, most, (count, 2))
  return np.concatenate([corner, corner + rng.uniform(0.03, 0.1, (count, 2))], axis=1)


def test_corners_that_stay_inside_as_centre_and_size_vary_together() -> None:
  corners = _lesions(12, 0.5)
  as_read = np.array([label.marks[0].corners for label in _yolo(corners)])
  assert as_read.min() > -0.05
  assert as_read.max() < 1.05
  with pytest.raises(UserError, match="two corners"):
    check_order(_yolo(corners))
  size = corners[:, 2:] - corners[:, :2]
  check_order(_yolo(np.concatenate([corners[:, :2] + size / 2, size], axis=1)))


@pytest.mark.parametrize("middle", [[(0.27, 0.45), (0.73, 0.45)], [(0.27, 0.45)], [(0.5, 0.5)]])
def test_boxes_of_organs_are_no_corners(middle: list[tuple[float, float]]) -> None:
  rng = np.random.default_rng(0)
  centre = np.repeat(middle, 20, axis=0)
  size = np.minimum(rng.normal([0.6, 0.7], 0.03, centre.shape), 2 * centre)
  centre = centre + rng.normal(0, 0.02, centre.shape)
  check_order(_yolo(np.concatenate([centre, size], axis=1)))


@pytest.mark.parametrize(
  ("own", "content", "fits", "says"),
  [
    ("a", "A.JPG", "a", ""),
    ("a.png", "set\\a.jpg", "a.png", ""),
    ("a", "moved.png", "a", "not there"),
    ("0", "b.png", "b.png", "names this image"),
    ("0", "moved.png", "0", ""),
    ("a", "b.png", "refused", ""),
  ],
)
def test_the_name_inside_a_label_file(own: str, content: str, fits: str, says: str) -> None:
  labels = [Label(own, Path(), own_name=content), Label("c", Path(), own_name="c.png")]
  label, other = settle_names(labels, ["in/a.png", "in/b.png", "in/c.png"])
  assert other == labels[1]
  assert ("refused" if label.refused else label.name) == fits
  assert [says in note for note in label.notes] == [True] * bool(says)


def test_a_name_inside_does_not_take_the_image_of_another_label() -> None:
  labels = [Label("0", Path(), own_name="a.png"), Label("a", Path(), own_name="a.png")]
  assert [label.name for label in settle_names(labels, ["a.png"])] == ["0", "a"]
