"""SiLU and GELU and their gradients against PyTorch, far out too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.ops import activation


def _values() -> np.ndarray:
  drawn = np.random.default_rng(0).normal(0, 4, 2000).astype(np.float32)
  far = np.array([0, -0.0, 30, 88, 200, 3e38, -30, -39, -41, -88, -104, -200, -3e38], np.float32)
  return np.concatenate([drawn, far])


@pytest.mark.parametrize(("name", "atol"), [("silu", 1e-12), ("gelu", 2e-6)])
def test_equals_torch_with_its_gradient(name, atol):
  torch = pytest.importorskip("torch")
  y, grad = _values(), np.random.default_rng(1).standard_normal(2013).astype(np.float32)
  y = np.clip(y, -1e38, 1e38)  # PyTorch's GELU doubles them first
  found, back = jax.vjp(getattr(activation, name), jnp.asarray(y))
  given = torch.from_numpy(y).requires_grad_()
  wanted = getattr(torch.nn.functional, name)(given)
  wanted.backward(torch.from_numpy(grad))
  np.testing.assert_allclose(found, wanted.detach(), rtol=1e-6, atol=atol)
  np.testing.assert_allclose(back(jnp.asarray(grad))[0], given.grad, rtol=2e-5, atol=2e-7)


def test_gradient_equals_the_formula_in_float64():
  y = _values()
  wide = np.clip(y.astype(np.float64), -700, 700)
  sigmoid = 1 / (1 + np.exp(-wide))
  wanted = sigmoid * (1 + wide * (1 - sigmoid))
  found = activation.silu_gradient(jnp.asarray(y), jnp.ones_like(y))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-8)


def test_half_precision_is_rounded_once():
  y = jnp.asarray(_values()[:2000], jnp.bfloat16)
  found, back = jax.vjp(activation.silu, y)
  wide = y.astype(jnp.float32)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, activation.silu(wide).astype(jnp.bfloat16))
  (grad,) = back(jnp.ones_like(y))
  wanted = activation.silu_gradient(wide, jnp.ones_like(wide)).astype(jnp.bfloat16)
  np.testing.assert_array_equal(grad, wanted)


def test_relu_takes_its_gradient_from_its_result():
  y = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0])
  out, back = jax.vjp(activation.relu, y)
  np.testing.assert_array_equal(out, jax.nn.relu(y))
  (grad,) = back(jnp.full(5, 2.0))
  np.testing.assert_array_equal(grad, jax.vjp(jax.nn.relu, y)[1](jnp.full(5, 2.0))[0])
