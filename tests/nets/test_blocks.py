import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.torch_baseline import blocks
from hiresmed_jax.nets.blocks import (
  HDFB,
  ChannelAttention,
  DetailEnhancement,
  DropPath,
  MSConvFE,
  Residual,
)
from tests.reference.parity import assert_same, images, quick_jit, random_params


def count(net, channels, *args):
  x = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
  shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, *args), x)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("c", [128, 256, 512])
def test_closed_form_counts(c):
  assert count(MSConvFE(), c, False) == 10 * c**2 + 30 * c
  assert count(HDFB(c), c, False) == 19 * c**2 + 35 * c
  assert count(Residual(c), c, False) == 18 * c**2 + 6 * c
  assert count(DetailEnhancement(), c) == 10 * c**2 + 14 * c


def test_counts_where_channels_change():
  assert count(HDFB(256), 128, False) == 992_000
  assert count(HDFB(512), 256, False) == 3_950_080
  assert count(Residual(256), 128, False) == 919_040
  assert count(Residual(512), 256, False) == 3_673_088


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_msconvfe_equals_torch(activation):
  twin = blocks.MSConvFE(6, activation)
  assert_same(MSConvFE(activation), twin, images((2, 7, 9, 6)), False)


@pytest.mark.parametrize("inputs", [36, 8])
def test_hdfb_equals_torch(inputs):
  assert_same(HDFB(36), blocks.HDFB(inputs, 36), images((2, 6, 7, inputs)), False)


@pytest.mark.parametrize("inputs", [36, 8])
def test_residual_equals_torch(inputs):
  assert_same(Residual(36), blocks.Residual(inputs, 36), images((2, 6, 7, inputs)), False)


def test_channel_attention_equals_torch():
  assert_same(ChannelAttention(4), blocks.ChannelAttention(12, 4), images((3, 5, 4, 12)))


def test_detail_enhancement_equals_torch():
  assert_same(DetailEnhancement(), blocks.DetailEnhancement(6), images((2, 7, 6, 6)))


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
  x = jnp.asarray(images((4000, 2, 3)))
  net = DropPath(0.25)
  out = np.asarray(net.apply({}, x, True, rngs={"drop_path": jax.random.key(3)}))
  dropped = (out == 0).all(axis=(1, 2))
  np.testing.assert_allclose(out[~dropped], np.asarray(x)[~dropped] / 0.75, rtol=1e-6)
  assert not out[dropped].any()
  assert abs(dropped.mean() - 0.25) < 0.03
  np.testing.assert_array_equal(net.apply({}, x, False), x)


def test_drop_path_spares_the_skip():
  net = HDFB(4, drop_path_rate=0.999999)
  x = jnp.asarray(images((2, 4, 4, 4)))
  variables = random_params(jax.eval_shape(lambda: net.init(jax.random.key(0), x, False)))
  out = quick_jit(lambda v: net.apply(v, x, True, rngs={"drop_path": jax.random.key(1)}))(variables)
  emptied = jax.tree.map(jnp.asarray, variables)
  emptied["params"]["msconvfe"]["pointwise"] = jax.tree.map(
    jnp.zeros_like, emptied["params"]["msconvfe"]["pointwise"]
  )
  expected = quick_jit(lambda v: net.apply(v, x, False))(emptied)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
