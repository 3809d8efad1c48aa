"""YOLO11 beside the published package: parameter counts, every layer, every gradient."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.convert import yolo as convert
from hiresmed_jax.nets import yolo
from tests.reference.parity import close, quick_jit

FIXED = 16  # the published models count the numbers of the bins, which nobody trains


def parameters(net: yolo.Yolo11, channels: int = 3) -> int:
  image = jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
  ("size", "classes", "channels", "count"),
  [
    ("n", 80, 3, 2_624_080),
    ("n", 1, 1, 2_589_747),
    ("s", 1, 3, 9_428_179),
    ("m", 80, 3, 20_114_688),
  ],
)
def test_parameters(size, classes, channels, count):
  net = yolo.Yolo11(classes, **yolo.SIZES[size])
  assert parameters(net, channels) + FIXED == count


def test_a_level_of_stride_4_costs_little():
  more = parameters(yolo.Yolo11(1, p2=True), 1) - parameters(yolo.Yolo11(1), 1)
  assert 0 < more < 150_000
  maps = jax.eval_shape(
    lambda x: yolo.Yolo11(1, p2=True).init_with_output(jax.random.key(0), x)[0],
    jax.ShapeDtypeStruct((1, 64, 96, 1), np.float32),
  )
  assert [level.boxes.shape[1:3] for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_sides_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="32"):
    jax.eval_shape(yolo.Yolo11().init, jax.random.key(0), jnp.zeros((1, 60, 64, 1)))


def image(shape, seed=1):
  return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize(("near", "strides"), [(0.0, 15.0), (1.0, 1.164), (3.0, 0.10479)])
def test_boxes_begin_as_wide_as_said(near, strides):
  head = yolo.Head(1, 64, 16, 8, near=near)
  init = quick_jit(head.init_with_output, static_argnums=2)
  level, variables = init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)), False)
  boxes, _ = yolo.decode([level], [8])  # of features that are zero: the biases alone
  np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], 8 * strides, rtol=1e-3)
  np.testing.assert_allclose(variables["params"]["class"]["bias"], np.log(5 / 80**2), rtol=1e-6)


@functools.cache
def theirs(size):
  reference = pytest.importorskip("tests.reference.ultralytics_cpu")
  net = reference.network(size, classes=3)
  _tame(reference.torch, net)
  return reference, net


def _tame(torch, net):
  """Scales the last convolutions so that logits are some units: of random weights they are 1e5, and
  a softmax of such is a jump, which shows nothing when it agrees and nothing when it does not."""
  found = {}
  last = [branch[-1] for part in (net.model[-1].cv2, net.model[-1].cv3) for branch in part]
  hooks = [
    conv.register_forward_hook(lambda module, _, out: found.update({module: out})) for conv in last
  ]
  with torch.no_grad():
    net(torch.tensor(image((2, 64, 96, 3))).permute(0, 3, 1, 2))
    for conv in last:
      factor = 3 / found[conv].std()
      conv.weight.mul_(factor)
      conv.bias.mul_(factor)
  for hook in hooks:
    hook.remove()


@functools.cache
def ours(size, path):
  reference, net = theirs(size)
  reference.save(net, path)
  return convert.load(path, yolo.Yolo11(3, **yolo.SIZES[size]), channels=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("yolo")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["n", "s", "m"])
def test_every_layer_and_the_boxes_are_the_published(folder, size):
  reference, twin = theirs(size)
  net, variables = yolo.Yolo11(3, **yolo.SIZES[size]), ours(size, folder / f"{size}.safetensors")
  x = image((2, 64, 96, 3))

  @quick_jit
  def run(variables, x):
    levels, kept = net.apply(variables, x, capture_intermediates=True, mutable="intermediates")
    return levels, yolo.decode(levels, net.strides), kept["intermediates"]

  levels, (boxes, classes), kept = run(variables, x)
  named = {
    name.removesuffix("/__call__"): value[0]
    for name, value in flax.traverse_util.flatten_dict(kept, sep="/").items()
  }
  seen = {}
  hooks = [
    module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    for name, module in twin.named_modules()
  ]
  with reference.torch.no_grad():
    decoded, _ = twin(reference.torch.tensor(x).permute(0, 3, 1, 2))
  for hook in hooks:
    hook.remove()

  compared = 0
  for name, value in seen.items():
    mine = convert.our_name(f"{name}.weight")
    mine = mine and mine.removesuffix("/kernel")
    if mine in named and isinstance(value, reference.torch.Tensor) and not name.endswith(".conv"):
      close(named[mine], value.permute(0, 2, 3, 1).numpy(), 1e-4, name)
      compared += 1
  assert compared > 80
  assert len(levels) == 3
  wanted = decoded.permute(0, 2, 1).numpy()  # cx, cy, w, h, scores
  centre, size_ = wanted[..., :2], wanted[..., 2:4]
  corners = np.concatenate([centre - size_ / 2, centre + size_ / 2], -1)
  close(boxes, corners, 1e-4, "boxes")
  close(jax.nn.sigmoid(classes), wanted[..., 4:], 1e-4, "scores")


@pytest.mark.slow
def test_a_training_step_is_the_published(folder):
  """Logits, gradients of every parameter and running statistics, normalised by the batch."""
  reference, twin = theirs("n")
  net, variables = yolo.Yolo11(3), ours("n", folder / "n.safetensors")
  x = image((3, 64, 64, 3), 2)

  def loss(params, x):
    state = {"params": params, "batch_stats": variables["batch_stats"]}
    levels, moved = net.apply(state, x, train=True, mutable="batch_stats")
    flat = yolo.flatten(levels, net.strides)
    bins = flat.bins.reshape(*flat.bins.shape[:2], -1)
    weights = image(bins.shape, 3) - 0.5, image(flat.classes.shape, 4) - 0.5
    total = jnp.sum(bins * weights[0]) + jnp.sum(flat.classes * weights[1])
    return total, (bins, flat.classes, moved["batch_stats"])

  value = quick_jit(jax.value_and_grad(loss, has_aux=True))
  (_, (bins, classes, moved)), grads = value(variables["params"], x)

  twin.double().train()
  out = twin(reference.torch.tensor(x).permute(0, 3, 1, 2).double())
  their_bins, their_classes = (out[key].permute(0, 2, 1) for key in ("boxes", "scores"))
  close(bins, their_bins.detach().numpy(), 1e-4, "box logits")
  close(classes, their_classes.detach().numpy(), 1e-4, "class logits")
  weights = image(bins.shape, 3) - 0.5, image(classes.shape, 4) - 0.5
  total = sum((a * reference.torch.tensor(b)).sum() for a, b in
              zip((their_bins, their_classes), weights))  # fmt: skip
  total.backward()
  flat_grads = flax.traverse_util.flatten_dict(grads, sep="/")
  flat_moved = flax.traverse_util.flatten_dict(moved, sep="/")
  expected = {
    convert.our_name(name): convert.arrays.in_our_order(p.grad.numpy())
    for name, p in twin.named_parameters()
    if p.grad is not None
  }
  assert expected.keys() == flat_grads.keys()
  floor = 1e-2 * max(np.abs(grad).max() for grad in expected.values())
  for name, grad in expected.items():
    close(flat_grads[name], grad, 1e-3, f"gradient of {name}", floor=floor)
  for name, value in twin.named_buffers():
    if "running" in name:
      mine = convert.our_name(name)
      close(flat_moved[mine], value.numpy().astype(np.float32), 1e-4, name)
  theirs.cache_clear()  # it has been changed


def trained(block):
  return lambda variables, x: block.apply(variables, x, True, mutable="batch_stats")


@pytest.mark.slow
def test_bfloat16_stays_near():
  x = image((4, 8, 8, 128)) - 0.5
  for block in (yolo.C3k2, yolo.PartialAttention):
    sizes = {"features": 128} if block is yolo.C3k2 else {}
    one, other = (block(**sizes, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = quick_jit(one.init, static_argnums=2)(jax.random.key(0), x, True)
    exact, _ = quick_jit(trained(one))(variables, x)
    found, moved = quick_jit(trained(other))(variables, x)
    assert found.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype("float32")}
    found = np.asarray(found, np.float32)
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.03 * np.std(exact)
