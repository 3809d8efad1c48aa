import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax.convert import arrays, resnet
from hiresmed_jax.convert import features as published
from hiresmed_jax.nets import features
from hiresmed_jax.nets.features import ResNet50Features
from tests.reference.random_weights import random_arrays, torch_names

SIZES = {"vgg16": 14_714_688, "alexnet": 2_469_696, "squeezenet": 722_496}
HEADS = {"vgg16": 1_472, "alexnet": 1_152, "squeezenet": 2_240}
MINIMUM = {"vgg16": 16, "alexnet": 31, "squeezenet": 17}
LPIPS_NAMES = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}


def images(seed, *shape):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def small_params(net, seed=0):
  """Parameters of a trunk with unit gain, so that deep taps are of the order of shallow ones."""
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  rng = np.random.default_rng(seed)

  def draw(leaf):
    fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1e4
    return (rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)

  return jax.tree.map(draw, shapes)


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
  layout = published.layout(name)
  heads = {k: v for k, v in layout.items() if k.startswith("lin")}
  trunk = [np.prod(shape) for k, shape in layout.items() if k not in heads]
  assert sum(trunk) == SIZES[name]
  assert sum(c for (c,) in heads.values()) == HEADS[name]


@pytest.mark.parametrize("name", SIZES)
def test_taps_equal_torch_layer_by_layer(name, tmp_path):
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  reference = tv.lpips_network(LPIPS_NAMES[name])
  np.savez(tmp_path / "whole.npz", **{k: v.numpy() for k, v in reference.state_dict().items()})
  params = published.convert([tmp_path / "whole.npz"], name)
  params = {name: value for name, value in params.items() if not name.startswith("lin")}
  params = flax.traverse_util.unflatten_dict(params, sep="/")
  x = images(1, 2, 33, 46, 3)
  taps = jax.jit(published.TRUNKS[name]().apply)({"params": params}, x)
  expected = reference.net(reference.scaling_layer(tv.torch.tensor(x.transpose(0, 3, 1, 2))))
  assert len(taps) == len(expected)
  for tap, wanted in zip(taps, expected):
    wanted = wanted.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(tap, wanted, rtol=1e-5, atol=1e-5 * wanted.max())


@pytest.mark.parametrize("name", SIZES)
def test_the_smallest_image_reaches_every_tap_and_a_smaller_one_is_refused(name):
  net, smallest = published.TRUNKS[name](), MINIMUM[name]

  def taps(height, channels):
    image = jax.ShapeDtypeStruct((1, height, smallest + 5, channels), jnp.float32)
    return jax.eval_shape(net.init_with_output, jax.random.key(0), image)[0]

  assert all(tap.size for tap in taps(smallest, 1))
  with pytest.raises(ValueError, match=f"{smallest} px"):
    taps(smallest - 1, 1)
  with pytest.raises(ValueError, match="1 or 3 channels"):
    taps(smallest, 2)


def test_grey_is_three_equal_channels():
  apply = jax.jit(features.AlexNetFeatures().apply)
  params = small_params(features.AlexNetFeatures())
  grey = images(2, 1, 31, 40, 1)
  for tap, wanted in zip(apply(params, grey), apply(params, np.repeat(grey, 3, -1))):
    np.testing.assert_array_equal(tap, wanted)


def test_bfloat16_computes_in_bfloat16_and_stays_close():
  x = images(3, 1, 40, 40, 3)
  params = small_params(features.AlexNetFeatures())
  exact = jax.jit(features.AlexNetFeatures().apply)(params, x)
  rough = jax.jit(features.AlexNetFeatures(dtype=jnp.bfloat16).apply)(params, x)
  for a, b in zip(exact, rough):
    assert (a.dtype, b.dtype) == (jnp.float32, jnp.bfloat16)
    error = np.abs(np.asarray(b, np.float32) - a).max() / a.max()
    assert 0 < error < 0.05


@pytest.mark.parametrize("name", SIZES)
def test_float32_means_float32_unless_the_caller_leaves_it_to_the_device(name):
  x = jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32)

  def program(**options):
    net = published.TRUNKS[name](**options)
    return str(jax.make_jaxpr(lambda x: net.init_with_output(jax.random.key(0), x)[0])(x))

  convolutions = program().count("conv_general_dilated[")
  assert convolutions == len([k for k in published.layout(name) if k.endswith("kernel")])
  assert program().count("Precision.HIGHEST, Precision.HIGHEST") == convolutions
  assert "HIGHEST" not in program(precision=None)
  assert "HIGHEST" not in program(dtype=jnp.bfloat16)


def test_resnet_parameters():
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  variables = jax.eval_shape(ResNet50Features().init, jax.random.key(0), image)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 23_508_032


@pytest.mark.slow
@pytest.mark.parametrize("keras", [False, True])
def test_resnet_is_torchvisions(tmp_path, keras):
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  models = tv.import_torchvision().models
  state = torch_names(random_arrays(arrays.layout(ResNet50Features(), 64)))
  network = models.resnet50(weights=None).eval()
  network.fc = tv.torch.nn.Identity()
  norms = [m for m in network.modules() if isinstance(m, tv.torch.nn.BatchNorm2d)]
  if keras:
    for norm in norms:
      norm.eps = 1.001e-5
    for module in network.modules():
      if hasattr(module, "conv3") and module.conv2.stride == (2, 2):
        module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
    rng = np.random.default_rng(3)
    for module in network.modules():
      if isinstance(module, tv.torch.nn.Conv2d):
        module.bias = tv.torch.nn.Parameter(tv.torch.zeros(module.out_channels))
    for name in [n for n, p in network.named_parameters() if n.endswith(".bias")]:
      if name not in state:
        shape = network.get_parameter(name).shape
        state[name] = rng.normal(0, 0.1, shape).astype(np.float32)
  tensors = {name: tv.torch.from_numpy(value) for name, value in state.items()}
  missing = network.load_state_dict(tensors, strict=False)
  assert missing.unexpected_keys == []
  assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)

  images = np.random.default_rng(1).integers(0, 256, (2, 90, 70, 3)).astype(np.uint8)
  given = tv.torch.from_numpy(images).permute(0, 3, 1, 2).float()
  given = tv.torch.nn.functional.interpolate(given, (224, 224), mode="bilinear")
  if keras:  # MONAI: blue, green, red, less their means
    mean = tv.torch.tensor([0.406, 0.456, 0.485]).reshape(1, 3, 1, 1)
    given = given[:, [2, 1, 0]] / 255 - mean
  else:
    given = (given - 127.5) * 2 / 255
  with tv.torch.no_grad():
    wanted = network(given).numpy()

  if not keras:  # as RadImageNet's own file names its layers
    numbers = {"conv1": 0, "bn1": 1, **{f"layer{i}": i + 3 for i in range(1, 5)}}
    state = {
      f"backbone.{numbers[name.split('.')[0]]}.{name.split('.', 1)[1]}": value
      for name, value in state.items()
    }
  path = tmp_path / "radimagenet.safetensors"
  safetensors.numpy.save_file(state, path)
  net = resnet.load(path)
  assert (net.tap, "MONAI" in net.resize) == (2048, keras)
  found = jax.jit(net.features)(net.weights, images)
  assert wanted.std() > 1e-3
  np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
