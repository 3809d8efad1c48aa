import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.torch_baseline import quantizer as reference
from hiresmed_jax.ops import quantize as q
from tests.reference.parity import quick_jit

normalize = quick_jit(q.normalize)
quantize = quick_jit(q.quantize)
kmeans = quick_jit(q.kmeans, static_argnames=("num_codes", "iterations"))
revive = quick_jit(q.revive, static_argnames="threshold")


def _draw(*shape: int, seed: int = 0) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_normalize_is_finite_at_zero():
  x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
  np.testing.assert_allclose(normalize(x), np.array([[0, 0], [0.6, 0.8]]), rtol=1e-6)
  gradient = quick_jit(jax.grad(lambda v: jnp.sum(q.normalize(v))))(x)
  assert np.all(np.isfinite(gradient))
  lengths = jnp.linalg.norm(normalize(_draw(1000, 16)), axis=-1)
  np.testing.assert_allclose(lengths, 1.0, rtol=3e-7)


def test_equals_torch_with_gradients():
  latents, codebook = 3 * _draw(2, 5, 4, 8), _draw(12, 8, seed=1)
  weights = [_draw(2, 5, 4, 8, seed=s) for s in (2, 3, 4)]

  def weigh(latents, codebook):
    out = q.quantize(latents, codebook)
    parts = (out.codes, out.unit_latents, out.unit_codes)
    return sum(jnp.sum(w * p) for w, p in zip(weights, parts, strict=True)), out

  gradients, out = quick_jit(jax.grad(weigh, argnums=(0, 1), has_aux=True))(latents, codebook)
  exact = [torch.tensor(np.asarray(a), dtype=torch.float64) for a in (latents, codebook)]
  leaves = [a.requires_grad_() for a in exact]
  codes, indices, unit_latents, unit_codes = reference.quantize(*leaves)
  torch_weights = [torch.tensor(np.asarray(w), dtype=torch.float64) for w in weights]
  parts = (codes, unit_latents, unit_codes)
  sum((w * p).sum() for w, p in zip(torch_weights, parts, strict=True)).backward()

  np.testing.assert_array_equal(out.indices, indices)
  np.testing.assert_allclose(out.codes, codes.detach(), atol=1e-6)
  np.testing.assert_allclose(out.unit_latents, unit_latents.detach(), atol=1e-6)
  np.testing.assert_allclose(out.unit_codes, unit_codes.detach(), atol=1e-6)
  for actual, leaf in zip(gradients, leaves, strict=True):
    np.testing.assert_allclose(actual, leaf.grad, atol=2e-6)


def test_straight_through_value_is_the_code_to_the_last_bit():
  codebook = _draw(12, 8, seed=1)
  out = quantize(_draw(50, 8), codebook)
  np.testing.assert_array_equal(out.codes, out.unit_codes)
  np.testing.assert_array_equal(
    out.codes, quick_jit(lambda i: q.normalize(codebook[i]))(out.indices)
  )


def test_only_used_codes_get_a_gradient():
  latents, codebook = _draw(6, 8), _draw(32, 8, seed=1)
  indices = quantize(latents, codebook).indices
  through = quick_jit(jax.grad(lambda c: jnp.sum(q.quantize(latents, c).codes ** 3)))(codebook)
  direct = quick_jit(jax.grad(lambda c: jnp.sum(q.quantize(latents, c).unit_codes ** 3)))(codebook)
  direct = np.asarray(direct)
  assert not np.any(through)
  used = np.isin(np.arange(32), indices)
  assert not np.any(direct[~used])
  assert np.all(np.any(direct[used], axis=-1))


def test_ties_go_to_the_lowest_index():
  code = _draw(1, 8)
  codebook = jnp.concatenate([-code, code, code, code])
  np.testing.assert_array_equal(quick_jit(q.nearest)(jnp.tile(code, (5, 1)), codebook), 1)


def test_bfloat16_latents_are_compared_in_float32():
  latents, codebook = _draw(4, 9, 8).astype(jnp.bfloat16), _draw(64, 8, seed=1)
  out = quantize(latents, codebook)
  assert out.codes.dtype == out.unit_latents.dtype == out.unit_codes.dtype == jnp.float32
  wide = quantize(latents.astype(jnp.float32), codebook)
  np.testing.assert_array_equal(out.indices, wide.indices)
  np.testing.assert_array_equal(out.unit_latents, wide.unit_latents)


def test_distances_are_asked_in_full_precision_of_every_backend():
  lowered = quick_jit(q.nearest).trace(_draw(4, 8), _draw(6, 8)).lower(lowering_platforms=("tpu",))
  assert "precision = [HIGHEST, HIGHEST]" in lowered.as_text()


def test_counts_perplexity_usage():
  indices = jnp.array([[0, 3, 3], [1, 3, 0]])
  counts = q.code_counts(indices, 5)
  np.testing.assert_array_equal(counts, np.bincount(indices.reshape(-1), minlength=5))
  share = np.array([2, 1, 3]) / 6
  np.testing.assert_allclose(
    q.perplexity(counts), np.exp(-np.sum(share * np.log(share))), rtol=1e-6
  )
  np.testing.assert_allclose(q.perplexity(jnp.ones(7)), 7, rtol=1e-6)
  np.testing.assert_allclose(q.perplexity(jnp.zeros(7)), 1)
  np.testing.assert_allclose(
    q.update_usage(jnp.ones(5), counts, 0.9), 0.9 + 0.1 * counts, rtol=1e-6
  )


@settings(max_examples=20)
@given(
  num_latents=st.sampled_from([1, 3, 16, 40]),
  dead=st.sets(st.integers(0, 15)),
  seed=st.integers(0, 2**31 - 1),
)
def test_revival(num_latents, dead, seed):
  codebook, latents = _draw(16, 4, seed=1), _draw(num_latents, 4, seed=2)
  usage = np.where(np.isin(np.arange(16), sorted(dead)), np.float32(0.1), np.float32(1.0))
  result = revive(codebook, usage, latents, jax.random.key(seed), threshold=0.5)
  fresh, revived = (np.asarray(a) for a in result)
  assert set(np.flatnonzero(revived)) == dead
  np.testing.assert_array_equal(fresh[~revived], np.asarray(codebook)[~revived])
  if dead:
    rows = fresh[revived]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1.0, rtol=1e-6)
    distance = np.abs(rows[:, None] - np.asarray(normalize(latents))).max(-1)
    assert distance.min(1).max() < 1e-6
    # Each latent is taken once before any is taken twice.
    times = np.bincount(distance.argmin(1), minlength=num_latents)
    assert times.max() <= -(-16 // num_latents)


def test_revival_draws_anew_with_each_key_and_never_branches():
  codebook, usage, latents = _draw(8, 4), jnp.zeros(8), _draw(50, 4, seed=1)
  keys = jax.random.split(jax.random.key(0))
  first, second = (revive(codebook, usage, latents, k, threshold=1.0)[0] for k in keys)
  assert np.any(first != second)
  program = jax.make_jaxpr(lambda *a: q.revive(*a, threshold=1.0))(
    codebook, usage, latents, keys[0]
  )
  assert "cond" not in str(program)


def test_kmeans_finds_clusters_and_fills_empty_ones():
  centres = normalize(_draw(8, 16))
  latents = jnp.repeat(centres, 25, axis=0) * 3 + 0.05 * _draw(200, 16, seed=1)
  found = kmeans(latents, jax.random.key(3), num_codes=24, iterations=10)
  np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1.0, rtol=1e-6)
  assert np.max(found @ centres.T, axis=0).min() > 0.999  # every cluster has a centre
  assert np.max(found @ centres.T, axis=1).min() > 0.98  # and every centre is in a cluster


def test_kmeans_lowers_the_distance():
  latents = normalize(_draw(300, 6))

  def distance(iterations):
    codes = kmeans(latents, jax.random.key(0), num_codes=12, iterations=iterations)
    return float(jnp.mean(1 - jnp.max(latents @ codes.T, axis=1)))

  distances = [distance(i) for i in (0, 1, 20)]
  assert distances == sorted(distances, reverse=True)
  assert distances[-1] < 0.8 * distances[0]


def test_kmeans_with_fewer_latents_than_codes():
  latents = _draw(3, 4)
  codes = kmeans(latents, jax.random.key(0), num_codes=8, iterations=3)
  np.testing.assert_allclose(np.max(codes @ normalize(latents).T, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("num_codes", "rare"), [(6, 22.0), (40, 3.0)])
def test_one_device_equals_eight(num_codes, rare):
  latents, codebook = _draw(16, 4, 4, 8), _draw(num_codes, 8, seed=1)

  def step(latents, codebook):
    def loss(codebook):
      out = q.quantize(latents, codebook)
      return jnp.mean(jnp.sum((out.unit_codes - out.unit_latents) ** 2, axis=-1)), out

    gradient, out = jax.grad(loss, has_aux=True)(codebook)
    usage = q.update_usage(jnp.ones(num_codes), q.code_counts(out.indices, num_codes), 0.5)
    flat = latents.reshape(-1, 8)
    fresh, revived = q.revive(codebook, usage, flat, jax.random.key(5), threshold=rare)
    centres = q.kmeans(flat, jax.random.key(6), num_codes=num_codes, iterations=2)
    return gradient, out.indices, usage, fresh, revived, centres

  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  one = quick_jit(step)(latents, codebook)
  eight = quick_jit(step)(jax.device_put(latents, split), jax.device_put(codebook, whole))
  assert 0 < np.sum(one[4]) < num_codes
  for a, b in zip(eight, one, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
