"""Inception and ResNet-50: every layout gives the same variables; what does not fit is named."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax.convert import arrays, frozen, inception, resnet
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.inception import EPSILON, SIZE, InceptionFeatures
from hiresmed_jax.nets.resnet import ResNet50Features
from tests.reference.random_weights import random_arrays, torch_names

TAP = 192  # five layers: small files


@pytest.fixture(scope="module")
def stem():
  return random_arrays(frozen.layout(InceptionFeatures(tap=TAP), SIZE))


def equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_our_names_and_torchs_are_one_network(stem, tmp_path):
  wanted = frozen.variables(stem, frozen.layout(InceptionFeatures(tap=TAP), SIZE), "x")
  assert sum(leaf.size for leaf in jax.tree.leaves(wanted)) == sum(v.size for v in stem.values())
  arrays.write_npz(tmp_path / "ours.npz", stem)
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
  wanted = frozen.variables(stem, frozen.layout(InceptionFeatures(tap=TAP), SIZE), "x")
  equal(inception.load(tmp_path / "inception.pth", tap=TAP).weights, wanted)


def test_every_scope_of_the_folded_graph_has_its_layer(shared):
  path = shared / "weights" / "inception_2015_12_05_bnfolded_conv_to_mixed_8.npz"
  with np.load(path) as archive:
    layers = {name: inception.layer_of(name) for name in archive.files}
    assert None not in layers.values()
    kernels = {layer: archive[name] for name, layer in layers.items() if name.endswith("kernel")}
  expected = frozen.layout(InceptionFeatures(tap=768), SIZE)
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
  arrays.write_npz(tmp_path / "broken.npz", broken)
  with pytest.raises(UserError, match=words):
    inception.load(tmp_path / "broken.npz", tap=TAP)


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
  state = torch_names(random_arrays(frozen.layout(ResNet50Features(), 64)))
  del state["layer3.4.conv2.weight"]
  safetensors.numpy.save_file(state, tmp_path / "resnet.safetensors")
  with pytest.raises(UserError, match="lacks layer3_4/conv2/kernel"):
    resnet.load(tmp_path / "resnet.safetensors")
  with pytest.raises(ValueError, match="1 or 3 channels"):
    resnet.prepare(np.zeros((1, 40, 40, 4), np.uint8), monai=False)
