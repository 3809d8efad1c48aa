"""Pictures and numbers of the danger route: what is forbidden, found and as the masks have it."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from rich.console import Console

from hiresmed_jax import files
from hiresmed_jax.metrics import segmentation as metric
from hiresmed_jax.runtime.figures import image_grid, loss_curves

HostBatch = Mapping[str, Any]
Evaluate = Callable[[Iterable[HostBatch]], tuple[dict[str, float], list[np.ndarray]]]

LIMIT = 0.05  # of real lesions: a mask that forbids more is not used by default
_ROWS = 5
_RED, _CYAN = (1.0, 0.2, 0.1), (0.1, 0.9, 1.0)


def draw_masks(
  step: int, pictures: Sequence[np.ndarray], *, batches: Sequence[HostBatch], folder: pathlib.Path
) -> None:
  """Writes masks_<step>.png: validation images, the masks, and what the network forbids.

  Args:
    step: of the run, for the name.
    pictures: f32[n, S, T, 1], chances of being forbidden, one array a batch.
    batches: host batches that they are of.
    folder: of the figures.
  """
  _grid(folder / f"masks_{step:07d}.png", pictures, batches, f"validation, step {step}")


def final_evaluation(
  evaluate: Evaluate,
  *,
  val: Sequence[HostBatch],
  test: Sequence[HostBatch],
  folder: pathlib.Path,
  masks: str,
) -> dict[str, Any]:
  """Judges the best weights on images, and by the real lesions that they would forbid; draws.

  Args:
    evaluate: host batches -> (numbers, chances), as `programs.evaluate` with the best state.
    val: validation images, which chose the weights.
    test: held-out images; may be none.
    folder: <workdir>/danger.
    masks: where the masks come from that it is compared with.

  Returns:
    {"val", "held_out": numbers of `metrics.segmentation`, Hausdorff distances as medians over
    images, and "false_exclusion", or None; "protocol"; "use": whether placement is to use the mask
    by default; "why"}.
  """
  results: dict[str, Any] = {
    "protocol": "Dice and IoU as means over images, Hausdorff distances as medians; held-out "
    "groups (sha256 rule, group 0); weights with the highest validation Dice; a real lesion is "
    f"forbidden where the middle of its box is; masks {masks}",
    "held_out": None,
  }
  numbers, found = evaluate(val)
  results["val"] = numbers | _more(found, val)
  if test:
    numbers, found = evaluate(test)
    results["held_out"] = numbers | _more(found, test)
  results |= _verdict((results["held_out"] or results["val"])["false_exclusion"])
  if jax.process_index() == 0:
    shown = test or val
    footer = f"{'held-out' if test else 'validation'} images, best weights"
    _grid(folder / "figures" / ("held_out.png" if test else "val.png"), found, shown, footer)
    loss_curves(folder / "metrics.jsonl", folder / "figures" / "curves.png")
    files.write_json(folder / "results.json", results)
  return results


def false_exclusion(
  forbidden: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
) -> dict[str, float]:
  """How many real lesions a mask would not allow.

  Args:
    forbidden: bool[S, T] of each image.
    boxes: f32[n, 4] xyxy pixels of each image.

  Returns:
    {"lesions", "forbidden": of how many the middle is, "share": 0 where there are none}.
  """
  hits = []
  for mask, own in zip(forbidden, boxes, strict=True):
    for x1, y1, x2, y2 in np.reshape(own, (-1, 4)):
      row = min(max(int((y1 + y2) / 2), 0), mask.shape[0] - 1)
      column = min(max(int((x1 + x2) / 2), 0), mask.shape[1] - 1)
      hits.append(bool(mask[row, column]))
  return {
    "lesions": len(hits),
    "forbidden": sum(hits),
    "share": float(np.mean(hits)) if hits else 0.0,
  }


def print_results(done: Mapping[str, Any], folder: pathlib.Path) -> None:
  """The results on the terminal, and where the pictures are."""
  results, console = done["results"], Console(soft_wrap=True)
  name = "held-out" if results["held_out"] else "validation"
  numbers = results["held_out"] or results["val"]
  console.print(
    f"{numbers['images']} {name} images: Dice {numbers['dice']:.3f}, IoU {numbers['iou']:.3f}, "
    f"HD95 {numbers['hausdorff95']:.1f} {numbers['unit']}"
  )
  console.print(results["why"])
  picture = "held_out.png" if results["held_out"] else "val.png"
  console.print(f"figures: {folder / 'figures' / picture}")


def _verdict(excluded: Mapping[str, float]) -> dict[str, Any]:
  share = excluded["share"]
  told = (
    f"the mask would forbid {excluded['forbidden']} of {excluded['lesions']} real lesions "
    f"({share:.1%})"
  )
  if not excluded["lesions"]:
    return {"use": True, "why": "no real lesions to tell whether the mask forbids too much"}
  if share > LIMIT:
    return {"use": False, "why": f"{told}, more than {LIMIT:.0%}: it is not used by default"}
  return {"use": True, "why": told}


def _more(found: Sequence[np.ndarray], batches: Sequence[HostBatch]) -> dict[str, Any]:
  """Distances, and lesions that are forbidden, of the images of these batches."""
  forbidden = [chances[..., 0] > 0.5 for batch in found for chances in batch]
  images = [
    (batch["labels"][i] > 0, batch["valid"][i], batch["spacing_mm"][i], batch["boxes"][i])
    for batch in batches
    for i in range(len(batch["boxes"]))
  ]
  in_mm = all(np.isfinite(spacing).all() for _, _, spacing, _ in images)
  distances = {}
  for name, percentile in (("hausdorff", 100.0), ("hausdorff95", 95.0)):
    distances[name] = float(
      np.median(
        [
          metric.hausdorff(
            mine,
            real,
            valid=valid,
            spacing=(float(spacing[0]), float(spacing[1])) if in_mm else (1.0, 1.0),
            percentile=percentile,
          )
          for mine, (real, valid, spacing, _) in zip(forbidden, images, strict=True)
        ]
      )
    )
  return distances | {
    "unit": "mm" if in_mm else "px",
    "images": len(images),
    "false_exclusion": false_exclusion(forbidden, [boxes for *_, boxes in images]),
  }


def _grid(
  path: pathlib.Path, found: Sequence[np.ndarray], batches: Sequence[HostBatch], footer: str
) -> None:
  """`_ROWS` images from all over the set."""
  images = np.concatenate([batch["images_m11"][batch["weight"] > 0] for batch in batches])
  labels = np.concatenate([batch["labels"][batch["weight"] > 0] for batch in batches])
  chances = np.concatenate(list(found))[..., 0]
  rows = []
  for i in np.unique(np.linspace(0, len(images) - 1, _ROWS).round().astype(int)):
    grey = np.clip((images[i].mean(axis=-1, keepdims=True) + 1) / 2, 0, 1).repeat(3, axis=-1)
    rows.append([grey, _laid(grey, labels[i] > 0, _CYAN), _laid(grey, chances[i] > 0.5, _RED)])
  image_grid(
    path,
    rows,
    columns=("image", "forbidden by the mask", "forbidden by the network"),
    cell=400,
    footer=footer,
  )


def _laid(grey: np.ndarray, mask: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
  """f32[S, T, 3]: a mask as a tint with a firm outline."""
  inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
  strength = np.where(mask, np.where(inner, 0.25, 1.0), 0.0)[..., None].astype(np.float32)
  return grey * (1 - strength) + strength * np.asarray(colour, np.float32)
