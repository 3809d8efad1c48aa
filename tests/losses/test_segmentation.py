"""Dice and cross-entropy beside PyTorch's, value and gradient; padding counts not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.losses import segmentation


def case(classes=3, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 2, (4, 6, 7, classes)).astype(np.float32)
  labels = rng.integers(0, classes, (4, 6, 7)).astype(np.uint8)
  valid = rng.random((4, 6, 7)) < 0.7
  valid[3] = False
  return logits, labels, valid


@pytest.mark.parametrize("classes", [2, 3])
def test_cross_entropy_is_pytorchs(classes):
  torch = pytest.importorskip("torch")
  logits, labels, valid = case(classes)
  x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
  weights = valid * np.random.default_rng(1).choice([1.0, 20.0], valid.shape).astype(np.float32)
  each = torch.nn.functional.cross_entropy(
    x.permute(0, 3, 1, 2), torch.tensor(labels.astype(np.int64)), reduction="none"
  )
  expected = (each * torch.tensor(weights)).sum()
  expected.backward()

  def total(logits):
    return segmentation.cross_entropy(logits, labels, weights)

  (value, weight), grad = total(logits), jax.grad(lambda x: total(x)[0])(logits)
  np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
  assert weight == weights.sum()
  np.testing.assert_allclose(grad, x.grad.numpy(), atol=1e-5)
  np.testing.assert_array_equal(
    segmentation.cross_entropy(logits, labels, valid),
    segmentation.cross_entropy(logits, labels, valid.astype(np.float32)),
  )
  assert not np.asarray(grad)[~valid].any()


@pytest.mark.parametrize("classes", [2, 3])
def test_dice_is_its_formula_in_pytorch(classes):
  torch = pytest.importorskip("torch")
  logits, labels, valid = case(classes)
  x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
  inside = torch.tensor(valid)
  scores = torch.softmax(x, -1)[inside]
  truth = torch.nn.functional.one_hot(torch.tensor(labels.astype(np.int64)), classes)[inside]
  lost = []
  for k in range(1, classes):
    p, t = scores[:, k], truth[:, k].double()
    lost.append(1 - (2 * torch.dot(p, t) + 0.5) / (p.sum() + t.sum() + 0.5))
  expected = torch.stack(lost).mean()
  expected.backward()
  ours = jax.value_and_grad(lambda x: segmentation.dice(x, labels, valid, epsilon=0.5))
  value, grad = ours(jnp.asarray(logits))
  np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
  np.testing.assert_allclose(grad, x.grad.numpy(), atol=1e-7)


def test_ends_of_the_scale():
  labels = np.zeros((2, 4, 4), np.uint8)
  labels[:, :2] = 1
  right = 40.0 * np.stack([labels == 0, labels == 1], -1).astype(np.float32)
  everywhere = np.ones(labels.shape, bool)
  assert abs(float(segmentation.dice(right, labels, everywhere))) < 1e-6
  assert float(segmentation.dice(-right, labels, everywhere)) > 1 - 1e-6
  nothing = np.zeros(labels.shape, bool)
  grad = jax.grad(lambda x: segmentation.dice(x, labels, nothing))(right)
  assert float(segmentation.dice(right, labels, nothing)) == 0.0
  assert not np.asarray(grad).any()
  total, weight = segmentation.cross_entropy(right, labels, nothing)
  assert float(total) == float(weight) == 0.0
