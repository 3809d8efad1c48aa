"""Chains around norms beside the operations that they are made of, by both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.ops import norm
from hiresmed_jax.ops.gated_norm import gated_norm_beside
from hiresmed_jax.ops.norm_chain import norm_silu_norm
from tests.reference.parity import close, images, quick_jit
from tests.reference.ways import as_on_accelerators

GROUPS = {"groups": 4}
SHAPE = (3, 6, 5, 8)


def beside_apart(x, affine):
  return norm.group_norm(x, *affine, **GROUPS, act="silu"), x


def beside(x, affine):
  return norm.group_norm_beside(x, *affine, **GROUPS, act="silu")


def chain_apart(x, first, second):
  z = norm.group_norm(x, *first, **GROUPS, act="silu")
  return z, norm.group_norm(z, *second, **GROUPS)


def gated_apart(x, gate, affine):
  gated = x * gate[:, None, None].astype(x.dtype)
  return norm.group_norm(gated, *affine, **GROUPS, act="silu"), gated


def gated(x, gate, affine):
  return gated_norm_beside(x, gate, *affine, **GROUPS)


def affine(seed):
  return 1 + images((8,), seed), images((8,), seed + 1)


GATE = 1 / (1 + np.exp(-3 * images((3, 8), 9)))
CASES = {
  "beside": (beside, beside_apart, (affine(2),)),
  "chain": (functools.partial(norm_silu_norm, **GROUPS), chain_apart, (affine(2), affine(4))),
  "gated": (gated, gated_apart, (GATE, affine(2))),
}


def outputs_and_gradients(form, dtype, others):
  # Channels of unlike means and scales, and numbers that both types have.
  x = images(SHAPE) * np.arange(1, 9) + np.arange(8)
  arrays = (x, *(images(SHAPE, seed) for seed in (6, 7)))
  x, *cotangents = (jnp.asarray(a, jnp.bfloat16).astype(dtype) for a in arrays)

  def run(x, *others):
    out, back = jax.vjp(form, x, *others)
    return out, back(tuple(cotangents))

  return jax.tree.leaves(quick_jit(run)(x, *others))


@pytest.mark.parametrize("way", ["cpu", "accelerator"])
@pytest.mark.parametrize("name", CASES)
def test_a_region_is_what_it_is_made_of_with_all_gradients(name, way, monkeypatch):
  together, apart, others = CASES[name]
  exact = outputs_and_gradients(apart, jnp.float32, others)
  if way == "accelerator":
    as_on_accelerators(monkeypatch)
  for dtype, within in ((jnp.float32, 1e-5), (jnp.bfloat16, 5e-3)):
    found = outputs_and_gradients(together, dtype, others)
    for number, (mine, wanted) in enumerate(zip(found, exact, strict=True)):
      close(mine.astype(jnp.float32), wanted, within, f"{dtype.__name__}, {number}")


@pytest.mark.parametrize("name", CASES)
def test_channels_that_do_not_divide(name):
  form, _, others = CASES[name]
  with pytest.raises(ValueError, match="6 channels"):
    form(jnp.zeros((3, 2, 6)), *others)
