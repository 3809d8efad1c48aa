import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hiresmed_jax.ops import convolution, cpu

SAME = ((1, 1), (1, 1))
CASES = [  # [N, H, W, I], kernel, O, stride, padding
  ((2, 9, 13, 5), (3, 3), 4, (1, 1), SAME),
  ((3, 8, 8, 3), (3, 3), 6, (2, 2), SAME),
  ((2, 9, 12, 3), (3, 3), 2, (2, 2), SAME),  # a last row or column that no window reads
  ((1, 7, 5, 4), (2, 2), 8, (1, 1), ((0, 0), (0, 0))),
  ((2, 12, 11, 2), (4, 5), 3, (3, 2), ((1, 2), (2, 0))),
  ((2, 12, 11, 3), (4, 5), 2, (1, 1), ((1, 2), (2, 0))),
  ((2, 6, 7, 5), (1, 1), 4, (1, 1), ((0, 0), (0, 0))),
  ((2, 6, 7, 5), (1, 1), 4, (2, 2), ((0, 0), (0, 0))),
  ((1, 1, 1, 2), (3, 3), 3, (1, 1), SAME),
]


def _draw(shape, size, outputs, stride, padding):
  rng = np.random.default_rng(0)
  x = rng.standard_normal(shape, np.float32)
  kernel = rng.standard_normal((*size, shape[-1], outputs), np.float32)
  expected = _torch(x, kernel, np.zeros(outputs), None, stride, padding)[0]
  bias = rng.standard_normal(outputs, np.float32)
  return x, kernel, bias, rng.standard_normal(expected.shape, np.float32)


def _torch(x, kernel, bias, cotangent, stride, padding):
  """Output and all gradients in float64."""
  x = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
  kernel = torch.tensor(kernel.transpose(3, 2, 0, 1), dtype=torch.float64, requires_grad=True)
  bias = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
  (top, bottom), (left, right) = padding
  padded = torch.nn.functional.pad(x, (left, right, top, bottom))
  out = torch.nn.functional.conv2d(padded, kernel, bias, stride=stride)
  if cotangent is None:
    return (out.detach().permute(0, 2, 3, 1).numpy(),)
  out.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2), dtype=torch.float64))
  pixels = [a.detach().permute(0, 2, 3, 1).numpy() for a in (out, x.grad)]
  return *pixels, kernel.grad.permute(2, 3, 1, 0).numpy(), bias.grad.numpy()


def _ours(x, kernel, bias, cotangent, stride, padding):
  def conv(x, kernel, bias):
    return convolution.conv(x, kernel, bias, stride=stride, padding=padding)

  out, backward = jax.vjp(conv, x, kernel, bias)
  return (out, *backward(cotangent))


@pytest.fixture(params=[0, cpu.LARGE], ids=["row by row", "plain"])
def way(request, monkeypatch):
  monkeypatch.setattr(cpu, "LARGE", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", CASES)
def test_equals_torch_with_gradients(case):
  arrays = _draw(*case)
  found = jax.jit(_ours, static_argnums=(4, 5))(*arrays, *case[3:])
  for a, e in zip(found, _torch(*arrays, *case[3:]), strict=True):
    assert a.shape == e.shape
    scale = max(1.0, np.abs(e).max())
    np.testing.assert_allclose(np.asarray(a) / scale, e / scale, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("outputs", [2, 4])
def test_each_image_may_have_a_bias_of_its_own(outputs):
  case = ((2, 5, 6, 3), (3, 3), outputs, (1, 1), SAME)
  x, kernel, bias, cotangent = _draw(*case)
  own = np.stack([bias, 2 * bias])
  out, *grads = _ours(x, kernel, own, cotangent, *case[3:])
  images = [slice(n, n + 1) for n in range(2)]
  alone = [_torch(x[n], kernel, own[n][0], cotangent[n], *case[3:]) for n in images]
  expected = [np.concatenate(arrays) for arrays in zip(*(a[:2] for a in alone), strict=True)]
  expected += [sum(a[2] for a in alone), np.stack([a[3] for a in alone])]
  for a, e in zip((out, *grads), expected, strict=True):
    np.testing.assert_allclose(a, e, atol=2e-5)


@pytest.mark.usefixtures("way")
def test_half_precision_keeps_its_types():
  arrays = [jnp.asarray(a, jnp.bfloat16) for a in _draw(*CASES[0])]
  found = _ours(*arrays, *CASES[0][3:])
  assert [a.dtype for a in found] == [jnp.bfloat16] * 4
  expected = _torch(*(np.asarray(a, np.float64) for a in arrays), *CASES[0][3:])
  for a, e in zip(found, expected, strict=True):
    np.testing.assert_allclose(np.asarray(a, np.float64), e, atol=0.02 * np.abs(e).max())


def test_what_made_the_input_is_not_computed_again_for_the_gradient(monkeypatch):
  monkeypatch.setattr(cpu, "LARGE", 0)

  def loss(x, kernel):
    return jnp.sum(jnp.square(convolution.conv(jnp.maximum(x, 0.25), kernel, padding=SAME)))

  x, kernel, *_ = _draw((2, 16, 16, 8), (3, 3), 8, (1, 1), SAME)
  text = jax.jit(jax.grad(loss, argnums=1)).lower(x, kernel).compile().as_text()
  assert len(re.findall(r" maximum\(", text)) == 1


@pytest.mark.usefixtures("way")
def test_a_batch_over_devices_is_not_gathered():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  arrays = _draw((8, 6, 7, 3), (3, 3), 4, (1, 1), SAME)
  shardings = (split, None, None, split)
  compiled = jax.jit(_ours, static_argnums=(4, 5), in_shardings=shardings)
  program = compiled.lower(*arrays, (1, 1), SAME).compile()
  assert "all-gather" not in program.as_text()
  assert "all-to-all" not in program.as_text()
  # One sum over devices of each gradient, none in a loop.
  assert len(re.findall(r" all-reduce(-start)?\(", program.as_text())) <= 2
  put = [jax.device_put(a, s) for a, s in zip(arrays, shardings, strict=True)]
  for a, e in zip(program(*put), _torch(*arrays, (1, 1), SAME), strict=True):
    np.testing.assert_allclose(a, e, atol=1e-5 * np.abs(e).max())


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="wanted"):
    convolution.conv(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 2, 5)))
