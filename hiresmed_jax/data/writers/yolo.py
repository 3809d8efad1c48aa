"""Labels as YOLO wants them: a text file beside each image, and `data.yaml`."""

import json
from collections.abc import Iterable, Sequence


def label_file(boxes: Iterable[Sequence[float]], *, height: int, width: int) -> bytes:
  """One line a box, `0 cx cy w h` in shares of the image; boxes are xyxy pixels."""
  lines = []
  for x1, y1, x2, y2 in boxes:
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    lines.append("0 " + " ".join(f"{share:.8f}" for share in shares) + "\n")
  return "".join(lines).encode()


def data_file(*, name: str) -> bytes:
  """`data.yaml` of a folder with `images/` and `labels/`; `name` of the one class."""
  return (
    "# SYNTHETIC images made by hiresmed_jax, for training alone. `val` stands here because the\n"
    "# format asks for it: name a folder of real images there, or the numbers mean nothing.\n"
    "# `twins` are the same images without lesions: add them to `train` as negatives.\n"
    "train: images\n"
    "val: images\n"
    f"names:\n  0: {json.dumps(name)}\n"
  ).encode()
