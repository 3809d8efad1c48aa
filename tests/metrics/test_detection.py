"""Average precision beside pycocotools, FROC beside plain loops over sorted lists."""

import contextlib
import functools
import io

import jax
import numpy as np
import pytest

from hiresmed_jax.metrics import detection

LIMIT, ROOM = 40, 6


def case(seed, images=30, classes=1):
  """Detections of which some are near real boxes, some are of the wrong class, many are nothing."""
  rng = np.random.default_rng(seed)
  real = np.zeros((images, ROOM, 4), np.float32)
  real_valid = np.arange(ROOM) < rng.integers(0, ROOM, images)[:, None]
  corner = rng.uniform(0, 90, (images, ROOM, 2))
  real[:] = np.concatenate([corner, corner + rng.uniform(5, 30, (images, ROOM, 2))], -1)
  real_labels = rng.integers(0, classes, (images, ROOM))
  boxes = np.zeros((images, LIMIT, 4), np.float32)
  corner = rng.uniform(0, 90, (images, LIMIT, 2))
  boxes[:] = np.concatenate([corner, corner + rng.uniform(5, 30, (images, LIMIT, 2))], -1)
  scores = 1 / (1 + np.exp(-rng.normal(-3, 1.5, (images, LIMIT))))
  labels = rng.integers(0, classes, (images, LIMIT))
  for i, j in np.argwhere(real_valid & (rng.random((images, ROOM)) < 0.8)):
    for at in rng.choice(LIMIT, 2, replace=False):  # twice found: the second one is wrong
      boxes[i, at] = real[i, j] + rng.normal(0, 1, 4)
      labels[i, at] = real_labels[i, j] if rng.random() < 0.9 else rng.integers(0, classes)
      scores[i, at] = rng.uniform(0.05, 1)
  order = np.argsort(-scores, 1)
  sort = functools.partial(np.take_along_axis, axis=1)
  boxes = sort(boxes, order[..., None])
  scores, labels = sort(scores, order).astype(np.float32), sort(labels, order)
  valid = np.arange(LIMIT) < rng.integers(LIMIT // 2, LIMIT + 1, images)[:, None]
  return boxes, scores, labels, valid, real, real_labels, real_valid


@functools.partial(jax.jit, static_argnames="classes")
def count(*arrays, classes=1):
  return detection.count(*arrays, classes=classes)


def totals(arrays, classes, weight=None):
  """Added up over batches of ten, as the loop does."""
  weight = np.ones(len(arrays[0]), np.float32) if weight is None else weight
  added = None
  for at in range(0, len(weight), 10):
    part = count(*(a[at : at + 10] for a in arrays), weight[at : at + 10], classes=classes)
    added = part if added is None else jax.tree.map(np.add, added, part)
  return jax.device_get(added)


def coco(arrays, classes):
  """(map50, map50_95) of pycocotools."""
  pytest.importorskip("pycocotools")
  from pycocotools.coco import COCO
  from pycocotools.cocoeval import COCOeval

  boxes, scores, labels, valid, real, real_labels, real_valid = arrays

  def xywh(box):
    return [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]

  truth = [
    {
      "id": n + 1,
      "image_id": int(i),
      "category_id": int(real_labels[i, j]),
      "bbox": xywh(real[i, j]),
      "area": xywh(real[i, j])[2] * xywh(real[i, j])[3],
      "iscrowd": 0,
    }
    for n, (i, j) in enumerate(np.argwhere(real_valid))
  ]
  found = [
    {
      "image_id": int(i),
      "category_id": int(labels[i, j]),
      "bbox": xywh(boxes[i, j]),
      "score": float(scores[i, j]),
    }
    for i, j in np.argwhere(valid)
  ]
  with contextlib.redirect_stdout(io.StringIO()):
    data = COCO()
    data.dataset = {
      "images": [{"id": i} for i in range(len(boxes))],
      "categories": [{"id": k} for k in range(classes)],
      "annotations": truth,
    }
    data.createIndex()
    judge = COCOeval(data, data.loadRes(found), "bbox")
    judge.params.maxDets = [1, 10, LIMIT]
    judge.evaluate()
    judge.accumulate()
  precision = judge.eval["precision"][:, :, :, 0, -1]
  per_threshold = [np.mean(row[row > -1]) for row in precision]
  return per_threshold[0], np.mean(precision[precision > -1])


@pytest.mark.parametrize(("seed", "classes"), [(0, 1), (1, 1), (2, 3)])
def test_average_precision_is_cocos(seed, classes):
  arrays = case(seed, classes=classes)
  found = detection.summarise(totals(arrays, classes))
  map50, map50_95 = coco(arrays, classes)
  assert 0.15 < map50_95 < map50 < 0.9
  assert found["map50"] == pytest.approx(map50, abs=1e-3)
  assert found["map50_95"] == pytest.approx(map50_95, abs=1e-3)


def plain_froc(arrays):
  """Sensitivity at each rate, from lists sorted by score."""
  boxes, scores, _, valid, real, _, real_valid = arrays
  false, found = [], []
  for i in range(len(boxes)):
    best = {int(j): None for j in np.flatnonzero(real_valid[i])}
    for k in np.flatnonzero(valid[i]):
      x, y = (boxes[i, k, :2] + boxes[i, k, 2:]) / 2
      holders = [
        j for j in best if real[i, j, 0] <= x < real[i, j, 2] and real[i, j, 1] <= y < real[i, j, 3]
      ]
      if not holders:
        false.append(scores[i, k])
      for j in holders:
        best[j] = max(best[j] or 0.0, scores[i, k])
    found += list(best.values())
  false = np.sort(false)[::-1]
  rates = []
  for rate in detection.FALSE_PER_IMAGE:
    allowed = int(rate * len(boxes))
    limit = false[allowed] if allowed < len(false) else -1.0  # this one would be too many
    rates.append(np.mean([score is not None and score > limit for score in found]))
  return np.array(rates)


@pytest.mark.parametrize("seed", range(3))
def test_froc_is_that_of_sorted_lists(seed):
  arrays = case(seed)
  added = totals(arrays, 1)
  np.testing.assert_allclose(detection.froc(added), plain_froc(arrays), atol=1e-3)
  assert detection.summarise(added)["froc_1"] == detection.froc(added)[3]


def test_what_fills_a_batch_up_does_not_count():
  arrays = case(3)
  weight = (np.arange(30) < 17).astype(np.float32)
  some = detection.summarise(totals(arrays, 1, weight))
  cut = tuple(a[:20] for a in arrays)
  same = detection.summarise(totals(cut, 1, weight[:20]))
  assert some == same


def test_perfect_and_empty():
  boxes, scores, labels, valid, real, real_labels, real_valid = case(4)
  scores = np.linspace(0.9, 0.1, LIMIT, dtype=np.float32)[None].repeat(30, 0)
  boxes[:, :ROOM], valid = real, np.arange(LIMIT) < real_valid.sum(1)[:, None]
  best = detection.summarise(
    totals((boxes, scores, labels, valid, real, real_labels, real_valid), 1)
  )
  assert best == {"map50": 1.0, "map50_95": 1.0, "froc": 1.0, "froc_1": 1.0}
  nothing = totals((boxes, scores, labels, valid & False, real, real_labels, real_valid), 1)
  assert set(detection.summarise(nothing).values()) == {0.0}
  no_lesions = totals((boxes, scores, labels, valid, real, real_labels, real_valid & False), 1)
  assert all(np.isnan(v) for v in detection.summarise(no_lesions).values())
