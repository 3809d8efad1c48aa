import jax
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax import files
from hiresmed_jax.convert import arrays, features
from hiresmed_jax.errors import UserError

NETS = ("vgg16", "alexnet", "squeezenet")
NET = "squeezenet"  # the smallest


def random_arrays(net, seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: rng.standard_normal(shape, dtype=np.float32) * 0.05
    for name, shape in features.layout(net).items()
  }


def torch_names(ours, net):
  """The same numbers under torchvision's names and the heads' names, in torch's order."""
  positions = {module: index for index, module in features.LAYERS[net].items()}
  trunk, heads = {}, {}
  for name, value in ours.items():
    if name.startswith("lin"):
      heads[f"{name}.model.1.weight"] = value.reshape(1, -1, 1, 1)
      continue
    module, *inner, kind = name.split("/")
    key = ".".join(["features", str(positions[module]), *inner])
    if kind == "kernel":
      trunk[f"{key}.weight"] = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    else:
      trunk[f"{key}.bias"] = value
  return trunk, heads


def all_equal(found, wanted):
  assert list(found) == list(wanted)
  for name, value in wanted.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("net", NETS)
def test_trunk_and_heads_become_one_network_key_by_key(net, tmp_path):
  ours = random_arrays(net)
  trunk, heads = torch_names(ours, net)
  trunk |= {"classifier.1.weight": np.ones((10, 512, 1, 1), np.float32)}
  safetensors.numpy.save_file(trunk, tmp_path / "trunk.safetensors")
  files.write_npz(tmp_path / "heads.npz", heads)
  paths = [tmp_path / "heads.npz", tmp_path / "trunk.safetensors"]
  all_equal(features.convert(paths, net), ours)

  files.write_npz(features.cache_path(net, tmp_path), ours)
  all_equal(features.convert([features.cache_path(net, tmp_path)], net), ours)

  # What the distance computes with is the file, all of it: nothing is left as it was initialised.
  _, weights = features.load_perceptual(net, folder=tmp_path)
  initial = jax.eval_shape(
    features.TRUNKS[net]().init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)
  )["params"]
  jax.tree.map(lambda *_: None, weights["trunk"], initial)  # raises where the two trees differ
  for path, leaf in jax.tree.leaves_with_path(weights["trunk"]):
    np.testing.assert_array_equal(leaf, ours["/".join(key.key for key in path)])
  for index, head in enumerate(weights["heads"]):
    np.testing.assert_array_equal(head, ours[f"lin{index}"])
  assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == sum(v.size for v in ours.values())


@pytest.mark.parametrize("net", NETS)
def test_published_torch_files_convert(net, tmp_path):
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  short = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}[net]
  state = tv.lpips_network(short).state_dict()
  trunk = {}
  for name, tensor in state.items():
    if name.startswith("net."):
      trunk["features." + name.split(".", 2)[2]] = tensor
  tv.torch.save(trunk, tmp_path / "trunk.pth")
  heads = tv.heads_file(short)
  converted = features.convert([tmp_path / "trunk.pth", heads], net)
  lins = [converted[name] for name in converted if name.startswith("lin")]
  for index, value in enumerate(lins):
    np.testing.assert_array_equal(value, state[f"lin{index}.model.1.weight"].numpy().ravel())
    assert value.min() >= 0
  tv.torch.save(state, tmp_path / "whole.pth")
  all_equal(features.convert([tmp_path / "whole.pth"], net), converted)


def test_the_shared_complete_files_convert_as_they_are(shared, tmp_path):
  for net, name in (("alexnet", "alex"), ("squeezenet", "squeeze")):
    path = shared / "weights" / f"lpips_{name}_v0.1.npz"
    with np.load(path) as archive:
      wanted = {key: archive[key] for key in archive.files}
    found = features.convert([path], net)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
      np.testing.assert_array_equal(found[key], value)
  part = shared / "weights" / "vgg16_conv1_conv2_and_lpips_lin.npz"
  with pytest.raises(UserError, match="as vgg16, lacks conv3_1"):
    features.convert([part], "vgg16")


def broken(change):
  ours = random_arrays(NET)
  change(ours)
  return ours


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda a: a.pop("fire5/squeeze/bias"), "as squeezenet, lacks fire5/squeeze/bias"),
    (lambda a: a.pop("lin3"), "lacks lin3"),
    (lambda a: a.update(lin1=np.ones(64, np.float32)), r"lin1 is \(64,\), and \(128,\) is needed"),
    (lambda a: a.update(extra=np.ones(1, np.float32)), "has extra, which is not part of it"),
    (lambda a: a["conv1/bias"].__setitem__(3, np.nan), "conv1/bias holds NaN"),
  ],
)
def test_a_wrong_file_is_refused_by_name(change, words, tmp_path):
  files.write_npz(features.cache_path(NET, tmp_path), broken(change))
  with pytest.raises(UserError, match=words):
    features.load_perceptual(NET, folder=tmp_path)


def test_convert_refuses_what_does_not_fit(tmp_path):
  ours = random_arrays(NET)
  trunk, heads = torch_names(ours, NET)
  files.write_npz(tmp_path / "trunk.npz", trunk)
  files.write_npz(tmp_path / "heads.npz", heads)
  both = [tmp_path / "trunk.npz", tmp_path / "heads.npz"]
  with pytest.raises(UserError, match=r"lacks lin0, lin1, lin2 and 4 more; give trunk and heads"):
    features.convert(both[:1], NET)
  with pytest.raises(UserError, match=r"lacks conv1.* trunk and heads together"):
    features.convert(both[1:], NET)
  with pytest.raises(UserError, match=r"lin0 was already given"):
    features.convert([*both, both[1]], NET)
  with pytest.raises(UserError, match=r"as vgg16, has features\.3.*, which is not part of it"):
    features.convert(both, "vgg16")
  files.write_npz(tmp_path / "other.npz", {"lin5.model.1.weight": np.ones((1, 9, 1, 1))})
  with pytest.raises(UserError, match=r"lin5 is \(9,\)"):
    features.convert([both[0], tmp_path / "other.npz"], NET)


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
  monkeypatch.setenv("HIRESMED_CACHE", str(tmp_path / "cache"))
  with pytest.raises(UserError, match=r"python -m hiresmed_jax\.weights fetch vgg16"):
    features.load_perceptual("vgg16")
  assert features.cache_path("vgg16") == tmp_path / "cache" / "lpips_vgg16_v0.1.npz"
  with pytest.raises(UserError, match="vgg16, alexnet, squeezenet"):
    features.load_perceptual("vgg19")
  monkeypatch.delenv("HIRESMED_CACHE")
  assert arrays.cache_folder().name == "hiresmed_jax"


@pytest.mark.slow
def test_parts_are_an_option_of_the_loaded_distance(tmp_path):
  files.write_npz(features.cache_path(NET, tmp_path), random_arrays(NET))
  images = jax.ShapeDtypeStruct((4, 24, 24, 1), np.float32)
  loops = {}
  for at_once in (None, 2):
    distance, weights = features.load_perceptual(NET, folder=tmp_path, at_once=at_once)
    slope = jax.grad(lambda x, y, d=distance, w=weights: d(w, x, y).sum())
    loops[at_once] = "scan" in str(jax.make_jaxpr(slope)(images, images))
  assert loops == {None: False, 2: True}
