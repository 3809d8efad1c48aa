"""Packing is undone exactly, and an optimiser cannot tell the difference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hiresmed_jax.runtime import mesh, optim
from hiresmed_jax.runtime.optim import pack, unpack
from tests import tiny_run


def _tree(rng):
  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return {
    "codebook": draw(5, 3),
    "net": {"conv": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)}, "norm": {"scale": draw(1)}},
    "head": {"kernel": draw(2, 2)},
  }


def test_unpack_undoes_pack():
  tree = _tree(np.random.default_rng(0))
  packed = pack(tree, apart=("codebook",))
  assert {name: leaf.shape for name, leaf in packed.items()} == {
    "codebook": (5, 3),
    "kernel": (76,),
    "other": (5,),
  }
  jax.tree.map(np.testing.assert_array_equal, unpack(packed, tree, apart=("codebook",)), tree)


def test_what_a_mesh_may_shard_stays_whole(monkeypatch):
  monkeypatch.setattr("hiresmed_jax.runtime.optim.MIN_SHARDED_ELEMENTS", 50)
  tree = _tree(np.random.default_rng(1))
  packed = pack(tree)
  assert packed["net/conv/kernel"].shape == (3, 3, 2, 4)
  jax.tree.map(np.testing.assert_array_equal, unpack(packed, tree), tree)
  assert mesh.MIN_SHARDED_ELEMENTS == 1 << 20


def test_nothing_packs_to_nothing():
  assert pack({}) == {}
  assert unpack({}, {}) == {}


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_optimiser_moves_packed_parameters_alike(name):
  rng = np.random.default_rng(2)
  params, decay = _tree(rng), 0.1 if name == "adamw" else 0.0
  tx = optim.make_optimizer(name=name, learning_rate=1e-2, weight_decay=decay, clip=1.0)
  packed, state, packed_state = pack(params), tx.init(params), tx.init(pack(params))
  update = tiny_run.quick_jit(tx.update)
  for _ in range(3):
    grads = _tree(rng)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    updates, packed_state = update(pack(grads), packed_state, packed)
    packed = optax.apply_updates(packed, updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), unpack(packed, params), params
  )
