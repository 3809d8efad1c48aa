"""Batch normalisation beside PyTorch's in float64: values, statistics, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.ops.batchnorm import affine, batch_norm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("silu", [False, True])
def test_values_and_gradients_are_pytorchs(silu):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 5, 4, 6)) * rng.uniform(0.1, 3, 6) + 20 * rng.standard_normal(6)
  x, scale, bias, cotangent = (
    a.astype(np.float32)
    for a in (x, rng.uniform(0.5, 2, 6), rng.standard_normal(6), rng.standard_normal(x.shape))
  )

  def ours(x, scale, bias):
    y, mean, var = batch_norm(x, scale, bias, eps=1e-3, silu=silu)
    return jnp.sum(y * cotangent), (y, mean, var)

  (_, (y, mean, var)), grads = jax.value_and_grad(ours, (0, 1, 2), has_aux=True)(x, scale, bias)
  given = [torch.tensor(a).double().requires_grad_() for a in (x, scale, bias)]
  wanted = torch.nn.functional.batch_norm(
    given[0].permute(0, 3, 1, 2), None, None, given[1], given[2], training=True, eps=1e-3
  ).permute(0, 2, 3, 1)
  wanted = torch.nn.functional.silu(wanted) if silu else wanted
  (wanted * torch.tensor(cotangent)).sum().backward()
  np.testing.assert_allclose(y, wanted.detach(), atol=3e-5)
  np.testing.assert_allclose(mean, x.astype(np.float64).mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(var, x.astype(np.float64).var((0, 1, 2)), rtol=1e-4)
  for found, expected in zip(grads, given):
    scale_of = float(expected.grad.abs().max())
    np.testing.assert_allclose(found, expected.grad, atol=5e-5 * scale_of)


def test_of_running_statistics_it_is_a_line():
  x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32)
  gain, shift = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
  np.testing.assert_allclose(affine(x, gain, shift, silu=False), x * gain + shift, rtol=1e-6)
  y = x * gain + shift
  np.testing.assert_allclose(
    affine(x, gain, shift, silu=True), y / (1 + np.exp(-y)), rtol=1e-5, atol=1e-6
  )


def test_a_constant_channel_becomes_its_bias():
  x = np.full((2, 4, 4, 3), 7.0, np.float32)
  y, mean, var = batch_norm(x, np.ones(3, np.float32), np.arange(3.0), eps=1e-3, silu=False)
  np.testing.assert_allclose(y, np.broadcast_to(np.arange(3.0), x.shape), atol=1e-6)
  assert (float(mean[0]), float(var[0])) == (7.0, 0.0)
