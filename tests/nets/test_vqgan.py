import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from benchmarks.torch_baseline import discriminator, hiresmed
from hiresmed_jax.nets.vqgan import (
  VQGAN,
  MultiScaleDiscriminator,
  decoder_drop_path,
  encoder_drop_path,
)
from tests.reference.parity import assert_same, images, quick_jit, random_params

SLOW = pytest.mark.slow
PAPER = {"drop_path_rate": 0.1}
BEST = {
  "channels": (128, 128, 256, 512),
  "strides": (2, 2, 2, 2),
  "code_dim": 16,
  "activation": "gelu",
  "upsampling": "resize",
}
SMALL = {
  "stem_channels": 4,
  "channels": (6, 8),
  "strides": (4, 2),
  "encoder_blocks": 1,
  "full_resolution_channels": 5,
  "code_dim": 3,
  "se_ratio": 2,
}
TINY = {
  **SMALL,
  "channels": (6,),
  "strides": (4,),
  "encoder_blocks": 2,
  "middle_blocks": 0,
  "drop_path_rate": 0.5,
}


def abstract(net, shape):
  """-> (variables, latents, images), from one trace."""

  def both(net, x):
    latents = net.encode(x)
    return latents, net.decode(latents)

  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  init = functools.partial(net.init_with_output, method=both)
  (latents, images_out), variables = jax.eval_shape(init, jax.random.key(0), x)
  return variables, latents, images_out


def tiny(**changes):
  net = VQGAN(**{**TINY, **changes})
  x = images((2, 8, 12, 3))
  return net, random_params(jax.eval_shape(net.init, jax.random.key(0), x)), x


@pytest.mark.parametrize(
  ("config", "count", "latent"),
  [
    (PAPER, 33_950_333, (1, 16, 16, 256)),
    pytest.param({**PAPER, "block": "residual"}, 32_561_245, (1, 16, 16, 256), marks=SLOW),
    (BEST, 29_299_413, (1, 64, 64, 16)),
    pytest.param({**BEST, "block": "residual"}, 27_850_037, (1, 64, 64, 16), marks=SLOW),
  ],
)
def test_counts_and_shapes_at_1024(config, count, latent):
  variables, latents, out = abstract(VQGAN(**config, dtype=jnp.bfloat16), (1, 1024, 1024, 3))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
  assert latents.shape == latent
  assert out.shape == (1, 1024, 1024, 3)
  assert latents.dtype == out.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  options = {k: v for k, v in config.items() if k != "drop_path_rate"}
  with torch.device("meta"):
    with_torch = hiresmed.VQGAN(**options)
  assert sum(p.numel() for p in with_torch.parameters()) == count


def test_any_multiple_of_the_strides():
  _, latents, out = abstract(VQGAN(**SMALL), (2, 24, 40, 3))
  assert latents.shape == (2, 3, 5, 3)
  assert out.shape == (2, 24, 40, 3)


@pytest.mark.parametrize(
  ("block", "activation", "upsampling"),
  [
    ("hdfb", "relu", "transposed"),
    pytest.param("residual", "relu", "resize", marks=pytest.mark.slow),
  ],
)
def test_equals_torch(block, activation, upsampling):
  options = {**SMALL, "block": block, "activation": activation, "upsampling": upsampling}
  assert_same(VQGAN(**options), hiresmed.VQGAN(**options), images((2, 16, 24, 3)), rtol=1e-4)


@pytest.mark.slow
def test_remat_changes_neither_names_nor_values():
  key = jax.random.key(5)
  results = []
  for remat in (False, True):
    net, variables, x = tiny(remat=remat)

    def loss(variables, net=net, x=x):
      return jnp.square(net.apply(variables, x, True, rngs={"drop_path": key})).mean()

    # Down, two blocks; up, block, detail.
    checkpoints = str(jax.make_jaxpr(loss)(variables)).count("prevent_cse")
    assert checkpoints == (6 if remat else 0)
    results.append(quick_jit(jax.value_and_grad(loss))(variables))
  (plain, plain_grad), (remat, remat_grad) = results
  np.testing.assert_allclose(plain, remat, rtol=1e-6)
  assert set(flatten_dict(plain_grad)) == set(flatten_dict(remat_grad))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain_grad, remat_grad
  )


def test_decode_is_the_head_of_its_features_and_bf16_is_near():
  net, variables, x = tiny()
  wide = quick_jit(lambda v, x: net.apply(v, x))(variables, x)
  low = VQGAN(**TINY, dtype=jnp.bfloat16)

  @quick_jit
  def in_parts(variables, x):
    latents = low.apply(variables, x, method="encode")
    features = low.apply(variables, latents, method="decode_features")
    return latents, features, low.apply(variables, features, method="head")

  latents, features, out = in_parts(variables, x)
  assert latents.dtype == out.dtype == jnp.float32
  assert features.dtype == jnp.bfloat16
  assert features.shape == (2, 8, 12, 5)
  error = np.abs(np.asarray(out) - np.asarray(wide))
  assert error.mean() < 0.05 * np.abs(wide).mean()
  assert error.max() > 0


def test_drop_path_is_linear_in_depth():
  np.testing.assert_allclose(encoder_drop_path(0.1, 5), [0, 0.025, 0.05, 0.075, 0.1])
  np.testing.assert_allclose(decoder_drop_path(0.1, 4, 1), [0.1, 0.2 / 3, 0.1 / 3, 0])
  assert decoder_drop_path(0.1, 2, 2) == (0.0, 0.0)
  assert encoder_drop_path(0.1, 1) == (0.0,)


def test_drop_path_needs_its_rng_in_training_only():
  net, variables, x = tiny()
  jax.eval_shape(net.apply, variables, x)
  with pytest.raises(Exception, match="drop_path"):
    jax.eval_shape(lambda v: net.apply(v, x, True), variables)


def test_wrong_sizes_are_named():
  net = VQGAN(**SMALL)
  with pytest.raises(ValueError, match="multiples of 8"):
    abstract(net, (1, 20, 16, 3))
  with pytest.raises(ValueError, match="channels 3"):
    abstract(net, (1, 16, 16, 1))
  with pytest.raises(ValueError, match="powers of two"):
    abstract(VQGAN(**{**SMALL, "strides": (3, 2)}), (1, 24, 24, 3))
  with pytest.raises(ValueError, match="hdfb or residual"):
    abstract(VQGAN(**{**SMALL, "block": "resnet"}), (1, 24, 24, 3))


@pytest.mark.slow
def test_every_kernel_begins_at_the_deviation_asked_for():
  net = VQGAN(**{**TINY, "upsampling": "resize"}, kernel_init_std=0.02)
  params = quick_jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
  kernels = {path: leaf for path, leaf in flatten_dict(params).items() if path[-1] == "kernel"}
  assert len(kernels) > 20
  for path, kernel in kernels.items():
    # A deviation from n numbers is sure to one part in sqrt(2 n).
    spread = 4 / np.sqrt(2 * kernel.size)
    assert np.std(kernel) == pytest.approx(0.02, rel=spread), path


def test_discriminators_equal_torch():
  net = MultiScaleDiscriminator(scales=2, features=(4, 8))
  twin = discriminator.MultiScaleDiscriminator(3, 2, (4, 8))
  assert_same(net, twin, images((2, 16, 24, 3)))


def test_discriminators_count_shapes_and_start():
  net = MultiScaleDiscriminator(dtype=jnp.bfloat16)
  x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
  logits, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 409_923
  assert [leaf.shape for leaf in logits] == [(2, 15, 15, 1), (2, 7, 7, 1), (2, 3, 3, 1)]
  assert all(leaf.dtype == jnp.float32 for leaf in (*logits, *jax.tree.leaves(variables)))


def test_discriminator_kernels_start_normal_with_deviation_002():
  net = MultiScaleDiscriminator(scales=1)
  variables = quick_jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  kernel = variables["params"]["scale0"]["layer1"]["kernel"]
  assert abs(float(kernel.std()) - 0.02) < 1e-3
  assert abs(float(kernel.mean())) < 1e-3
