"""Published YOLO11 state dicts -> the variables of nets/yolo.py.

Names are the published models' ("model.2.m.0.cv1.conv.weight"), or ours ("stage2/block0/conv1/
kernel"). The published files are pickles of whole Python objects, which are not opened here: save
the model's `state_dict()` as .safetensors, or as .pth of tensors alone.
"""

import re
from pathlib import Path
from typing import Any

from hiresmed_jax.convert import arrays
from hiresmed_jax.nets.yolo import Yolo11

# Number of a published layer -> ours.
LAYERS = {
  0: "down1", 1: "down2", 2: "stage2", 3: "down3", 4: "stage3", 5: "down4", 6: "stage4",
  7: "down5", 8: "stage5", 9: "pool", 10: "attention", 13: "up4", 16: "up3", 17: "again4",
  19: "out4", 20: "again5", 22: "out5",
}  # fmt: skip
_HEAD = 23
_ATTENTION = {
  "attn.qkv": "_attention/qkv",
  "attn.proj": "_attention/projection",
  "attn.pe": "_attention/position",
  "ffn.0": "_wide",
  "ffn.1": "_narrow",
}
_BRANCHES = {
  "cv2": {"0": "box1", "1": "box2", "2": "box"},
  "cv3": {
    "0.0": "class1_depthwise", "0.1": "class1", "1.0": "class2_depthwise", "1.1": "class2",
    "2": "class",
  },
}  # fmt: skip
_ENDINGS = {"conv": {"weight": "kernel"}, "bn": arrays.LEAVES["norm"]}


def load(path: Path, net: Yolo11, *, channels: int) -> dict[str, Any]:
  """{"params", "batch_stats"} of a network from .safetensors, .npz, or .pth of tensors alone.

  Raises:
    UserError: unreadable file, a layer missing or of a wrong shape, numbers that are not finite.
  """
  found = arrays.read_as_ours(path, our_name)
  what = f"{path.name}, as this YOLO11 of {net.num_classes} classes and {channels} channels,"
  return arrays.variables(found, arrays.layout(net, 32, channels), what)


def our_name(name: str) -> str | None:
  """Of a published tensor; None for counters and the fixed numbers of the bins."""
  if name.endswith("num_batches_tracked") or ".dfl." in name:
    return None
  if not (parts := re.fullmatch(r"model\.(\d+)\.(?:(.*)\.)?(weight|bias|running_mean|running_var)",
                                name)):  # fmt: skip
    return name
  layer, inner, leaf = int(parts[1]), parts[2] or "", parts[3]
  inner, _, kind = inner.rpartition(".") if inner.endswith(("conv", "bn")) else (inner, "", "")
  ending = _ENDINGS.get(kind, {"weight": "kernel"}).get(leaf, leaf)
  ending = f"norm/{ending}" if kind == "bn" else ending
  module = _in_head(inner) if layer == _HEAD else _in_stage(LAYERS.get(layer, "?"), inner)
  return f"{module}/{ending}"


def _in_stage(stage: str, inner: str) -> str:
  """("stage4", "m.0.m.1.cv1") -> "stage4/block0/block1/conv1"."""
  for theirs, ours in _ATTENTION.items():
    inner = re.sub(rf"m\.(\d+)\.{re.escape(theirs)}", rf"block\1{ours}", inner)
  inner = re.sub(r"m\.(\d+)", r"block\1", inner)
  inner = re.sub(r"cv(\d)", r"conv\1", inner)
  return "/".join([stage, *filter(None, inner.split("."))])


def _in_head(inner: str) -> str:
  """("cv3.1.0.0") -> "head16/class1_depthwise"."""
  branch, _, rest = inner.partition(".")
  level, _, step = rest.partition(".")
  part = _BRANCHES.get(branch, {}).get(step)
  return f"head{8 << int(level)}/{part}" if part else f"?/{inner}"
