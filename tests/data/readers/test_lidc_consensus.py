from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.data.readers.lidc_readings import (
  Contour,
  agreed,
  enclosed,
  interior,
  lesion_mask,
  read,
)
from hiresmed_jax.data.sample import Unreadable
from tests.data.readers.lidc_series import disc, outline, rim

SHAPE = (40, 48)
seeds = st.integers(0, 2**32 - 1)


def contour(points: np.ndarray, *, inclusion: bool = True) -> Contour:
  return Contour("1", 0.0, inclusion, points.astype(np.int32))


def filled(points: np.ndarray, shape: tuple[int, int] = SHAPE) -> np.ndarray:
  mask = np.zeros(shape, bool)
  inside, (top, left) = interior(points.astype(np.int32))
  mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
  return mask


def blob(seed: int) -> np.ndarray:
  """One lumpy part without holes, off the border."""
  rng = np.random.default_rng(seed)
  noise = cv2.GaussianBlur(rng.random(SHAPE), (0, 0), 2.5)
  noise[:2] = noise[-2:] = noise[:, :2] = noise[:, -2:] = 0
  labels, _ = ndimage.label(noise > np.quantile(noise, 0.7))
  mask = ndimage.binary_fill_holes(labels == labels[labels > 0][0])
  return np.asarray(mask)


def voxels(mask: np.ndarray, number: int = 0) -> np.ndarray:
  return np.flatnonzero(mask) + number * mask.size


@given(seeds)
def test_the_outline_is_the_first_pixel_outside(seed: int) -> None:
  mask = blob(seed)
  ring = outline(mask)
  # What a concave outline closes off at its narrow places is inside of it as well.
  closed = filled(ring)
  assert closed[mask].all()
  np.testing.assert_array_equal(filled(ring[:-1]), closed)  # not said to be closed
  assert not closed[ring[:, 1], ring[:, 0]].any()
  truth = np.zeros(SHAPE, np.uint8)
  cv2.fillPoly(truth, [ring.reshape(-1, 1, 2)], 1)
  truth[ring[:, 1], ring[:, 0]] = 0
  np.testing.assert_array_equal(closed, truth > 0)


def test_a_disc_is_found_exactly() -> None:
  mask = disc(SHAPE, 20, 25, 7.3)
  np.testing.assert_array_equal(filled(outline(mask)), mask)


def test_steps_of_two_pixels_are_bridged() -> None:
  mask = disc(SHAPE, 20, 25, 7.3)
  assert filled(outline(mask)[::2]).sum() == pytest.approx(mask.sum(), rel=0.1)


def test_a_hole_is_taken_out_with_its_outline() -> None:
  outer, hole = disc(SHAPE, 20, 24, 12), disc(SHAPE, 21, 22, 4)
  found = enclosed([(2, contour(outline(outer))), (2, contour(rim(hole), inclusion=False))], SHAPE)
  np.testing.assert_array_equal(found, voxels(outer & ~hole, 2))


def test_the_hole_of_another_slice_is_not() -> None:
  outer, hole = disc(SHAPE, 20, 24, 12), disc(SHAPE, 21, 22, 4)
  found = enclosed([(2, contour(outline(outer))), (3, contour(rim(hole), inclusion=False))], SHAPE)
  np.testing.assert_array_equal(found, voxels(outer, 2))


def test_a_point_encloses_nothing() -> None:
  assert len(enclosed([(0, contour(np.array([[5, 5]])))], SHAPE)) == 0
  assert len(enclosed([(0, contour(np.array([[5, 5], [6, 6], [5, 5]])))], SHAPE)) == 0


def test_an_outline_that_leaves_the_slice_is_not_believed() -> None:
  with pytest.raises(Unreadable, match="outside of its slice"):
    enclosed([(0, contour(np.array([[5, 5], [30000, 5], [5, 30000]])))], SHAPE)


@given(seeds, st.integers(1, 4))
def test_agreement_is_a_vote_of_readers(seed: int, least: int) -> None:
  rng = np.random.default_rng(seed)
  volume = (2, 12, 13)
  drawn = []
  for _ in range(4):
    masks = []
    for _ in range(rng.integers(0, 3)):
      mask = np.zeros(volume, bool)
      z, y, x = rng.integers(0, (2, 8, 9))
      mask[z, y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
      masks.append(mask)
    drawn.append(masks)
  nodules = agreed([[np.flatnonzero(m) for m in masks] for masks in drawn], least)
  votes = np.sum([np.any(masks, axis=0) for masks in drawn if masks] or [np.zeros(volume)], axis=0)
  together = np.sort(np.concatenate(nodules or [[]]))
  np.testing.assert_array_equal(together, np.flatnonzero(votes >= least))
  # Two drawings that share a voxel never belong to two nodules.
  for masks in drawn:
    for mask in masks:
      homes = [n for n, one in enumerate(nodules) if np.isin(one, np.flatnonzero(mask)).any()]
      assert len(homes) <= 1


def test_one_reader_s_two_parts_are_another_s_one() -> None:
  left, right = disc(SHAPE, 20, 15, 4), disc(SHAPE, 20, 25, 4)
  whole = cv2.dilate((left | right).astype(np.uint8), np.ones((1, 5))) > 0
  (nodule,) = agreed([[voxels(left), voxels(right)], [voxels(whole)], []], 2)
  np.testing.assert_array_equal(nodule, voxels(left | right))
  ids = lesion_mask([nodule], 0, SHAPE)
  assert sorted(np.unique(ids)) == [0, 1, 2]  # in this slice they are apart


def test_who_marks_twice_votes_once() -> None:
  mask = disc(SHAPE, 20, 20, 5)
  (nodule,) = agreed([[voxels(mask), voxels(mask)], []], 2)
  assert len(nodule) == 0


def test_crumbs_are_left_out() -> None:
  mask = disc(SHAPE, 20, 20, 6)
  mask[20, 30] = True
  (nodule,) = agreed([[voxels(mask, 1)]], 1)
  np.testing.assert_array_equal(lesion_mask([nodule], 1, SHAPE), disc(SHAPE, 20, 20, 6))
  assert not lesion_mask([nodule], 0, SHAPE).any()


@pytest.mark.slow
def test_the_real_outlines(shared: Path) -> None:
  """Against OpenCV's polygons, whose own pixels are taken away."""
  areas, others = [], []
  for path in sorted((shared / "data" / "lidc_xml").glob("*.xml")):
    for one in (c for reader in read(path).readers for nodule in reader for c in nodule):
      if not one.is_point:
        truth = np.zeros((512, 512), np.uint8)
        cv2.fillPoly(truth, [one.points.reshape(-1, 1, 2)], 1)
        cv2.polylines(truth, [one.points.reshape(-1, 1, 2)], True, 0)
        areas.append(len(enclosed([(0, one._replace(inclusion=True))], (512, 512))))
        others.append(int(truth.sum()))
  assert len(areas) == 1053
  assert np.mean(np.equal(areas, others)) > 0.98
  assert np.sum(areas) == pytest.approx(np.sum(others), rel=0.002)
  assert np.mean(np.array(areas) > 0) > 0.99
