"""Inception and ResNet-50: every layout gives the same variables; what does not fit is named."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax import files
from hiresmed_jax.convert import arrays, inception, resnet
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.features import ResNet50Features
from hiresmed_jax.nets.inception import EPSILON, SIZE, InceptionFeatures
from tests.reference.random_weights import random_arrays, torch_names

TAP = 192  # five layers: small files


@pytest.fixture(scope="module")
def stem():
  return random_arrays(arrays.layout(InceptionFeatures(tap=TAP), SIZE))


def equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_our_names_and_torchs_are_one_network(stem, tmp_path):
  wanted = arrays.variables(stem, arrays.layout(InceptionFeatures(tap=TAP), SIZE), "x")
  assert sum(leaf.size for leaf in jax.tree.leaves(wanted)) == sum(v.size for v in stem.values())
  files.write_npz(tmp_path / "ours.npz", stem)
  extra = {"AuxLogits.fc.weight": np.ones((2, 2), np.float32)}
  extra["Conv2d_1a_3x3.bn.num_batches_tracked"] = np.zeros(1, np.float32)
  safetensors.numpy.save_file(torch_names(stem) | extra, tmp_path / "torch.safetensors")
  for name in ("ours.npz", "torch.safetensors"):
    net = inception.load(tmp_path / name, tap=TAP)
    equal(net.weights, wanted)
    assert net.tap == TAP
  assert "clean-fid" in inception.load(tmp_path / "ours.npz", tap=TAP, how="clean").resize


def test_a_torch_file_is_read(stem, tmp_path):
  torch = pytest.importorskip("torch")
  state = {name: torch.from_numpy(value) for name, value in torch_names(stem).items()}
  torch.save(state, tmp_path / "inception.pth")
  wanted = arrays.variables(stem, arrays.layout(InceptionFeatures(tap=TAP), SIZE), "x")
  equal(inception.load(tmp_path / "inception.pth", tap=TAP).weights, wanted)


def test_every_scope_of_the_folded_graph_has_its_layer(shared):
  path = shared / "weights" / "inception_2015_12_05_bnfolded_conv_to_mixed_8.npz"
  with np.load(path) as archive:
    layers = {name: inception.layer_of(name) for name in archive.files}
    assert None not in layers.values()
    kernels = {layer: archive[name] for name, layer in layers.items() if name.endswith("kernel")}
  expected = arrays.layout(InceptionFeatures(tap=768), SIZE)
  assert set(expected) == {
    f"{layer}/{leaf}"
    for layer in kernels
    if not layer.startswith("Mixed_7a")
    for leaf in ("conv/kernel", "bn/scale", "bn/bias", "bn/mean", "bn/var")
  }
  weights = inception.load(path, tap=768).weights
  norm = weights["params"]["Mixed_6e"]["branch7x7dbl_5"]["bn"]
  variance = weights["batch_stats"]["Mixed_6e"]["branch7x7dbl_5"]["bn"]["var"]
  np.testing.assert_allclose(norm["scale"] / np.sqrt(variance + np.float32(EPSILON)), 1, atol=1e-7)
  with pytest.raises(UserError, match=r"as Inception to 2048 features, lacks Mixed_7[bc]/"):
    inception.load(path, tap=2048)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda a: a.pop("Conv2d_3b_1x1/bn/mean"), "lacks Conv2d_3b_1x1/bn/mean"),
    (lambda a: a.clear(), "and 22 more"),
    (
      lambda a: a.update({"Conv2d_2a_3x3/bn/var": np.ones(3, np.float32)}),
      r"Conv2d_2a_3x3/bn/var is \(3,\), and \(32,\)",
    ),
    (lambda a: a["Conv2d_1a_3x3/conv/kernel"].fill(np.nan), "holds NaN"),
  ],
)
def test_a_file_that_does_not_fit_is_named(stem, tmp_path, change, words):
  broken = {name: value.copy() for name, value in stem.items()}
  change(broken)
  files.write_npz(tmp_path / "broken.npz", broken)
  with pytest.raises(UserError, match=words):
    inception.load(tmp_path / "broken.npz", tap=TAP)


def beginning(last):
  """Ones for every array of the network up to a block."""
  layout = arrays.layout(InceptionFeatures(tap=1008), SIZE)
  return {n: np.ones(s, np.float32) for n, s in layout.items() if n.partition("/")[0] <= last}


@pytest.mark.parametrize(
  ("last", "reached"),
  [("Conv2d_2b_3x3", 64), ("Conv2d_3b_1x1", 64), ("Conv2d_4a_3x3", 192), ("Mixed_6e", 768),
   ("Mixed_7b", 768), ("Mixed_7c", 2048), ("fc", 2048)],
)  # fmt: skip
def test_a_beginning_of_the_network_is_kept_and_reaches_its_tap(last, reached, tmp_path):
  given = beginning(last)
  files.write_npz(tmp_path / "given.npz", given)
  converted = inception.convert([tmp_path / "given.npz"])
  equal(converted, given)
  assert inception.reach(tmp_path / "given.npz") == reached


def test_the_shared_file_converts_to_what_it_was(shared, tmp_path):
  path = shared / "weights" / "inception_2015_12_05_bnfolded_conv_to_mixed_8.npz"
  files.write_npz(inception.cache_path(tmp_path), inception.convert([path]))
  assert inception.reach(path) == inception.reach(inception.cache_path(tmp_path)) == 768
  cached = inception.load_cached(tap=768, how="tf1", folder=tmp_path)
  wanted = inception.load(path, tap=768, how="tf1")
  equal(cached.weights, wanted.weights)
  assert cached[:3] == wanted[:3]
  with pytest.raises(UserError, match=r"reaches 768 features, not 2048: run .* \(FID@768\)"):
    inception.load_cached(folder=tmp_path)
  with pytest.raises(UserError, match="to 1008 features, lacks Mixed_7b"):
    inception.load_cached(tap=1008, folder=tmp_path)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda a: a.pop("Conv2d_3b_1x1/bn/mean"), "lacks Conv2d_3b_1x1/bn/mean"),
    (lambda a: a.clear(), "lacks Conv2d_1a_3x3"),
    (lambda a: a.update({"Mixed_8/conv/kernel": np.ones(3, np.float32)}), "has Mixed_8/conv"),
    (lambda a: a["Conv2d_1a_3x3/conv/kernel"].fill(np.nan), "holds NaN"),
    (lambda a: a.update({"fc/bias": np.ones(1000, np.float32)}), "1,000 classes, not the network"),
  ],
)  # fmt: skip
def test_what_is_not_the_network_is_not_converted(stem, tmp_path, change, words):
  broken = {name: value.copy() for name, value in stem.items()}
  change(broken)
  files.write_npz(tmp_path / "broken.npz", broken)
  with pytest.raises(UserError, match=words):
    inception.convert([tmp_path / "broken.npz"])
  with pytest.raises(UserError, match=words):
    inception.reach(tmp_path / "broken.npz")


def test_without_weights_the_command_is_named(tmp_path):
  with pytest.raises(UserError, match=r"weights fetch inception`.* convert FILE --net inception`"):
    inception.load_cached(folder=tmp_path)
  with pytest.raises(UserError, match="weights convert FILE --net radimagenet`"):
    resnet.load_cached(folder=tmp_path)
  with pytest.raises(UserError, match="no tap of 1280"):
    inception.load_cached(tap=1280, folder=tmp_path)
  for net in (inception, resnet):
    with pytest.raises(UserError, match="one file, not 2"):
      net.convert([tmp_path / "a.npz", tmp_path / "b.npz"])


def test_unknown_taps_and_resizes_are_refused(tmp_path):
  with pytest.raises(UserError, match="no tap of 1280"):
    inception.load(tmp_path / "none.npz", tap=1280)
  with pytest.raises(UserError, match="no resize is called nearest"):
    inception.load(tmp_path / "none.npz", how="nearest")
  with pytest.raises(UserError, match="is not a file"):
    inception.load(tmp_path / "none.npz")


def test_an_array_given_twice_is_refused(stem, tmp_path):
  both = {**torch_names(stem), "Conv2d_1a_3x3/conv/kernel": stem["Conv2d_1a_3x3/conv/kernel"]}
  safetensors.numpy.save_file(both, tmp_path / "both.safetensors")
  with pytest.raises(UserError, match="already given"):
    inception.load(tmp_path / "both.safetensors", tap=TAP)


@pytest.mark.parametrize("how", inception.RESIZES)
def test_grey_is_three_equal_channels_and_8_bits_are_floats(how):
  grey = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 1)).astype(np.uint8)
  found = np.asarray(inception.prepare(grey, how))
  assert found.shape == (1, SIZE, SIZE, 3)
  assert found.min() >= -1 - 1e-6
  assert found.max() <= 1
  np.testing.assert_array_equal(found[..., 0], found[..., 2])
  np.testing.assert_array_equal(found, inception.prepare(grey.astype(np.float32), how))
  with pytest.raises(ValueError, match="1 or 3 channels"):
    inception.prepare(np.zeros((1, 20, 30, 2), np.uint8), how)


def test_resnet_wants_all_its_layers(tmp_path):
  state = torch_names(random_arrays(arrays.layout(ResNet50Features(), 64)))
  del state["layer3.4.conv2.weight"]
  safetensors.numpy.save_file(state, tmp_path / "resnet.safetensors")
  with pytest.raises(UserError, match="lacks layer3_4/conv2/kernel"):
    resnet.load(tmp_path / "resnet.safetensors")
  with pytest.raises(ValueError, match="1 or 3 channels"):
    resnet.prepare(np.zeros((1, 40, 40, 4), np.uint8), monai=False)


@pytest.mark.parametrize("keras", [False, True])
def test_resnet_is_converted_with_its_biases(keras, tmp_path):
  shapes = arrays.layout(ResNet50Features(), 64)
  if keras:
    kernels = [name for name in shapes if name.endswith("kernel")]
    shapes |= {name.replace("kernel", "bias"): shapes[name][-1:] for name in kernels}
  given = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
  file = tmp_path / "resnet.safetensors"
  safetensors.numpy.save_file(torch_names(given), file)
  files.write_npz(resnet.cache_path(tmp_path), resnet.convert([file]))
  cached, wanted = resnet.load_cached(folder=tmp_path), resnet.load(file)
  equal(cached.weights, wanted.weights)
  assert cached[:3] == wanted[:3]
  assert ("MONAI" in cached.resize) == keras
  given["conv9/kernel"] = given.pop("conv1/kernel")
  files.write_npz(tmp_path / "odd.npz", given)
  with pytest.raises(UserError, match="has conv9/kernel, which is not part"):
    resnet.convert([tmp_path / "odd.npz"])
  del given["conv9/kernel"]
  files.write_npz(tmp_path / "odd.npz", given)
  with pytest.raises(UserError, match="lacks conv1/kernel"):
    resnet.convert([tmp_path / "odd.npz"])
