"""U-Net beside one made of PyTorch's layers: counts, outputs, gradients, running statistics."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.nets.unet import UNet
from tests.reference.parity import close, images, quick_jit


def parameters(net, channels):
  image = jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(("channels", "classes", "count"), [(3, 2, 31_037_698), (1, 1, 31_036_481)])
def test_parameters(channels, classes, count):
  assert parameters(UNet(classes), channels) == count


def test_sides_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="divide by 16"):
    jax.eval_shape(UNet().init, jax.random.key(0), jnp.zeros((1, 32, 40, 1)))


def drawn(shapes, seed=0):
  """No bias is 0, no scale and no variance 1, kernels keep the size of what passes."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name, noise = path[-1].key, rng.standard_normal(leaf.shape)
    if name == "kernel":
      return (noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)
    if name in ("scale", "var"):
      return rng.uniform(0.7, 1.3, leaf.shape).astype(np.float32)
    return (0.3 * noise).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.slow
def test_outputs_gradients_and_statistics_are_those_of_pytorch():
  torch = pytest.importorskip("torch")
  from tests.reference import unet as reference

  net, x = UNet(num_classes=2, width=4), images((2, 32, 48, 3))
  variables = drawn(jax.eval_shape(net.init, jax.random.key(0), x))
  twin = reference.UNet(3, 2, width=4)
  named = {
    reference.torch_name(path): torch.tensor(np.ascontiguousarray(reference.torch_array(path, v)))
    for part in variables.values()
    for path, v in flat(part).items()
  }
  counters = {name for name in twin.state_dict() if name.endswith("num_batches_tracked")}
  assert named.keys() | counters == twin.state_dict().keys()
  twin.load_state_dict(named, strict=False)
  twin.double().eval()
  x_torch = torch.tensor(x.transpose(0, 3, 1, 2)).double().requires_grad_()

  quiet = quick_jit(net.apply)(variables, x)
  assert quiet.dtype == jnp.float32
  expected = twin(x_torch).permute(0, 2, 3, 1)
  close(quiet, expected.detach().numpy(), 1e-4, "logits with the running statistics")

  weights = images(expected.shape, 7)

  def loss(params, x):
    both = {"params": params, "batch_stats": variables["batch_stats"]}
    logits, moved = net.apply(both, x, train=True, mutable="batch_stats")
    return jnp.sum(logits * weights), (logits, moved["batch_stats"])

  value = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, (logits, moved)), (grads, x_grad) = value(variables["params"], x)
  twin.train()
  expected = twin(x_torch).permute(0, 2, 3, 1)
  close(logits, expected.detach().numpy(), 1e-4, "logits normalised by the batch")
  (expected * torch.tensor(weights)).sum().backward()
  close(x_grad, x_torch.grad.permute(0, 2, 3, 1).numpy(), 1e-4, "gradient of the images")
  theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
  floor = 1e-2 * max(np.abs(grad).max() for grad in theirs.values())
  grads = flat(grads)
  assert len(grads) == len(theirs)
  for path, grad in grads.items():
    mine = reference.torch_array(path, np.asarray(grad))
    close(mine, theirs[reference.torch_name(path)], 1e-4, f"gradient of {path}", floor=floor)
  buffers = dict(twin.named_buffers())
  for path, value in flat(moved).items():
    close(value, buffers[reference.torch_name(path)].numpy(), 1e-4, path)


def test_bfloat16_stays_near():
  x = images((2, 32, 32, 1))
  one, other = (UNet(width=8, depth=2, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
  variables = drawn(jax.eval_shape(one.init, jax.random.key(0), x))
  exact, found = (quick_jit(net.apply)(variables, x) for net in (one, other))
  assert found.dtype == jnp.float32
  error = np.sqrt(np.mean(np.square(found - exact)))
  assert error < 0.05 * np.std(exact)
