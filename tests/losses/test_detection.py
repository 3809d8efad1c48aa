"""The detector's loss beside plain loops and, as a black box, the published package's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.losses import detection
from hiresmed_jax.nets import yolo
from tests.losses.detection_case import STRIDES, positions, predictions, truth
from tests.reference import assignment as oracle
from tests.reference.parity import close, quick_jit

SIZE, CLASSES, ROOM = 128, 3, 8


def case(counts=(5, 1, 0), seed=0):
  rng = np.random.default_rng(seed)
  real = [truth(rng, SIZE, count) for count in counts]
  labels = [rng.integers(0, CLASSES, count) for count in counts]
  bins, logits = predictions(rng, SIZE, real, labels, CLASSES)
  return real, labels, bins, logits


def padded(real, labels):
  """What is not a box holds what must not matter."""
  boxes = np.full((len(real), ROOM, 4), np.nan, np.float32)
  classes = np.zeros((len(real), ROOM), np.int32)
  valid = np.zeros((len(real), ROOM), bool)
  for i, (own, kinds) in enumerate(zip(real, labels)):
    boxes[i, : len(own)], classes[i, : len(own)], valid[i, : len(own)] = own, kinds, True
  return detection.Truth(boxes, classes, valid)


def flat(bins, logits):
  return yolo.Flat(bins, logits, *map(jnp.asarray, positions(SIZE)))


def whole(bins, logits, real, least_side=16.0):
  boxes = yolo.boxes_of(flat(bins, logits))
  centres, strides = positions(SIZE)
  given = detection.assign(logits, boxes, centres, real, least_side=least_side)
  parts = detection.detection_loss(bins, logits, boxes, centres, strides, real, given)
  return sum(parts.values()), parts


@pytest.mark.parametrize("least_side", [0.0, 16.0])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_that_of_plain_loops(seed, least_side):
  real, labels, bins, logits = case((6, 3, 0), seed)
  boxes = yolo.boxes_of(flat(bins, logits))
  centres, _ = positions(SIZE)
  found = _assign(logits, boxes, centres, padded(real, labels), least_side=least_side)
  assert found.positive.any()
  for i in range(len(real)):
    index, scores = oracle.assign(
      logits[i], np.asarray(boxes[i]), centres, real[i], labels[i], least_side=least_side
    )
    np.testing.assert_array_equal(np.where(found.positive[i], found.box[i], -1), index)
    np.testing.assert_allclose(found.scores[i], scores, atol=1e-4)


_assign = quick_jit(detection.assign, static_argnames="least_side")


def test_the_floor_gives_small_stones_their_positions():
  rng = np.random.default_rng(0)
  small = [np.concatenate([c := rng.uniform(10, 110, (ROOM, 2)), c + 5], -1).astype(np.float32)]
  labels = [np.zeros(ROOM, int)]
  bins, logits = predictions(rng, SIZE, small, labels, CLASSES)
  boxes = yolo.boxes_of(flat(bins, logits))
  counts = [
    int(_assign(logits, boxes, positions(SIZE)[0], padded(small, labels), least_side=s)
        .positive.sum())
    for s in (0.0, 16.0)
  ]  # fmt: skip
  assert counts[0] <= ROOM
  assert counts[1] >= 2 * ROOM


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_the_published(seed):
  reference = pytest.importorskip("tests.reference.ultralytics_cpu")
  torch = reference.torch
  real, labels, bins, logits = case((6, 2, 0, 3), seed)
  value = _value(bins, logits, padded(real, labels))
  (_, parts), grads = value

  given = [torch.tensor(a).requires_grad_() for a in (bins, logits)]
  net = _with_gains(reference)
  out = {
    "boxes": given[0].flatten(2).permute(0, 2, 1),
    "scores": given[1].permute(0, 2, 1),
    "feats": [torch.zeros(len(real), 1, SIZE // s, SIZE // s) for s in STRIDES],
  }
  corners = np.concatenate(real) / SIZE
  batch = {
    "img": torch.zeros(len(real), 3, SIZE, SIZE),
    "cls": torch.tensor(np.concatenate(labels)[:, None]).float(),
    "bboxes": torch.tensor(
      np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], -1)
    ),
    "batch_idx": torch.tensor(np.repeat(np.arange(len(real)), [len(r) for r in real])).float(),
  }
  total, _ = net.loss(batch, out)
  for name, wanted in zip(("box", "classes", "bins"), total.detach().numpy() / len(real)):
    np.testing.assert_allclose(parts[name], wanted, rtol=2e-4, err_msg=name)
  (total.sum() / len(real)).backward()
  for found, wanted, name in zip(grads, given, ("bins", "logits")):
    close(found, wanted.grad.numpy(), 1e-3, f"gradient of {name}")


_value = quick_jit(jax.value_and_grad(whole, (0, 1), has_aux=True))


@functools.cache
def _with_gains(reference):
  net = reference.network("n", classes=CLASSES).train()
  space = reference.package("ultralytics.utils").IterableSimpleNamespace
  net.args = space(box=7.5, cls=0.5, dfl=1.5)
  return net


def test_without_boxes_only_the_classes_learn():
  _, _, bins, logits = case((0, 0, 0, 0))
  (_, parts), grads = _value(bins, logits, padded([np.zeros((0, 4))] * 4, [[]] * 4))
  assert (float(parts["box"]), float(parts["bins"])) == (0.0, 0.0)
  assert not np.any(grads[0])
  assert float(parts["classes"]) == pytest.approx(0.5 * np.logaddexp(0, logits).sum(), rel=1e-5)


def test_gradients_are_finite_where_boxes_are_degenerate():
  real, labels, bins, logits = case((6, 2, 0, 3))
  real[0][0] = [50, 50, 50, 50]
  real[1][0] = [60, 60, 20, 20]
  bins[0] = 0
  bins[0, :, :, 0] = 200  # all distances zero: boxes without area
  _, grads = _value(bins, logits, padded(real, labels))
  assert all(np.isfinite(g).all() for g in grads)
