"""Normalisations beside PyTorch's in float64, by the CPU's way and by accelerators'."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hiresmed_jax.ops import batch_norm, cpu, norm
from tests.reference.parity import close, images, quick_jit
from tests.reference.ways import as_on_accelerators


@pytest.fixture(params=["cpu", "accelerator"])
def way(request, monkeypatch):
  if request.param == "accelerator":
    as_on_accelerators(monkeypatch)


def torch_norm(arrays, cotangent, silu, normalise):
  """Output and gradients of x [N, ..., C], scale and bias."""
  leaves = [torch.tensor(a).double().requires_grad_() for a in arrays]
  out = normalise(leaves[0].movedim(-1, 1), *leaves[1:]).movedim(1, -1)
  out = torch.nn.functional.silu(out) if silu else out
  (out * torch.tensor(cotangent)).sum().backward()
  return out.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


def test_group_count_is_the_largest_divisor_up_to_32():
  assert [norm.group_count(c) for c in (1, 5, 8, 32, 48, 64, 96, 100, 37, 74)] == [
    1, 5, 8, 32, 24, 32, 32, 25, 1, 2
  ]  # fmt: skip


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
  ("shape", "offset", "silu"), [((3, 6, 5, 8), 0, True), ((2, 7, 12), 300, False)]
)
def test_group_norm_is_pytorchs_with_gradients(shape, offset, silu):
  channels = shape[-1]
  # Channels of unlike means, so that the variance between the channels of a group counts too.
  x = images(shape) + np.float32(offset) + np.arange(channels, dtype=np.float32)
  scale, bias = 1 + images((channels,), 2), images((channels,), 3)
  cotangent = images(shape, 4)

  def loss(x, scale, bias):
    out = norm.group_norm(x, scale, bias, groups=4, act="silu" if silu else "none")
    return (out * cotangent).sum(), out

  grads, out = quick_jit(jax.grad(loss, (0, 1, 2), has_aux=True))(x, scale, bias)
  expected, wanted = torch_norm(
    (x, scale, bias), cotangent, silu, lambda x, *w: torch.nn.functional.group_norm(x, 4, *w, 1e-6)
  )
  close(out, expected, 5e-5, "output")
  for ours, theirs, name in zip(grads, wanted, ("x", "scale", "bias"), strict=True):
    close(ours, theirs, 2e-4, name)


@pytest.mark.usefixtures("way")
def test_each_example_may_have_its_own_scale_and_bias():
  shape = (3, 4, 5, 6)
  x, scale, bias = images(shape), 1 + images((3, 6), 2), images((3, 6), 3)
  cotangent = images(shape, 4)

  def loss(*given):
    out, beside = norm.group_norm_beside(*given, groups=6, eps=1e-5)
    return jnp.sum(out * cotangent + 2.0 * beside), out

  grads, out = quick_jit(jax.grad(loss, (0, 1, 2), has_aux=True))(x, scale, bias)
  expected, wanted = torch_norm(
    (x, scale, bias), cotangent, False,
    lambda x, scale, bias: torch.nn.functional.instance_norm(x) * scale[..., None, None]
    + bias[..., None, None],
  )  # fmt: skip
  close(out, expected, 5e-5, "output")
  wanted[0] += 2.0
  for ours, theirs, name in zip(grads, wanted, ("x", "scale", "bias"), strict=True):
    close(ours, theirs, 1e-4, name)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("silu", [False, True])
def test_batch_norm_is_pytorchs_with_gradients(silu):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 5, 4, 6)) * rng.uniform(0.1, 3, 6) + 20 * rng.standard_normal(6)
  x, scale, bias, cotangent = (
    a.astype(np.float32)
    for a in (x, rng.uniform(0.5, 2, 6), rng.standard_normal(6), rng.standard_normal(x.shape))
  )

  def ours(x, scale, bias):
    y, mean, var = batch_norm.batch_norm(x, scale, bias, eps=1e-3, silu=silu)
    return jnp.sum(y * cotangent), (y, mean, var)

  value = quick_jit(jax.value_and_grad(ours, (0, 1, 2), has_aux=True))
  (_, (y, mean, var)), grads = value(x, scale, bias)
  expected, wanted = torch_norm(
    (x, scale, bias),
    cotangent,
    silu,
    lambda x, *w: torch.nn.functional.batch_norm(x, None, None, *w, training=True, eps=1e-3),
  )
  np.testing.assert_allclose(y, expected, atol=3e-5)
  np.testing.assert_allclose(mean, x.astype(np.float64).mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(var, x.astype(np.float64).var((0, 1, 2)), rtol=1e-4)
  for found, exact in zip(grads, wanted, strict=True):
    np.testing.assert_allclose(found, exact, atol=5e-5 * np.abs(exact).max())


def test_by_running_statistics_it_is_a_line():
  x = images((2, 3, 3, 4))
  gain, shift = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
  y = x * gain + shift
  np.testing.assert_allclose(batch_norm.affine(x, gain, shift, silu=False), y, rtol=1e-6)
  np.testing.assert_allclose(
    batch_norm.affine(x, gain, shift, silu=True), y / (1 + np.exp(-y)), rtol=1e-5, atol=1e-6
  )


def test_a_single_position_and_a_constant_channel_become_their_bias():
  bias = np.arange(16.0)
  group_norm = quick_jit(functools.partial(norm.group_norm, groups=16))
  alone = group_norm(images((2, 1, 1, 16)), jnp.ones(16), bias)
  np.testing.assert_allclose(alone, np.broadcast_to(bias, alone.shape), atol=1e-6)
  x = np.full((2, 4, 4, 3), 7.0, np.float32)
  batch = quick_jit(functools.partial(batch_norm.batch_norm, eps=1e-3, silu=False))
  y, mean, var = batch(x, np.ones(3, np.float32), np.arange(3.0))
  np.testing.assert_allclose(y, np.broadcast_to(np.arange(3.0), x.shape), atol=1e-6)
  assert (float(mean[0]), float(var[0])) == (7.0, 0.0)


def test_statistics_are_float32_in_bf16():
  x = jnp.asarray(images((2, 32, 32, 4)) + 20, jnp.bfloat16)
  group_norm = quick_jit(functools.partial(norm.group_norm, groups=2))
  out = group_norm(x, jnp.ones(4), jnp.zeros(4))
  assert out.dtype == jnp.bfloat16
  exact = group_norm(x.astype(jnp.float32), jnp.ones(4), jnp.zeros(4))
  np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-7, atol=1e-3)


def test_channels_that_do_not_divide():
  with pytest.raises(ValueError, match="6 channels"):
    norm.group_norm(jnp.zeros((1, 2, 6)), jnp.ones(6), jnp.zeros(6), groups=4)


@pytest.mark.parametrize("positions", [1, 31, 37, 74, 999, 1369, 6400])
def test_sums_are_the_sums(positions):
  rng = np.random.default_rng(positions)
  values = rng.normal(3.0, 1.0, (2, 2, positions, 3)).astype(np.float32)
  for form in (cpu.sums, norm.plain_sums):
    for mine, value in zip(quick_jit(form)(*values), values, strict=True):
      np.testing.assert_allclose(mine, value.astype(np.float64).sum(1), rtol=1e-6)


def test_many_values_that_are_equal_do_not_drift():
  ones = jnp.full((1, 160 * 160, 1), 0.1, jnp.float32)
  total, squares, _ = quick_jit(norm.sums)(ones, ones * ones, ones)
  exact = 160 * 160 * np.float64(np.float32(0.1))
  np.testing.assert_allclose(total, exact, rtol=2e-6)
  np.testing.assert_allclose(squares, 160 * 160 * np.float64(np.float32(0.1) ** 2), rtol=2e-6)


def test_derivatives_of_both_orders_are_those_of_a_plain_sum():
  values = [jnp.asarray(images((2, 24, 3), seed)) for seed in (1, 2)]

  def loss(form):
    def of(*given):
      a, b = form(*given)
      return jnp.sum(jnp.sin(a) * b**2)

    return of

  def slope(form):
    def of(*given):
      return jnp.sum(jnp.square(jax.grad(loss(form))(*given)))

    return of

  for make in (loss, slope):
    mine = quick_jit(jax.grad(make(norm.sums), (0, 1)))(*values)
    plain = quick_jit(jax.grad(make(norm.plain_sums), (0, 1)))(*values)
    for a, b in zip(mine, plain, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_the_cpus_program_has_no_windows():
  """What its way is for: a tree of windows is what made sums slow."""
  values = [jax.ShapeDtypeStruct((2, 6400, 16), jnp.float32)] * 2
  text = jax.jit(norm.sums).lower(*values).compile().as_text()
  assert "reduce-window" not in text
