"""The `ultralytics` package as a black box: its networks, its loss. Nothing of it is read.

Its settings go to a folder of their own, it asks nothing of the network, and it installs nothing.
"""

import functools
import importlib
import importlib.util
import os
import pathlib
import tempfile
import warnings
from typing import Any

import pytest

from tests.reference import torchvision_cpu

torch = torchvision_cpu.torch
if importlib.util.find_spec("ultralytics") is None:
  pytest.skip("No module named 'ultralytics'", allow_module_level=True)


@functools.cache
def package(name: str = "ultralytics") -> Any:
  """The package or a module of it."""
  os.environ["YOLO_CONFIG_DIR"] = _settings().name
  os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
  torchvision_cpu.import_torchvision()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return importlib.import_module(name)


@functools.cache
def _settings() -> Any:
  return tempfile.TemporaryDirectory(prefix="ultralytics-")


def network(size: str, *, classes: int, channels: int = 3, seed: int = 0) -> Any:
  """`yolo11<size>` on random weights, also in its norms, in inference mode, gradients on."""
  with warnings.catch_warnings(), torch.random.fork_rng():
    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    tasks = package("ultralytics.nn.tasks")
    net = tasks.DetectionModel(f"yolo11{size}.yaml", ch=channels, nc=classes, verbose=False)
    for norm in net.modules():
      if isinstance(norm, torch.nn.BatchNorm2d):
        for value, low, high in (
          (norm.weight, 0.8, 1.6),
          (norm.bias, -0.3, 0.3),
          (norm.running_mean, -0.1, 0.1),
          (norm.running_var, 0.05, 0.3),
        ):
          torch.nn.init.uniform_(value, low, high)
  return net.eval()


def save(net: Any, path: pathlib.Path) -> None:
  """Its state dict, as .safetensors."""
  import safetensors.numpy

  state = {name: value.numpy() for name, value in net.state_dict().items()}
  safetensors.numpy.save_file(state, path)
