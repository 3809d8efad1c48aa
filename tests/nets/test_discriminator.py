import jax
import jax.numpy as jnp

from benchmarks.torch_baseline import discriminator
from hiresmed_jax.nets.discriminator import MultiScaleDiscriminator
from tests.reference.parity import assert_same, images, quick_jit


def test_equals_torch():
  net = MultiScaleDiscriminator(scales=2, features=(4, 8))
  twin = discriminator.MultiScaleDiscriminator(3, 2, (4, 8))
  assert_same(net, twin, images((2, 16, 24, 3)))


def test_count_shapes_and_start():
  net = MultiScaleDiscriminator(dtype=jnp.bfloat16)
  x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
  logits, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 409_923
  assert [leaf.shape for leaf in logits] == [(2, 15, 15, 1), (2, 7, 7, 1), (2, 3, 3, 1)]
  assert all(leaf.dtype == jnp.float32 for leaf in (*logits, *jax.tree.leaves(variables)))


def test_kernels_start_normal_with_deviation_002():
  net = MultiScaleDiscriminator(scales=1)
  variables = quick_jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  kernel = variables["params"]["scale0"]["layer1"]["kernel"]
  assert abs(float(kernel.std()) - 0.02) < 1e-3
  assert abs(float(kernel.mean())) < 1e-3
