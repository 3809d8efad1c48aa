"""Files of YOLO11 weights: ours come back whole, wrong ones are told in one line."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from hiresmed_jax import files
from hiresmed_jax.convert import arrays
from hiresmed_jax.convert import yolo as convert
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.yolo import Yolo11
from tests.reference.random_weights import random_arrays


@pytest.mark.slow
def test_ours_come_back(tmp_path):
  net, path = Yolo11(1), tmp_path / "yolo.npz"
  layout = arrays.layout(net, 32, 1)
  files.write_npz(path, random_arrays(layout))
  again = convert.load(path, net, channels=1)
  jax.tree.map(
    np.testing.assert_array_equal, again, arrays.variables(random_arrays(layout), layout, "here")
  )


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda a: a.pop("down1/kernel"), "lacks down1/kernel"),
    (lambda a: a.update({"down1/kernel": np.zeros((3, 3, 3, 8), np.float32)}), "is needed"),
    (lambda a: a.update({"head8/box/bias": np.full(64, np.nan, np.float32)}), "NaN"),
  ],
)
def test_a_wrong_file_is_told_in_a_line(tmp_path, change, said):
  net, path = Yolo11(1), tmp_path / "yolo.safetensors"
  given = random_arrays(arrays.layout(net, 32))
  change(given)
  safetensors.numpy.save_file(given, path)
  with pytest.raises(UserError, match=said) as error:
    convert.load(path, net, channels=3)
  assert "\n" not in str(error.value)


def test_names_that_are_not_of_the_network_do_not_break():
  for name in ("model.23.cv2.0", "model.99.conv.weight", "model.23.cv4.0.1.bias", "anything"):
    assert isinstance(convert.our_name(name), str)
  assert convert.our_name("model.23.dfl.conv.weight") is None
  assert convert.our_name("model.0.bn.num_batches_tracked") is None
  name = "model.6.m.0.m.1.cv2.bn.running_var"
  assert convert.our_name(name) == "stage4/block0/block1/conv2/norm/var"
