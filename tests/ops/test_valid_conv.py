"""Every way is the same convolution, to the second derivative, as PyTorch has it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hiresmed_jax.ops.valid_conv import valid_conv
from tests.reference.parity import images, quick_jit

WAYS = ("patches", "direct", "vendor")


def penalised(x, kernel, *, way):
  """A number that needs the gradient of a gradient, as a gradient penalty does."""
  gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(valid_conv(x, kernel, way=way))))(x)
  return jnp.sum(jnp.square(gradient))


def leaf(array):
  return torch.from_numpy(np.ascontiguousarray(array, np.float64)).requires_grad_()


def penalised_torch(x, kernel):
  out = torch.tanh(torch.nn.functional.conv2d(x, kernel)).sum()
  (gradient,) = torch.autograd.grad(out, x, create_graph=True)
  return (gradient**2).sum()


# Few channels on either side, and enough on both for the CPU's convolution.
@pytest.mark.parametrize("channels", [(2, 10), (10, 1), (9, 12)], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_values_and_both_derivatives(way, channels):
  x = images((2, 7, 6, channels[0]))
  kernel = images((3, 3, *channels), 2) / 5
  x_torch = leaf(x.transpose(0, 3, 1, 2))
  k_torch = leaf(kernel.transpose(3, 2, 0, 1))
  out = torch.nn.functional.conv2d(x_torch, k_torch)
  once = torch.autograd.grad((out**2).sum(), (x_torch, k_torch))
  twice = torch.autograd.grad(penalised_torch(x_torch, k_torch), (x_torch, k_torch))

  def everything(x, kernel):
    conv = functools.partial(valid_conv, way=way)
    square = lambda x, kernel: jnp.sum(jnp.square(conv(x, kernel)))  # noqa: E731
    second = functools.partial(penalised, way=way)
    return conv(x, kernel), *(jax.grad(f, (0, 1))(x, kernel) for f in (square, second))

  made, *gradients = quick_jit(everything)(x, kernel)
  np.testing.assert_allclose(made, out.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
  for (x_grad, kernel_grad), (x_right, kernel_right) in zip(gradients, (once, twice)):
    right = x_right.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(x_grad, right, atol=1e-5 * np.abs(right).max())
    right = kernel_right.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel_grad, right, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("way", WAYS)
def test_each_image_with_its_own_kernel(way):
  x, kernel = images((3, 1, 6, 6, 9)), images((3, 3, 3, 9, 10), 2)
  conv = functools.partial(valid_conv, way=way)

  def energy(x, kernel):
    return jnp.sum(conv(x, kernel) ** 2)

  alone = quick_jit(jax.value_and_grad(energy))
  together = quick_jit(jax.vmap(jax.value_and_grad(energy)))(x, kernel)
  for i in range(3):
    value, grad = alone(x[i], kernel[i])
    np.testing.assert_allclose(together[0][i], value, rtol=1e-5)
    np.testing.assert_allclose(together[1][i], grad, rtol=1e-4, atol=1e-3)


def test_half_precision_keeps_its_type():
  x, kernel = images((1, 6, 6, 2)).astype(jnp.bfloat16), images((3, 3, 2, 4)).astype(jnp.bfloat16)

  def total(x, kernel):
    return jnp.sum(valid_conv(x, kernel, way="patches")).astype(jnp.float32)

  gradients = jax.eval_shape(jax.grad(total, (0, 1)), x, kernel)
  assert {g.dtype for g in gradients} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("backend", "products"), [("cpu", 0), ("gpu", 1)])
def test_the_cpu_convolves_and_others_multiply_patches(backend, products, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  given = (jnp.zeros((1, 5, 5, 9)), jnp.zeros((3, 3, 9, 9)))
  program = str(jax.make_jaxpr(lambda x, kernel: valid_conv(x, kernel))(*given))
  assert program.count("dot_general[") == products
  assert program.count("conv_general_dilated[") == 1 - products


def test_what_cannot_be_convolved():
  with pytest.raises(ValueError, match="wanted"):
    valid_conv(jnp.zeros((1, 5, 5, 2)), jnp.zeros((3, 3, 3, 2)))
  with pytest.raises(ValueError, match="unknown way"):
    valid_conv(jnp.zeros((1, 5, 5, 2)), jnp.zeros((3, 3, 2, 2)), way="quick")
