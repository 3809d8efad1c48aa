"""Small real images with lesions, and made ones beside them, for the tests of `evaluate`."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hiresmed_jax.data import records
from hiresmed_jax.evaluation import measure, networks
from hiresmed_jax.nets.features import FeatureNet
from hiresmed_jax.runtime import compilation
from tests import tiny_run
from tests.synthesis import drawn

HASH = "0" * 32


def dataset(folder: Path, *, physics: str = "none") -> records.Dataset:
  """4 training groups and 3 held-out ones, each of 2 images with 2 lesions."""
  names = [name for split, n in (("train", 4), ("test", 3)) for name in drawn.groups(split, n)]
  samples = (
    drawn.sample(2 * i + k, name, physics=physics) for i, name in enumerate(names) for k in (0, 1)
  )
  records.write_dataset(samples, folder, kind="phantom", name="scene")
  return records.open_dataset(folder)


def write_png(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), image)


def folder(path: Path, images: dict[str, np.ndarray]) -> Path:
  for name, image in images.items():
    write_png(path / f"{name}.png", image)
  return path


def pictures(count: int, *, size: int = 48, seed: int = 0) -> dict[str, np.ndarray]:
  """uint8[size, size] images of smooth noise, by name."""
  rng = np.random.default_rng(seed)
  smooth = (cv2.GaussianBlur(rng.uniform(0, 255, (size, size)), (0, 0), 2) for _ in range(count))
  return {
    f"image{i}": cv2.normalize(x, None, 20, 230, cv2.NORM_MINMAX).astype(np.uint8)
    for i, x in enumerate(smooth)
  }


def noisy(images: dict[str, np.ndarray], amount: float, seed: int = 1) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {
    name: np.clip(image + rng.normal(0, amount, image.shape), 0, 255).astype(np.uint8)
    for name, image in images.items()
  }


def synthetic(out: Path, data: records.Dataset, made: list[dict[str, Any]]) -> Path:
  """A folder as `synthesize` writes it: a bright square in a training image, one line each.

  made: {"of": index of the training record, "at": (x, y), "donor", "donor_group", "group"}, all
  but the first two optional.
  """
  source, lines = records.source(data, "train"), []
  for number, one in enumerate(made):
    item = source[one["of"]]
    image, (x, y) = item["image"].copy(), one["at"]
    image[y : y + 6, x : x + 6] = 250
    mask = np.zeros(image.shape[:2], np.uint16)
    mask[y : y + 6, x : x + 6] = 1
    name = f"{number:06d}.png"
    write_png(out / "images" / name, image)
    write_png(out / "masks" / name, mask)
    lesion = {
      "id": 1, "kind": "copy", "tight_box": [x, y, x + 6, y + 6], "donor": one.get("donor", "a"),
      "donor_group": one.get("donor_group", item["group"]),
    }  # fmt: skip
    ground = {
      "kind": "real", "image": item["image_id"], "group": one.get("group", item["group"])
    }  # fmt: skip
    lines.append({
      "index": number, "height": image.shape[0], "width": image.shape[1], "background": ground,
      "lesions": [lesion], "image": f"images/{name}", "mask": f"masks/{name}",
    })  # fmt: skip
  (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return out


def patches(weights, images_255):
  """Means of nine parts of an image of 30 px: features that a reader can check."""
  parts = images_255.mean(axis=-1).reshape(-1, 3, 10, 3, 10).mean(axis=(2, 4))
  return parts.reshape(-1, 9) * weights


def nets(**missing: str) -> networks.Networks:
  """Networks without weights: patch means, and an LPIPS that is a mean square."""

  def distance(weights, images_m11, targets_m11):
    return weights * ((images_m11 - targets_m11) ** 2).mean(axis=(1, 2, 3))

  net = FeatureNet("patch means", 9, "bilinear 30", patches, np.float32(1.0))
  lpips = {"squeezenet": (distance, np.float32(2.0))}
  return networks.Networks(lpips, networks.Features(net, 30, "bilinear"), missing)


def tool(devices: int = 1, **missing: str) -> measure.Tools:
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compilation, "options", tiny_run.quick)
    return measure.tools(nets(**missing), tiny_run.mesh(devices))
