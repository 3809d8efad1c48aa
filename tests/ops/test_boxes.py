"""Boxes beside torchvision: overlap, complete overlap and its gradient."""

import jax
import numpy as np
import pytest

from hiresmed_jax.ops import boxes as ops


def some(seed, count):
  rng = np.random.default_rng(seed)
  corner = rng.uniform(0, 40, (count, 2))
  return np.concatenate([corner, corner + rng.uniform(0.5, 40, (count, 2))], -1).astype(np.float32)


@pytest.fixture(scope="module")
def torchvision():
  reference = pytest.importorskip("tests.reference.torchvision_cpu")
  return reference.torch, reference.import_torchvision()


def test_overlaps_are_torchvisions(torchvision):
  torch, tv = torchvision
  a, b = some(0, 30), some(1, 40)
  wanted = tv.ops.box_iou(torch.tensor(a), torch.tensor(b)).numpy()
  np.testing.assert_allclose(ops.pairwise_iou(a, b), wanted, atol=1e-6)
  assert wanted.max() > 0.3


def test_complete_overlap_and_gradients_are_torchvisions(torchvision):
  torch, tv = torchvision
  a, b = some(2, 60), some(3, 60)
  given = [torch.tensor(x).double().requires_grad_() for x in (a, b)]
  wanted = 1.0 - tv.ops.complete_box_iou_loss(*given)
  np.testing.assert_allclose(ops.ciou(a, b), wanted.detach(), atol=1e-5)
  wanted.sum().backward()
  grads = jax.grad(lambda a, b: ops.ciou(a, b).sum(), (0, 1))(a, b)
  for found, x in zip(grads, given):
    np.testing.assert_allclose(found, x.grad, atol=1e-5)


def test_boxes_without_area_overlap_nothing():
  broken = np.array([[5, 5, 5, 9], [9, 9, 3, 3]], np.float32)
  whole = np.array([[0, 0, 20, 20]], np.float32)
  np.testing.assert_array_equal(ops.pairwise_iou(broken, whole), 0)
  np.testing.assert_array_equal(ops.area(broken), 0)
  assert np.isfinite(ops.ciou(broken, whole)).all()
  assert np.isfinite(jax.grad(lambda b: ops.ciou(b, whole).sum())(broken)).all()


def test_growing_and_holding():
  box = np.array([[10, 10, 14, 40]], np.float32)
  np.testing.assert_allclose(ops.at_least(box, 16), [[4, 10, 20, 40]])
  points = np.array([[10, 10], [14, 20], [13.9, 39.9]], np.float32)
  assert ops.contain(box, points).tolist() == [[True, False, True]]
