"""Labels of synthetic images as files: `manifest.jsonl`, YOLO text files with `data.yaml`, COCO."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def lines(records: Iterable[Mapping[str, Any]]) -> bytes:
  """The file of some records, in the order given."""
  return b"".join(line(record) for record in records)


def line(record: Mapping[str, Any]) -> bytes:
  """One line: keys sorted, numbers that are not finite as null."""
  return (json.dumps(_finite(record), sort_keys=True, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(one) for one in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


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


CATEGORY = "lesion"


def document(images: Iterable[Mapping[str, Any]]) -> bytes:
  """The file of a set of images.

  Args:
    images: of each `id` int, `file_name` (relative), `height`, `width`, and `lesions`: of each
      `box` (xyxy pixels), `area` (pixels) and `counts` (see `run_lengths`).

  Returns:
    JSON; ids of annotations run from 1 in the order given.
  """
  entries: list[dict[str, Any]] = []
  annotations: list[dict[str, Any]] = []
  for image in images:
    size = [image["height"], image["width"]]
    entries.append({key: image[key] for key in ("id", "file_name", "height", "width")})
    for lesion in image["lesions"]:
      x1, y1, x2, y2 = lesion["box"]
      annotations.append(
        {
          "id": len(annotations) + 1,
          "image_id": image["id"],
          "category_id": 1,
          "bbox": [x1, y1, x2 - x1, y2 - y1],
          "area": lesion["area"],
          "iscrowd": 0,
          "segmentation": {"size": size, "counts": lesion["counts"]},
        }
      )
  content = {
    "info": {"description": "SYNTHETIC images made by hiresmed_jax"},
    "images": entries,
    "annotations": annotations,
    "categories": [{"id": 1, "name": CATEGORY}],
  }
  return (json.dumps(content, allow_nan=False) + "\n").encode()


def run_lengths(mask: np.ndarray) -> list[int]:
  """COCO's uncompressed code of bool[H, W]: lengths of runs down the columns, zeros first."""
  flat = mask.ravel(order="F")
  changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
  ends = np.concatenate([[0], changes, [flat.size]])
  runs = np.diff(ends).tolist()
  return [0, *runs] if flat.size and flat[0] else runs
