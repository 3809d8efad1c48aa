import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.ops import head
from tests.reference.parity import close, images, quick_jit


def outputs_and_gradients(form, x):
  kernel, bias = images((3, 3, 5, 3), 1) / 8, images((3,), 2)
  cotangent = jnp.asarray(images((2, 6, 7, 3), 3), jnp.bfloat16).astype(jnp.float32)

  def run(x, kernel, bias):
    out, back = jax.vjp(form, x, kernel, bias)
    return out, *back(cotangent)

  return quick_jit(run)(x, kernel, bias)


@pytest.mark.parametrize("way", ["cpu", "accelerator"])
def test_products_and_sums_are_float32_whatever_is_read(way, monkeypatch):
  x = jnp.asarray(images((2, 6, 7, 5)), jnp.bfloat16)
  wanted = outputs_and_gradients(head.wide_conv, x.astype(jnp.float32))
  if way == "accelerator":
    monkeypatch.setattr(head, "wide_conv", head.shifted_products)
  found = outputs_and_gradients(head.head, x)
  assert found[0].dtype == jnp.float32
  for mine, exact, within in zip(found, wanted, (1e-6, 5e-3, 5e-3, 1e-6), strict=True):
    close(mine.astype(jnp.float32), exact, within, "head")


def test_in_float32_the_gradients_are_float32_too():
  x = jnp.asarray(images((2, 6, 7, 5)))
  pairs = zip(outputs_and_gradients(head.head, x), outputs_and_gradients(head.wide_conv, x))
  for mine, exact in pairs:
    np.testing.assert_allclose(mine, exact, rtol=1e-5, atol=1e-5)
