"""The published VQGAN: counts, and values and gradients beside PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.nets import taming
from hiresmed_jax.ops.norm import group_count
from hiresmed_jax.routes import settings
from hiresmed_jax.routes.background import losses
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.runtime.config import load_config
from tests.reference.parity import close, images, quick_jit, random_params

WIDTH, LEVELS = 8, (1, 2)


def count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_counts_of_the_config():
  config = load_config("baselines/vqgan.py")
  settings.check(config, settings.wanted(config))
  nets = background.networks(config.background, channels=3, dtype=jnp.float32)
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  gen, disc = (jax.eval_shape(net.init, jax.random.key(0), x) for net in nets)
  codes = config.background.codebook.num_codes * config.background.net.code_dim
  assert count(gen) + codes == 72_141_699
  assert count(disc) == 2_765_633


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    (
      "net.drop_path_rate",
      0.1,
      r"drop_path_rate=0\.1: background\.net\.skeleton='taming' has 0\.0",
    ),
    ("net.strides", (2, 2, 2, 2, 2), r"strides=\(2, 2, 2, 2, 2\)"),
    ("gan.scales", 2, "background.gan.network='taming' has one"),
    ("codebook.init", "kmeans", "codebook.distance='euclidean' goes with 'random'"),
  ],
)
def test_what_it_lacks_is_refused(key, value, message):
  config = load_config("baselines/vqgan.py")
  group, name = key.split(".")
  config.background[group][name] = value
  with pytest.raises(UserError, match=message):
    settings.check(config, ["background"])


def layers(half: str, blocks: int) -> list[str]:
  """Names of one half in the order of PyTorch's list, which numbers SiLU too."""
  last, middle = len(LEVELS) - 1, ["middle1", "middle_attention", "middle2"]
  names = ["input"] + (middle if half == "up" else [])
  for level in range(len(LEVELS)) if half == "down" else reversed(range(len(LEVELS))):
    names += [f"halve{level}"] if half == "down" and level else []
    for number in range(blocks):
      names += [f"{half}{level}_{number}"]
      names += [f"{half}{level}_{number}_attention"] if level == last else []
    names += [f"double{level}"] if half == "up" and level else []
  return [*names, *(middle if half == "down" else []), "norm", "silu", "output"]


def named(gen) -> dict[str, np.ndarray]:
  """Linen's parameters or their gradients by PyTorch's names, in its layout."""
  net, found = gen["net"], {"codebook": np.asarray(gen["codebook"])}

  def add(name, leaves):
    for leaf, value in leaves.items():
      array = np.asarray(value)
      array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
      found[f"{name}.{'bias' if leaf == 'bias' else 'weight'}"] = array

  add("before", net["encoder"]["latent"])
  add("after", net["decoder"]["code"])
  add("last", net["output"])
  for half, short, blocks in (("encoder", "down", 2), ("decoder", "up", 3)):
    for index, name in enumerate(layers(short, blocks)):
      module = net[half].get(name, {})
      if name.endswith("attention"):
        joint, parts = module["query_key_value"], ("queries", "keys", "values")
        split = [np.split(np.asarray(joint[leaf]), 3, -1) for leaf in ("kernel", "bias")]
        for part, kernel, bias in zip(parts, *split):
          add(f"{half}.{index}.{part}", {"kernel": kernel, "bias": bias})
        add(f"{half}.{index}.norm", module["norm"])
        add(f"{half}.{index}.projection", module["output"])
      elif "conv1" in module:
        for part, leaves in module.items():
          add(f"{half}.{index}.{part}", leaves)
      else:
        add(f"{half}.{index}", module)
  return found


@pytest.mark.slow
def test_outputs_and_all_gradients_are_those_of_pytorch():
  torch = pytest.importorskip("torch")
  from benchmarks.torch_baseline import vqgan

  config = load_config("baselines/vqgan.py").background
  net = taming.VQGAN(1, 1, tuple(WIDTH * level for level in LEVELS), code_dim=2 * WIDTH)
  pixels, cotangent = images((2, 8, 8, 1)), images((2, 8, 8, 1), 7)
  shapes = jax.eval_shape(net.init, jax.random.key(0), pixels)["params"]
  gen = {"net": random_params(shapes), "codebook": images((1024, 2 * WIDTH), 3)}
  # Means over the code too, in the published order.
  config.loss.update({"commitment": 1 / (2 * WIDTH), "codebook": 0.25 / (2 * WIDTH)})
  forward = functools.partial(
    losses.forward, net=net, images=pixels, key=jax.random.key(0), config=config.loss, cosine=False
  )

  def loss(gen):
    (recon, code_loss), aux = forward(gen)
    return (recon * cotangent).sum() + 3 * code_loss, (recon, code_loss, aux["indices"])

  (_, (recon, code_loss, indices)), grads = quick_jit(jax.value_and_grad(loss, has_aux=True))(gen)

  twin = vqgan.taming(1, WIDTH, levels=LEVELS)
  for module in twin.modules():
    if isinstance(module, torch.nn.GroupNorm):
      module.num_groups = group_count(module.num_channels)
  twin.load_state_dict({name: torch.tensor(value) for name, value in named(gen).items()})
  made = twin(torch.tensor(pixels.transpose(0, 3, 1, 2)))
  (
    (made.recon * torch.tensor(cotangent.transpose(0, 3, 1, 2))).sum() + 3 * made.code_loss
  ).backward()
  np.testing.assert_array_equal(indices, made.indices)
  assert len(np.unique(indices)) > 8
  close(recon, made.recon.detach().permute(0, 2, 3, 1).numpy(), 1e-4, "reconstruction")
  assert float(code_loss) == pytest.approx(made.code_loss.item(), rel=1e-5)
  ours, theirs = named(grads), {name: p.grad.numpy() for name, p in twin.named_parameters()}
  assert ours.keys() == theirs.keys()
  floor = 1e-2 * max(np.abs(g).max() for g in theirs.values())
  for name, grad in theirs.items():
    close(ours[name], grad, 1e-4, f"gradient of {name}", floor=floor)


def test_the_players_gradients_are_those_of_pytorch():
  torch = pytest.importorskip("torch")
  from benchmarks.torch_baseline import losses as reference
  from benchmarks.torch_baseline.discriminator import PatchGAN

  disc = taming.PatchGAN((4, 8, 16, 32))
  real, fake = images((2, 32, 32, 1)), images((2, 32, 32, 1), 7)
  params = random_params(jax.eval_shape(disc.init, jax.random.key(0), real)["params"])
  params["head"]["kernel"] *= 9  # beyond 1, where the hinge is
  run = functools.partial(losses.gan_gradients, disc, policy=())
  pixel_grad, grads, scalars = quick_jit(run)(params, fake, real, jax.random.key(0))

  twin = PatchGAN(1, 4)
  order = {"layers.0": "layer0", "layers.11": "head"}
  for n in (1, 2, 3):
    order |= {f"layers.{3 * n - 1}": f"kernel{n}", f"layers.{3 * n}": (f"scale{n}", f"shift{n}")}

  def leaf(tree, name):
    module, kind = name.rsplit(".", 1)
    place = order[module]
    if isinstance(place, tuple):
      return np.asarray(tree[place[kind == "bias"]])
    value = (
      tree[place] if "kernel" in place else tree[place]["bias" if kind == "bias" else "kernel"]
    )
    value = np.asarray(value)
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value

  with torch.no_grad():
    for name, value in twin.named_parameters():
      value.copy_(torch.tensor(leaf(params, name)))
  twin.double()
  x, y = (torch.tensor(a.transpose(0, 3, 1, 2)).double() for a in (real, fake))
  y.requires_grad_()
  fooled = reference.hinge_generator(twin(y)).mean()
  (expected,) = torch.autograd.grad(fooled, y)
  told = reference.hinge_discriminator(twin(x), twin(y.detach())).mean()
  told.backward()
  assert float(scalars["gan_generator"]) == pytest.approx(fooled.item(), rel=1e-4)
  assert float(scalars["gan_discriminator"]) == pytest.approx(told.item(), rel=1e-4)
  close(pixel_grad, expected.permute(0, 2, 3, 1).numpy(), 1e-4, "pixels")
  for name, value in twin.named_parameters():
    close(leaf(grads, name), value.grad.numpy(), 1e-4, name)
