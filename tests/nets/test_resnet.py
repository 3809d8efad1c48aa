"""torchvision's ResNet-50 on random weights, in both of the layouts that are published."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax.convert import arrays, resnet
from hiresmed_jax.nets.resnet import ResNet50Features
from tests.reference.random_weights import random_arrays, torch_names


def test_parameters():
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  variables = jax.eval_shape(ResNet50Features().init, jax.random.key(0), image)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 23_508_032


@pytest.mark.slow
@pytest.mark.parametrize("keras", [False, True])
def test_features_are_torchvisions(tmp_path, keras):
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
