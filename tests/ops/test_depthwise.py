import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hiresmed_jax.ops import depthwise
from hiresmed_jax.ops.depthwise import depthwise_conv
from tests.reference import depthwise as reference
from tests.reference.parity import quick_jit


def _draw(shape: tuple, size: tuple, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
  rng = np.random.default_rng(seed)
  shapes = (shape, (*size, 1, shape[-1]), shape)
  x, kernel, cotangent = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes)
  return x, kernel, cotangent


def _all(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple:
  out, backward = jax.vjp(depthwise_conv, x, kernel)
  return (out, *backward(cotangent))


def _lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=x.shape[-1]
  )


def _assert_close(actual: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
  for a, e in zip(actual, expected, strict=True):
    # Relative to the largest value: sums of both signs lose their small values anyway.
    scale = max(1.0, float(np.max(np.abs(e))))
    np.testing.assert_allclose(np.asarray(a, np.float64) / scale, e / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ((2, 17, 13, 5), (5, 5)),
    ((1, 9, 33, 3), (7, 7)),
    ((3, 1, 1, 4), (5, 5)),  # smaller than the kernel
    ((2, 2, 11, 1), (7, 7)),
    ((2, 11, 3, 7), (3, 5)),
    ((1, 40, 70, 64), (5, 5)),  # several tiles down and across
    ((8, 9, 8, 300), (3, 1)),
  ],
)
def test_equals_torch_with_gradients(shape, size):
  arrays = _draw(shape, size)
  expected = reference.depthwise(*(np.asarray(a) for a in arrays))
  _assert_close(jax.jit(_all)(*arrays), expected)


@settings(max_examples=4)
@given(
  shape=st.tuples(*[st.integers(1, n) for n in (3, 20, 20, 9)]),
  size=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
)
def test_equals_torch_at_any_size(shape, size):
  arrays = _draw(shape, size)
  expected = reference.depthwise(*(np.asarray(a) for a in arrays))
  _assert_close(quick_jit(_all)(*arrays), expected)


def test_several_tiles_are_exercised():
  # The parity above would prove little if every image fitted one tile.
  text = jax.make_jaxpr(_all)(*_draw((1, 40, 70, 64), (5, 5))).pretty_print()
  lengths = [int(n) for n in re.findall(r"length=(\d+)", text)]
  assert max(lengths) > 4


def test_branch_of_accelerators_is_the_same_function():
  x, kernel, cotangent = _draw((2, 12, 9, 6), (5, 3))
  expected = reference.depthwise(*(np.asarray(a) for a in (x, kernel, cotangent)))
  out = quick_jit(depthwise._grouped)(x, kernel)
  kernel_grad = quick_jit(lambda *a: depthwise._grouped_transpose((5, 3), *a))(x, cotangent)
  _assert_close((out, kernel_grad), (expected[0], expected[2]))


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_each_backend_gets_its_own_program(platform, convolutions):
  traced = jax.jit(_all).trace(*_draw((2, 8, 8, 4), (5, 5)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert len(re.findall(r"stablehlo\.convolution", text)) == convolutions


@pytest.mark.parametrize(
  ("platform", "channels", "grouped"), [("cuda", 32, 2), ("cuda", 64, 3), ("tpu", 32, 3)]
)
def test_few_channels_on_cuda_take_the_dense_gradient(platform, channels, grouped):
  traced = jax.jit(_all).trace(*_draw((1, 8, 8, channels), (3, 3)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  counts = [int(n) for n in re.findall(r"(?:feature|batch)_group_count = (\d+)", text)]
  assert sum(count == channels for count in counts) == grouped


@pytest.mark.parametrize("kernel_type", [jnp.bfloat16, jnp.float32])
def test_bfloat16_is_summed_in_float32(kernel_type):
  x, kernel, cotangent = _draw((4, 32, 32, 3), (5, 5))
  x, cotangent = x.astype(jnp.bfloat16), cotangent.astype(jnp.bfloat16)
  kernel = kernel.astype(kernel_type)
  out, x_grad, kernel_grad = quick_jit(_all)(x, kernel, cotangent)
  assert (out.dtype, x_grad.dtype, kernel_grad.dtype) == (jnp.bfloat16, jnp.bfloat16, kernel_type)
  wide = (np.asarray(a, np.float32) for a in (x, kernel, cotangent))
  expected = reference.depthwise(*wide)
  one_rounding = 2.0**-8
  for actual, exact in zip((out, x_grad), expected[:2], strict=True):
    np.testing.assert_allclose(np.asarray(actual, np.float32), exact, rtol=one_rounding, atol=1e-3)
  rounding = one_rounding if kernel_type == jnp.bfloat16 else 1e-5
  _assert_close((np.asarray(kernel_grad, np.float32),), (expected[2],), rounding)


def test_vmap_and_scan():
  x, kernel, cotangent = _draw((6, 9, 10, 4), (3, 3))
  stack = [a.reshape(3, 2, *a.shape[1:]) for a in (x, cotangent)]
  kernels = jnp.stack([kernel, 2 * kernel, -kernel])
  every = quick_jit(_all)
  expected = [every(stack[0][i], kernels[i], stack[1][i]) for i in range(3)]
  mapped = quick_jit(jax.vmap(_all))(stack[0], kernels, stack[1])
  scan = quick_jit(lambda *a: jax.lax.scan(lambda _, b: (None, _all(*b)), None, a)[1])
  scanned = scan(stack[0], kernels, stack[1])
  for i in range(3):
    exact = tuple(np.asarray(a) for a in expected[i])
    _assert_close(tuple(a[i] for a in mapped), exact)
    _assert_close(tuple(a[i] for a in scanned), exact)


def test_second_derivatives_equal_lax():
  x, kernel, cotangent = _draw((2, 7, 8, 3), (3, 5))

  def penalty(convolve):
    def energy(x, kernel):
      return jnp.sum(jnp.tanh(convolve(x, kernel)) * cotangent)

    def lengths(x, kernel):
      return sum(jnp.sum(g**3) for g in jax.grad(energy, argnums=(0, 1))(x, kernel))

    return quick_jit(jax.grad(lengths, argnums=(0, 1)))

  expected = penalty(_lax)(x, kernel)
  _assert_close(penalty(depthwise_conv)(x, kernel), tuple(np.asarray(e) for e in expected), 2e-5)


@pytest.mark.slow
def test_one_device_equals_eight_and_nothing_is_gathered():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  whole = NamedSharding(mesh, PartitionSpec())
  arrays = _draw((8, 20, 17, 6), (5, 5))
  one = jax.jit(_all)(*arrays)
  compiled = (
    jax.jit(_all, in_shardings=(split, whole, split), out_shardings=(split, split, whole))
    .lower(*arrays)
    .compile()
  )
  text = compiled.as_text() or ""
  for exchange in ("all-gather", "all-to-all", "collective-permute"):
    assert exchange not in text
  # One sum over devices, of the kernel's gradient, and none inside the loop.
  assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1
  placed = [jax.device_put(a, s) for a, s in zip(arrays, (split, whole, split), strict=True)]
  eight = compiled(*placed)
  assert eight[1].sharding.spec == PartitionSpec("data")
  _assert_close(tuple(np.asarray(a) for a in eight), tuple(np.asarray(a) for a in one))


def test_wrong_shapes_are_refused():
  x, kernel, _ = _draw((1, 8, 8, 4), (3, 3))
  with pytest.raises(ValueError, match="wanted"):
    depthwise_conv(x, kernel[..., :3])
  with pytest.raises(ValueError, match="odd"):
    depthwise_conv(x, kernel[:2])


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (3, 5)])
def test_the_diagonal_of_the_dense_gradient_is_the_same(size):
  rng = np.random.default_rng(0)
  x, grad = (jnp.asarray(rng.standard_normal((2, 9, 7, 6)), jnp.float32) for _ in range(2))
  found = depthwise._dense_diagonal(size, x, grad)
  np.testing.assert_allclose(
    found, depthwise._grouped_transpose(size, x, grad), rtol=1e-4, atol=1e-5
  )
