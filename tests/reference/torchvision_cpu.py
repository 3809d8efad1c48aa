"""torchvision beside another build of torch, and the networks of the `lpips` package.

torchvision's wheel carries C++ operators for one build of torch. Beside another one they do not
load, and `import torchvision` fails where it registers shapes for two of them. The networks need
none of them, so it is enough to declare the two.
"""

import functools
import importlib
import importlib.util
import pathlib
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
for package in ("torchvision", "lpips"):
  if importlib.util.find_spec(package) is None:
    pytest.skip(f"No module named '{package}'", allow_module_level=True)

_declared: Any = None  # operators live as long as their library object


def import_torchvision() -> ModuleType:
  """The module, whichever build of torch it was made for; importing it raises no warning."""
  global _declared
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      return importlib.import_module("torchvision")
    except RuntimeError as error:
      if "torchvision::nms" not in str(error):
        raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
      del sys.modules[name]
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    _declared.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    return importlib.import_module("torchvision")


@functools.cache
def lpips_network(net: str, seed: int = 0) -> Any:
  """`lpips.LPIPS` ("vgg", "alex", "squeeze") with published heads and a random trunk, frozen."""
  import_torchvision()
  with warnings.catch_warnings(), torch.random.fork_rng():
    # It calls torchvision in a way that was deprecated since.
    warnings.simplefilter("ignore")
    lpips = importlib.import_module("lpips")
    torch.manual_seed(seed)
    return lpips.LPIPS(net=net, pnet_rand=True, verbose=False).requires_grad_(False)


def heads_file(net: str) -> pathlib.Path:
  """The file of published heads, version 0.1, in the installed `lpips` package."""
  spec = importlib.util.find_spec("lpips")
  assert spec is not None
  assert spec.origin is not None
  return pathlib.Path(spec.origin).parent / "weights" / "v0.1" / f"{net}.pth"
