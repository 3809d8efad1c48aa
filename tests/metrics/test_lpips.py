import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax import files
from hiresmed_jax.convert import features as published
from hiresmed_jax.metrics import lpips
from hiresmed_jax.runtime import mesh as meshes

NETS = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}
SHARED_FILES = {"alexnet": "lpips_alex_v0.1.npz", "squeezenet": "lpips_squeeze_v0.1.npz"}
PAIRS = {
  "noise_A_vs_noise_B_64": ("A", "B"),
  "grad_G_vs_gradnoise_H_64": ("G", "H"),
  "odd_P_vs_roll3_Q_75x101": ("P", "Q"),
  "identical_A_A": ("A", "A"),
}


def reference_images():
  """The images that the reference outputs were taken on, in [-1, 1]."""
  rng = np.random.default_rng(0)
  a = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
  b = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
  y, x = np.mgrid[0:64, 0:64]
  g = np.stack([x * 4, y * 4, (x + y) * 2], -1).astype(np.uint8)
  noise = np.rint(rng.normal(0, 16, g.shape)).astype(np.int64)
  h = np.clip(g.astype(np.int64) + noise, 0, 255).astype(np.uint8)
  y, x = np.mgrid[0:75, 0:101]
  p = np.stack([x * 2, y * 3, x + y], -1).astype(np.uint8)
  return {"A": a, "B": b, "G": g, "H": h, "P": p, "Q": np.roll(p, 3, 1)}


def m11(image):
  return image[None].astype(np.float32) / 127.5 - 1


def random_distance(tmp_path, net, **options):
  """Our distance on the weights of an LPIPS network with a random trunk, by way of a file."""
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  reference = tv.lpips_network(NETS[net])
  checkpoint = tmp_path / "whole.pth"
  tv.torch.save(reference.state_dict(), checkpoint)
  files.write_npz(published.cache_path(net, tmp_path), published.convert([checkpoint], net))
  return published.load_perceptual(net, folder=tmp_path, **options), reference, tv.torch


@pytest.mark.parametrize("net", SHARED_FILES)
def test_equals_the_published_reference_outputs(net, shared, tmp_path):
  recorded = json.loads((shared / "weights/lpips_reference_outputs.json").read_text())
  inputs = reference_images()
  for name, image in inputs.items():
    assert int(image.astype(np.int64).sum()) == recorded["input_checksums"][name]["sum"]
  converted = published.convert([shared / "weights" / SHARED_FILES[net]], net)
  files.write_npz(published.cache_path(net, tmp_path), converted)
  distance, weights = published.load_perceptual(net, folder=tmp_path)
  trunk = published.TRUNKS[net]()

  @jax.jit
  def both(a, b):
    taps = lambda x: trunk.apply({"params": weights["trunk"]}, x)  # noqa: E731
    return distance(weights, a, b), lpips.tap_distances(taps, weights["heads"], a, b)

  for name, (a, b) in PAIRS.items():
    wanted = recorded["lpips"][NETS[net]][name]
    value, summands = both(m11(inputs[a]), m11(inputs[b]))
    np.testing.assert_allclose(value, [wanted["value"]], atol=1e-5)
    np.testing.assert_allclose(summands[0], wanted["per_layer"], atol=1e-5)


@pytest.mark.parametrize(
  "net", [pytest.param(net, marks=[pytest.mark.slow] * (net == "vgg16")) for net in NETS]
)
def test_equals_the_lpips_package_in_value_and_gradient(net, tmp_path):
  (distance, weights), reference, torch = random_distance(tmp_path, net)
  rng = np.random.default_rng(5)
  target = rng.uniform(-1, 1, (5, 33, 38, 3)).astype(np.float32)
  cotangent = np.array([1.0, -2.0, 0.5, 3.0, -1.0], np.float32)
  image = np.clip(target + rng.normal(0, 0.3, target.shape), -1, 1).astype(np.float32)
  wanted_image = torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True)
  wanted = reference(wanted_image, torch.tensor(target.transpose(0, 3, 1, 2)))
  (wanted * torch.tensor(cotangent).reshape(5, 1, 1, 1)).sum().backward()
  gradient = wanted_image.grad.permute(0, 2, 3, 1).numpy()

  @jax.jit
  def value_and_slope(weights, x, cotangent):
    values, pullback = jax.vjp(lambda x: distance(weights, x, target), x)
    return values, pullback(cotangent)[0]

  values, ours = value_and_slope(weights, image, cotangent)
  assert values.shape == (5,)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, wanted.detach().numpy().ravel(), rtol=1e-4)
  error = np.linalg.norm((ours - gradient).reshape(5, -1), axis=1)
  error /= np.linalg.norm(gradient.reshape(5, -1), axis=1)
  assert np.median(error) < 1e-4
  # One activation in 10^6 is so near 0 that rounding decides on which side of its ReLU it falls:
  # the gradient then differs over one receptive field, and neither side is wrong.
  assert error.max() < 0.1


def toy_taps(x):
  """A trunk small enough for every kind of test: two taps, far from where unit vectors jump."""
  first = jnp.concatenate([jnp.exp(x), x * x + 0.5, 2 - x], -1)
  return first, first[:, ::2, ::2] ** 2


@jax.jit
def toy_distance(weights, images, targets):
  return lpips.lpips(lambda x: toy_taps(x * weights["gain"]), weights["heads"], images, targets)


TOY = {"gain": jnp.float32(0.9), "heads": [jnp.array([0.2, 0.5, 0.3]), jnp.array([1.0, 0.1, 0.4])]}


def toy_images(seed, count):
  return np.random.default_rng(seed).uniform(-1, 1, (count, 8, 6, 1)).astype(np.float32)


def test_silent_positions_have_no_gradient_instead_of_nan():
  image, target = toy_images(0, 1), toy_images(1, 1)

  @jax.jit
  def slope(x, threshold):
    taps = lambda x: (jax.nn.relu(x - threshold),)  # noqa: E731
    return jax.grad(lambda x: lpips.lpips(taps, [jnp.ones(1)], x, target).sum())(x)

  np.testing.assert_array_equal(slope(image, 2.0), np.zeros_like(image))  # silent everywhere
  assert np.isfinite(slope(image, 0.0)).all()  # silent here and there


def test_targets_get_no_gradient_and_the_distance_is_symmetric():
  a, b = toy_images(2, 3), toy_images(3, 3)
  np.testing.assert_allclose(toy_distance(TOY, a, b), toy_distance(TOY, b, a), rtol=1e-6)
  slope = jax.grad(lambda y: toy_distance(TOY, a, y).sum())(b)
  np.testing.assert_array_equal(slope, np.zeros_like(b))


def test_wrong_shapes_and_missing_heads_are_refused():
  with pytest.raises(ValueError, match="targets"):
    toy_distance(TOY, toy_images(0, 2), toy_images(0, 3))
  with pytest.raises(ValueError, match="zip"):
    lpips.lpips(toy_taps, TOY["heads"][:1], toy_images(0, 1), toy_images(1, 1))


@pytest.mark.parametrize("at_once", [1, 2, 4, 8, 100])
def test_parts_change_nothing_but_the_memory(at_once):
  a, b = toy_images(4, 8), toy_images(5, 8)
  scale = jnp.arange(1.0, 9.0)
  parts = lpips.in_parts(toy_distance, at_once=at_once)

  def total(distance, x):
    return jnp.sum(scale * distance(TOY, x, b))

  np.testing.assert_allclose(parts(TOY, a, b), toy_distance(TOY, a, b), rtol=1e-6)
  value, slope = jax.value_and_grad(lambda x: total(parts, x))(a)
  wanted, wanted_slope = jax.value_and_grad(lambda x: total(toy_distance, x))(a)
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  np.testing.assert_allclose(slope, wanted_slope, rtol=1e-5, atol=1e-7)


def test_parts_must_divide_the_batch():
  parts = lpips.in_parts(toy_distance, at_once=3)
  with pytest.raises(ValueError, match="3 examples at once do not divide a batch of 8"):
    jax.grad(lambda x: parts(TOY, x, toy_images(5, 8)).sum())(toy_images(4, 8))


def test_parts_leave_a_batch_on_its_devices():
  mesh = meshes.make_mesh()
  assert mesh.size == 8
  sharding = meshes.batch_sharding(mesh)
  a, b = (jax.device_put(toy_images(seed, 16), sharding) for seed in (6, 7))
  parts = lpips.in_parts(toy_distance, at_once=8)
  slope_fn = jax.jit(
    jax.grad(lambda x, y: parts(TOY, x, y).sum()),
    in_shardings=(sharding, sharding),
    out_shardings=sharding,
  )
  program = slope_fn.lower(a, b).compile().as_text() or ""
  assert "while" in program
  moves = ("all-gather", "all-to-all", "collective-permute", "all-reduce")
  assert not [word for word in moves if word in program]
  wanted = jax.grad(lambda x: toy_distance(TOY, x, np.asarray(b)).sum())(np.asarray(a))
  np.testing.assert_allclose(slope_fn(a, b), wanted, rtol=1e-5, atol=1e-7)


def test_parts_need_the_memory_of_one_part():
  x = jax.ShapeDtypeStruct((8, 128, 128, 1), jnp.float32)

  def memory(distance):
    slope = jax.jit(jax.grad(lambda a, b: distance(TOY, a, b).sum()))
    analysis = slope.lower(x, x).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes

  assert memory(lpips.in_parts(toy_distance, at_once=1)) < memory(toy_distance) / 4
