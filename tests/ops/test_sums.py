"""Sums over positions beside NumPy's in float64, on shapes that divide and that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiresmed_jax.ops import sums


def arrays(n, positions, channels, count=2):
  rng = np.random.default_rng(positions)
  values = rng.normal(3.0, 1.0, (count, n, positions, channels))
  return tuple(jnp.asarray(value, jnp.float32) for value in values)


@settings(max_examples=12, deadline=None)
@given(positions=st.sampled_from([1, 2, 31, 32, 37, 64, 74, 999, 1024, 1369, 6400]))
def test_sums_are_the_sums(positions):
  values = arrays(2, positions, 3)
  for form in (sums._in_steps, sums._plain, sums.over_positions):
    for mine, value in zip(jax.jit(form)(*values), values, strict=True):
      np.testing.assert_allclose(mine, np.asarray(value, np.float64).sum(1), rtol=1e-6)


def test_many_values_that_are_equal_do_not_drift():
  ones = jnp.full((1, 160 * 160, 1), 0.1, jnp.float32)
  total, squares, _ = sums.over_positions(ones, ones * ones, ones)
  exact = 160 * 160 * np.float64(np.float32(0.1))
  np.testing.assert_allclose(total, exact, rtol=2e-6)
  np.testing.assert_allclose(squares, 160 * 160 * np.float64(np.float32(0.1) ** 2), rtol=2e-6)


def test_derivatives_of_both_orders_are_those_of_a_plain_sum():
  values = arrays(2, 24, 3)

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
    mine = jax.grad(make(sums.over_positions), (0, 1))(*values)
    plain = jax.grad(make(sums._plain), (0, 1))(*values)
    for a, b in zip(mine, plain, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_the_program_has_no_windows():
  """What this is for: a tree of windows is what made it slow."""
  values = arrays(2, 6400, 16)
  text = jax.jit(sums.over_positions).lower(*values).compile().as_text()
  assert "reduce-window" not in text


@pytest.mark.parametrize("shapes", [[(2, 3, 4)], [(2, 3, 4), (2, 3, 5)], [(2, 3), (2, 3)]], ids=str)
def test_shapes_that_do_not_fit_are_refused(shapes):
  with pytest.raises(ValueError, match="of one shape"):
    sums.over_positions(*(jnp.zeros(shape) for shape in shapes))
