"""A page of synthetic images beside their twins. "SYNTHETIC" stands here, never in an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiresmed_jax.data import png
from hiresmed_jax.data.readers import dicom
from hiresmed_jax.runtime.figures import image_grid
from hiresmed_jax.synthesis import canvas

_ROWS = 8


def draw(out: Path, records: Sequence[dict[str, Any]], path: Path) -> None:
  """Writes the page: rows from all over the set, a lesion magnified in each.

  Args:
    out: folder of the images.
    records: of `folder.gather`.
    path: the PNG.
  """
  count = min(_ROWS, len(records))
  chosen = [records[i * len(records) // count] for i in range(count)]
  rows, boxes = [], []
  for record in chosen:
    facts = record["manifest"]
    rows.append([_shown(out / facts[key], record["shown"]) for key in ("image", "twin")])
    boxes.append(np.asarray([lesion["tight_box"] for lesion in facts["lesions"]]))
  image_grid(
    path,
    rows,
    columns=("SYNTHETIC", "SYNTHETIC, its twin without lesions"),
    boxes=boxes,
    labels=[f"{record['manifest']['index']:06d}" for record in chosen],
    cell=512,
    footer=f"SYNTHETIC images, not of any patient's lesions; {len(records)} in all",
  )


def _shown(path: Path, how: dict[str, Any]) -> np.ndarray:
  low, high = how["value_range"]
  return canvas.shown(
    _stored(path, how["channels"]),
    (low, high),
    slope=how["slope"],
    intercept=how["intercept"],
    inverted=how["inverted"],
  )


def _stored(path: Path, channels: int) -> np.ndarray:
  if path.suffix == ".dcm":
    (sample,) = dicom.read(path)
    return sample.image
  return png.decode_image(path.read_bytes(), dtype=np.uint16, channels=channels)
