import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.ops import cpu, upsample
from tests.reference.parity import images, quick_jit


def test_transposed_conv_equals_lax_inside():
  x, kernel = jnp.asarray(images((2, 5, 6, 3))), jnp.asarray(images((4, 4, 3, 7), 2))
  bias = jnp.arange(7.0)
  out = upsample.transposed_conv(x, kernel, bias)
  expected = jax.lax.conv_transpose(
    x, kernel[::-1, ::-1], (2, 2), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  expected += bias
  np.testing.assert_allclose(out[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


def test_nearest_conv_equals_repeating_and_convolving():
  def plain(x, kernel, bias):
    twice = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    dimensions = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(twice, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return out + bias

  operands = [images(s, n) for n, s in enumerate([(2, 3, 5, 4), (3, 3, 4, 6), (6,)])]
  cotangent = images((2, 6, 10, 6), 4)

  def both(form):
    def values(*given):
      out, backward = jax.vjp(form, *given)
      return out, *backward(cotangent)

    return quick_jit(values)(*operands)

  for ours, theirs in zip(both(upsample.nearest_conv), both(plain), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 4)])
def test_edge_pad_and_its_gradient_equal_the_padding(size):
  def padded(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")

  x = jnp.asarray(images((2, *size, 3)))
  found, backward = jax.vjp(upsample.edge_pad, x)
  expected, expected_backward = jax.vjp(padded, x)
  np.testing.assert_array_equal(found, expected)
  grad = jnp.asarray(images(found.shape, 1))
  np.testing.assert_allclose(backward(grad)[0], expected_backward(grad)[0], rtol=1e-5, atol=1e-6)


def test_depth_to_space_puts_phases_side_by_side():
  x = jnp.arange(8.0).reshape(1, 1, 1, 8)
  np.testing.assert_array_equal(upsample.depth_to_space(x)[0, :, :, 0], [[0, 2], [4, 6]])


def test_bilinear_equals_resize():
  x = images((2, 3, 5, 2))
  expected = jax.image.resize(x, (2, 6, 10, 2), "bilinear", antialias=False)
  np.testing.assert_allclose(upsample.bilinear(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 5), (6, 4)])
@pytest.mark.parametrize("large", [0, cpu.LARGE], ids=["row by row", "plain"])
def test_gradient_of_bilinear_equals_that_of_resize(size, large, monkeypatch):
  monkeypatch.setattr(cpu, "LARGE", large)
  x = jnp.asarray(images((2, *size, 3)))
  shape = (2, 2 * size[0], 2 * size[1], 3)
  grad = jnp.asarray(images(shape, 1))
  _, backward = jax.vjp(lambda x: jax.image.resize(x, shape, "bilinear", antialias=False), x)
  found = jax.jit(lambda x, grad: jax.vjp(upsample.bilinear, x)[1](grad))(x, grad)
  np.testing.assert_allclose(found[0], backward(grad)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 6), (1, 2)])
def test_the_ways_of_accelerators_are_those_of_the_cpu(size):
  x, grown = (images((2, rows, columns, 3)) for rows, columns in (size, (2 * size[0], 2 * size[1])))
  operands = (upsample.edge_pad(x), images((4, 4, 3, 3), 1), images((3,), 2))
  pairs = (
    (upsample.by_stride(*operands), upsample.by_phases(*operands)),
    (upsample.stride_gradients(*operands, grown), upsample.phase_gradients(*operands, grown)),
    (upsample.phase_gradients(*operands, grown), jax.vjp(upsample.by_phases, *operands)[1](grown)),
    (upsample.clamped(x), upsample.edge_pad(x)),
    (upsample.mixed(x), upsample.bilinear(jnp.asarray(x))),
    (upsample.unmixed(grown), *jax.vjp(upsample.bilinear, jnp.asarray(x))[1](jnp.asarray(grown))),
  )
  for mine, wanted in pairs:
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
