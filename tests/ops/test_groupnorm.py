import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hiresmed_jax.ops.groupnorm import group_count, group_norm
from tests.reference.parity import close, images, quick_jit


def test_group_count_is_the_largest_divisor_up_to_32():
  assert [group_count(c) for c in (1, 5, 8, 32, 48, 64, 96, 100, 37, 74)] == [
    1, 5, 8, 32, 24, 32, 32, 25, 1, 2
  ]  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 6, 5, 8), (2, 7, 12), (2, 1, 1, 16)])
@pytest.mark.parametrize(("offset", "silu"), [(0.0, True), (300.0, False)])
def test_equals_torch(shape, offset, silu):
  channels = shape[-1]
  # Channels of unlike means, so that the variance between the channels of a group counts too.
  x = images(shape) + np.float32(offset) + np.arange(channels, dtype=np.float32)
  scale, bias = 1 + images((channels,), 2), images((channels,), 3)
  cotangent = images(shape, 4)

  def loss(x, scale, bias):
    out = group_norm(x, scale, bias, groups=4, silu=silu)
    return (out * cotangent).sum(), out

  grads, out = quick_jit(jax.grad(loss, (0, 1, 2), has_aux=True))(x, scale, bias)

  tensors = [torch.tensor(a, dtype=torch.float64) for a in (x, scale, bias)]
  for tensor in tensors:
    tensor.requires_grad_()
  last_first = torch.nn.functional.group_norm(tensors[0].movedim(-1, 1), 4, *tensors[1:], eps=1e-6)
  expected = last_first.movedim(1, -1)
  expected = torch.nn.functional.silu(expected) if silu else expected
  (expected * torch.tensor(cotangent)).sum().backward()
  close(out, expected.detach().numpy(), 5e-5, "output")
  for ours, theirs, name in zip(grads, tensors, ("x", "scale", "bias"), strict=True):
    close(ours, theirs.grad.numpy(), 2e-4, name)


def test_statistics_are_float32_in_bf16():
  x = jnp.asarray(images((2, 32, 32, 4)) + 20, jnp.bfloat16)
  out = group_norm(x, jnp.ones(4), jnp.zeros(4), groups=2)
  assert out.dtype == jnp.bfloat16
  exact = group_norm(x.astype(jnp.float32), jnp.ones(4), jnp.zeros(4), groups=2)
  np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-7, atol=1e-3)


def test_channels_that_do_not_divide():
  with pytest.raises(ValueError, match="6 channels"):
    group_norm(jnp.zeros((1, 2, 6)), jnp.ones(6), jnp.zeros(6), groups=4)
