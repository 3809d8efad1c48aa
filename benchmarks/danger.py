"""How far are the rule's and the U-Net's masks from corrected ones, and what do they exclude?

  python -m benchmarks.danger --workdir runs/stones_ct --data data/stones_ct --source SOURCE \
    [--cxr FOLDER] [--figure FILE] [--out FILE]

  corrected     Dice, IoU and HD95 of the rule and of the U-Net of the workdir's route danger on the
                20 held-out slices of tests/data/danger; --source holds images/ with their files
  excluded      share of real held-out lesions whose centre each forbids: on images as they are, and
                with the lesions removed (`inference/emptied.py`), as in a background
  lungs         a U-Net trained here on the lung masks of chest radiographs (--cxr holds images/ and
                lung_masks/), everything but lung forbidden; measured on held-out images

The correction started from the rule's masks, and the rule's constants were set on the same slices:
its figures are too good (tests/data/danger/README.md).
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from benchmarks import harness
from hiresmed_jax import prepare
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas, emptied, places, workdir
from hiresmed_jax.metrics import segmentation as metric
from hiresmed_jax.placement import forbidden
from hiresmed_jax.routes import run
from hiresmed_jax.routes.danger.report import false_exclusion
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime.config import load_config
from hiresmed_jax.runtime.figures import image_grid

CORRECTED = Path(__file__).parents[1] / "tests" / "data" / "danger"
LUNGS = (
  "name=cxr data.channels=1 danger.size=(128,128) danger.width=8 danger.batch_size=4 "
  "danger.steps=150 danger.log_every=25 danger.eval_every=75"
).split()
Masks = Mapping[str, Callable[[Mapping[str, Any]], np.ndarray]]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="with the route danger trained")
  parser.add_argument("--data", type=Path, help="prepared dataset (that of the workdir)")
  parser.add_argument("--source", type=Path, required=True, help="folder with images/")
  parser.add_argument("--cxr", type=Path, help="folder with images/ and lung_masks/")
  parser.add_argument("--figure", type=Path, help="picture of a few corrected slices")
  options = parser.parse_args(argv)
  dataset = workdir.dataset_of(options.workdir, options.data)
  fingerprint = dataset.card["fingerprint"]
  unet = workdir.danger_of(options.workdir, fingerprint, dtype=jax.numpy.float32)
  masks: Masks = {
    "rule": lambda item: forbidden.abdomen(forbidden.grey_of(item)) > 0,
    "unet": lambda item: places.forbidden(unet, canvas.real(item)),
  }
  result = {
    "benchmark": "danger",
    **harness.environment(),
    "data": dataset.card["name"],
    "steps": unet.step,
    "corrected": _corrected(masks, options.source / "images", options.figure),
    "excluded": _excluded(masks, records.source(dataset, "test")),
    "lungs": _lungs(options.cxr) if options.cxr else None,
  }
  harness.publish(result, options.out)


def _corrected(masks: Masks, images: Path, figure: Path | None) -> dict[str, Any]:
  """{"images", name: means over the slices, and the least Dice}."""
  scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in masks}
  rows: list[list[np.ndarray]] = []
  for path in sorted(CORRECTED.glob("*.png")):
    grey = cv2.imread(str(images / f"{path.stem}.jpg"), cv2.IMREAD_GRAYSCALE)
    if grey is None:
      raise UserError(f"{images} has no {path.stem}.jpg: --source takes the unprepared images")
    real = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) > 0
    found = {name: make(_item(np.asarray(grey))) for name, make in masks.items()}
    for name, mask in found.items():
      counts = metric.overlap(mask, real, np.ones_like(real))  # type: ignore[arg-type]
      distance = metric.hausdorff(mask, real, percentile=95.0)
      scores[name].append((float(metric.dice(counts)), float(metric.iou(counts)), distance))
    rows.append([_tinted(np.asarray(grey), mask) for mask in (real, *found.values())])
  if figure is not None:
    columns = ("corrected by hand", *masks)
    image_grid(figure, rows[::5], columns=columns, cell=400, footer="held-out slices")
  figures: dict[str, Any] = {"images": len(rows)}
  for name, values in scores.items():
    dice, iou, distance = np.array(values).T
    figures[name] = {
      "dice": float(dice.mean()),
      "dice_sd": float(dice.std(ddof=1)),
      "least_dice": float(dice.min()),
      "iou": float(iou.mean()),
      "hd95_px_median": float(np.median(distance)),
    }
  return figures


def _excluded(masks: Masks, source: records.Records) -> dict[str, Any]:
  """{name: {"as_they_are", "emptied": of `routes.danger.report.false_exclusion`}}."""
  found: dict[str, dict[str, list[np.ndarray]]] = {
    name: {"as_they_are": [], "emptied": []} for name in masks
  }
  boxes: list[np.ndarray] = []
  for index, item in enumerate(source):
    if not len(item["boxes"]):
      continue
    bare = emptied.with_decoys(item, (0, index), decoys=0.0)
    if bare is None:  # something of a lesion is left
      continue
    boxes.append(item["boxes"])
    empty = {**item, "image": bare}
    for name, make in masks.items():
      found[name]["as_they_are"].append(make(item))
      found[name]["emptied"].append(make(empty))
  return {
    name: {state: false_exclusion(made, boxes) for state, made in by_state.items()}
    for name, by_state in found.items()
  }


def _lungs(folder: Path) -> dict[str, Any]:
  """Held-out figures of a U-Net that learns everything but lung."""
  with tempfile.TemporaryDirectory() as name:
    place = Path(name)
    (place / "masks").mkdir()
    for path in (folder / "lung_masks").glob("*.png"):
      lung = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
      cv2.imwrite(str(place / "masks" / path.name), 255 * (np.asarray(lung) == 0).astype(np.uint8))
    given = ["--kind", "images", "--source", str(folder / "images")]
    prepare.main([*given, "--forbidden", str(place / "masks"), "--out", str(place / "data")])
    config = load_config("kub.py:danger,best", LUNGS)
    start = time.perf_counter()
    done = run.train(config, data=place / "data", workdir=place / "run")["danger"]
    seconds = time.perf_counter() - start
  keys = ("images", "dice", "iou", "hausdorff95", "unit")
  held_out = {key: done["results"]["held_out"][key] for key in keys}
  return held_out | {"size": [128, 128], "steps": 150, "seconds": round(seconds)}


def _item(grey: np.ndarray) -> dict[str, Any]:
  """A slice as a record."""
  nothing = np.zeros((0, 0), np.uint16)
  return {
    "image": grey[..., None],
    "rescale_slope": 1.0,
    "rescale_intercept": 0.0,
    "value_range": np.array([0, 255], np.float32),
    "photometric": "MONOCHROME2",
    "physics": "none",
    "boxes": np.zeros((0, 4), np.float32),
    "lesion_mask": nothing,
    "forbidden_mask": nothing.astype(np.uint8),
    "spacing_mm": np.full(2, np.nan, np.float32),
    "group": "",
    "image_id": "",
  }


def _tinted(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """uint8[H, W, 3]: the image with a mask as a red tint and outline."""
  inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
  strength = np.where(mask, np.where(inner, 0.25, 1.0), 0.0)[..., None]
  red: Sequence[int] = (255, 60, 30)
  return ((1 - strength) * grey[..., None] + strength * np.array(red)).astype(np.uint8)


if __name__ == "__main__":
  cli.run(main)
