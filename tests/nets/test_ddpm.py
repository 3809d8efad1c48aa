"""DDPM's U-Net beside one made of PyTorch's layers: counts, outputs, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.nets.ddpm import DenoisingUNet, Residual
from tests.reference.parity import assert_same, images, quick_jit, random_params

# 64: of fewer channels each is a group of its own, and the norm takes out what an embedding adds.
SMALL = {"width": 64, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}


@pytest.mark.parametrize(
  ("multipliers", "side", "count"),
  [
    ((1, 2, 2, 2), 32, 35_746_307),
    ((1, 1, 2, 2, 4), 128, 71_436_803),
    ((1, 1, 2, 2, 4, 4), 256, 113_673_219),
  ],
)
def test_parameters(multipliers, side, count):
  net = DenoisingUNet(multipliers=multipliers)
  given = jax.ShapeDtypeStruct((1, side, side, 3), np.float32), jnp.zeros(1)
  shapes = jax.eval_shape(net.init, jax.random.key(0), *given)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
def test_outputs_and_gradients_are_those_of_pytorch():
  torch = pytest.importorskip("torch")
  from tests.reference import ddpm as reference

  levels = np.array([3, 700], np.int32)
  twin = reference.DDPM(3, 16, **SMALL)
  twin.levels = torch.tensor(levels)
  assert_same(DenoisingUNet(**SMALL), twin, images((2, 16, 16, 3)), levels)


def test_dropout_is_for_training_alone():
  block, x, embedding = Residual(8, dropout=0.5), images((1, 4, 4, 8)), images((1, 16))
  params = random_params(jax.eval_shape(lambda: block.init(jax.random.key(0), x, embedding, False)))
  calm = block.apply(params, x, embedding, False)
  one, other = (
    block.apply(params, x, embedding, True, rngs={"dropout": jax.random.key(n)}) for n in (0, 1)
  )
  assert not np.allclose(one, calm)
  assert not np.allclose(one, other)


def test_bfloat16_stays_near():
  x, levels = images((2, 8, 8, 1)), jnp.array([1, 500])
  flat = {"width": 64, "multipliers": (1,), "blocks": 1}
  one, other = (DenoisingUNet(**flat, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
  params = random_params(jax.eval_shape(one.init, jax.random.key(0), x, levels))
  exact, found = (quick_jit(net.apply)(params, x, levels) for net in (one, other))
  assert found.dtype == jnp.float32
  assert np.sqrt(np.mean(np.square(found - exact))) < 0.05 * np.std(exact)
