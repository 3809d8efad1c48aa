"""Labels as one COCO file: boxes, areas and masks of instances."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

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
