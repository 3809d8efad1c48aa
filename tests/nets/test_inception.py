"""Parameter counts, pytorch-fid on random weights, and the features of the real network."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax.convert import arrays, inception
from hiresmed_jax.nets.inception import SIZE, InceptionFeatures
from tests.reference.random_weights import random_arrays, torch_names


def test_parameters_with_and_without_the_head():
  for tap, wanted in ((1008, 23_850_960), (2048, 21_785_568)):
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.float32)
    variables = jax.eval_shape(InceptionFeatures(tap=tap).init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == wanted


def test_an_unknown_tap_is_refused():
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.float32)
  with pytest.raises(ValueError, match="no tap of 1280"):
    jax.eval_shape(InceptionFeatures(tap=1280).init, jax.random.key(0), image)


@pytest.mark.slow
def test_features_are_pytorch_fids_on_random_weights(tmp_path, monkeypatch):
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  tv.import_torchvision()
  reference = pytest.importorskip("pytorch_fid.inception")
  given = random_arrays(arrays.layout(InceptionFeatures(tap=1008), SIZE))
  state = torch_names(given)
  tensors = {name: tv.torch.from_numpy(value) for name, value in state.items()}
  monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *args, **kwargs: tensors)
  # The counters of batch norms are not part of what we write.
  strict = tv.torch.nn.Module.load_state_dict
  monkeypatch.setattr(
    tv.torch.nn.Module, "load_state_dict", lambda self, s: strict(self, s, strict=False)
  )
  network = reference.InceptionV3([0, 1, 2, 3]).eval()
  images = np.random.default_rng(1).integers(0, 256, (2, 80, 72, 3)).astype(np.uint8)
  with tv.torch.no_grad():
    given = tv.torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    wanted = [tap.mean(dim=(2, 3)).numpy() for tap in network(given)]

  path = tmp_path / "inception.safetensors"
  safetensors.numpy.save_file(state, path)
  nets = [inception.load(path, tap=tap) for tap in (64, 192, 768, 2048)]

  @jax.jit
  def features(images):
    return [net.features(net.weights, images) for net in nets]

  for found, expected, net in zip(features(images), wanted, nets, strict=True):
    assert expected.std() > 1e-3
    assert found.shape == (2, net.tap)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_the_real_network_gives_the_reference_features(shared):
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:64, :64]
  v, u = np.mgrid[:299, :299]
  waves = [
    np.floor(127.5 + 127 * np.sin(u / 9.0) * np.cos(v / 13.0)),
    np.floor(127.5 + 127 * np.sin((u + 2 * v) / 17.0)),
    (u * v) % 256,
  ]
  small = [
    rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
    np.stack([x * 4, y * 4, (x + y) * 2], -1).astype(np.uint8),
  ]
  folder = shared / "weights"
  path = folder / "inception_2015_12_05_bnfolded_conv_to_mixed_8.npz"
  wanted = np.load(folder / "inception_reference_features.npz")
  resized = json.loads((folder / "inception_reference_outputs.json").read_text())["images"]["A"]
  nets = [inception.load(path, tap=tap, how="tf1") for tap in (64, 192, 768)]
  # All three at the network's own size, so that one program serves.
  fed = np.concatenate(
    [
      inception.prepare(np.stack(small), "tf1"),
      inception.prepare(np.stack(waves, -1).astype(np.uint8)[None], "tf1"),
    ]
  )
  row = (fed[0, 17, 101] * 128 + 128).tolist()
  assert row == pytest.approx(resized["resized_at_[17,101,:]"], abs=1e-3)

  @jax.jit
  def features(fed):
    return [InceptionFeatures(tap=net.tap).apply(net.weights, fed) for net in nets]

  for net, found in zip(nets, features(fed), strict=True):
    for name, vector in zip(("A", "G", "S299"), found, strict=True):
      expected = wanted[f"{name}_{net.tap}"]
      np.testing.assert_allclose(vector, expected, atol=1e-4 * np.abs(expected).max())
