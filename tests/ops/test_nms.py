"""Suppression beside OpenCV's, class by class."""

import functools

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.ops import boxes as nms

POSITIONS = 60


@functools.partial(jax.jit, static_argnames=("iou", "floor", "limit"))
def detect(boxes, logits, *, iou, floor=0.05, limit=2 * POSITIONS):
  return nms.detect(boxes, logits, iou=iou, floor=floor, limit=limit)


def case(seed, classes):
  rng = np.random.default_rng(seed)
  corner = rng.uniform(0, 60, (POSITIONS, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (POSITIONS, 2))], -1)
  return boxes.astype(np.float32), rng.normal(0, 2, (POSITIONS, classes)).astype(np.float32)


@given(st.integers(0, 1000), st.sampled_from([1, 2]), st.sampled_from([0.3, 0.7]))
def test_it_is_opencvs(seed, classes, iou):
  boxes, logits = case(seed, classes)
  found = detect(boxes, logits, iou=iou)
  scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
  wanted = []
  for k in range(classes):
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], -1).astype(np.float64)
    for i in cv2.dnn.NMSBoxes(xywh.tolist(), scores[:, k].tolist(), 0.05, iou):
      wanted.append((scores[i, k], k, i))
  wanted.sort(reverse=True)
  assert found.valid.sum() == len(wanted)
  np.testing.assert_allclose(found.scores[: len(wanted)], [w[0] for w in wanted], rtol=1e-5)
  assert found.labels[: len(wanted)].tolist() == [w[1] for w in wanted]
  np.testing.assert_array_equal(found.boxes[: len(wanted)], [boxes[w[2]] for w in wanted])
  assert not np.any(found.boxes[len(wanted) :])


def test_what_is_suppressed_suppresses_nobody():
  boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
  found = nms.detect(boxes, np.array([[3.0], [2.0], [1.0]]), iou=0.3, limit=3)
  assert found.valid.tolist() == [True, True, False]
  np.testing.assert_array_equal(found.boxes[:2], boxes[[0, 2]])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_positions_do_not_win(broken):
  boxes, logits = case(0, 1)
  boxes[3], logits[4] = broken, np.nan
  found = detect(boxes, logits, iou=0.5)
  assert np.isfinite(found.boxes).all()
  assert np.isfinite(found.scores).all()
  assert 0 < found.valid.sum() < POSITIONS
