"""Pictures and numbers of the danger route: what is forbidden, found and as the masks have it."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from rich.console import Console

from hiresmed_jax.metrics import segmentation as metric
from hiresmed_jax.routes import report
from hiresmed_jax.routes.report import Evaluate, Examples, HostBatch
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.figures import image_grid

LIMIT = 0.05  # of real lesions: a mask that forbids more is not used by default
ROWS = 5  # of a figure
_RED, _CYAN = (1.0, 0.2, 0.1), (0.1, 0.9, 1.0)


def draw_masks(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes masks_<step>.png: validation images, the masks, and what the network forbids.

  What `examples` have as made are chances of being forbidden, f32[S, T, 1].
  """
  _grid(folder / f"masks_{step:07d}.png", examples, f"validation, step {step}")


def final_evaluation(
  evaluate: Evaluate,
  *,
  val: Iterable[HostBatch],
  test: Iterable[HostBatch],
  folder: pathlib.Path,
  masks: str,
) -> dict[str, Any]:
  """Evaluates the best weights on images, and by the real lesions that they would forbid; draws.

  `val` images chose the weights; `test` may be none; `masks` says where the masks come from.

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
  results["val"], examples = _evaluate(evaluate, val)
  held_out, of_test = _evaluate(evaluate, test)
  if held_out:
    results["held_out"], examples = held_out, of_test
  results |= _verdict((results["held_out"] or results["val"])["false_exclusion"])
  if jax.process_index() == 0:
    footer = f"{'held-out' if held_out else 'validation'} images, best weights"
    path = folder / "figures" / ("held_out.png" if held_out else "val.png")
    _grid(path, examples, footer)
    report.write(folder, results)
  return results


def _evaluate(
  evaluate: Evaluate, batches: Iterable[HostBatch]
) -> tuple[dict[str, Any] | None, Examples]:
  examples, per_image = Examples(ROWS), _PerImage()

  def look(batch: HostBatch, made: np.ndarray) -> None:
    examples.add(batch, made)
    per_image.add(batch, made)

  numbers, images = evaluate(batches, look)
  return (numbers | per_image.summary(images) if images else None), examples


def false_exclusion(
  forbidden: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
) -> dict[str, float]:
  """How many real lesions masks bool[S, T] would not allow, by boxes f32[n, 4] of each image.

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
    f"danger: {numbers['images']} {name} images: Dice {numbers['dice']:.3f}, IoU "
    f"{numbers['iou']:.3f}, HD95 {numbers['hausdorff95']:.1f} {numbers['unit']}"
  )
  console.print(results["why"])
  picture = "held_out.png" if results["held_out"] else "val.png"
  console.print(f"figures: {folder / 'figures' / picture}")


def _verdict(excluded: Mapping[str, float]) -> dict[str, Any]:
  share = excluded["share"]
  sentence = (
    f"the mask would forbid {excluded['forbidden']} of {excluded['lesions']} real lesions "
    f"({share:.1%})"
  )
  if not excluded["lesions"]:
    return {"use": True, "why": "no real lesions to tell whether the mask forbids too much"}
  if share > LIMIT:
    return {"use": False, "why": f"{sentence}, more than {LIMIT:.0%}: it is not used by default"}
  return {"use": True, "why": sentence}


class _PerImage:
  """Distances between masks, and lesions that are forbidden, gathered batch by batch."""

  def __init__(self) -> None:
    self._rows: list[list[float]] = []  # hausdorff, hausdorff95, both in mm, lesions, forbidden

  def add(self, batch: HostBatch, made: np.ndarray) -> None:
    for i in range(len(batch["boxes"])):
      mine, real, valid = made[i, ..., 0] > 0.5, batch["labels"][i] > 0, batch["valid"][i]
      mm = batch["spacing_mm"][i].astype(float)
      distances = [
        metric.hausdorff(mine, real, valid=valid, spacing=spacing, percentile=percentile)
        if np.isfinite(spacing).all()
        else np.nan
        for spacing in ((1.0, 1.0), tuple(mm))
        for percentile in (100.0, 95.0)
      ]
      excluded = false_exclusion([mine], [batch["boxes"][i]])
      self._rows.append([*distances, excluded["lesions"], excluded["forbidden"]])

  def summary(self, images: int) -> dict[str, Any]:
    """Medians, in mm where all images have a spacing; lesions of all processes together."""
    values = meshes.gather(np.asarray(self._rows, np.float64).ravel()).reshape(-1, 6)
    lesions, forbidden = (int(total) for total in values[:, 4:].sum(axis=0))
    in_mm = not np.isnan(values[:, 2:4]).any()
    medians = np.median(values[:, 2:4] if in_mm else values[:, :2], axis=0)
    return {
      "hausdorff": float(medians[0]),
      "hausdorff95": float(medians[1]),
      "unit": "mm" if in_mm else "px",
      "images": images,
      "false_exclusion": {
        "lesions": lesions,
        "forbidden": forbidden,
        "share": forbidden / lesions if lesions else 0.0,
      },
    }


def _grid(path: pathlib.Path, examples: Examples, footer: str) -> None:
  rows = []
  for row in examples.rows():
    grey = np.clip((row["images_m11"].mean(axis=-1, keepdims=True) + 1) / 2, 0, 1)
    grey = grey.repeat(3, axis=-1)
    real, found = row["labels"] > 0, row["made"][..., 0] > 0.5
    rows.append([grey, _laid(grey, real, _CYAN), _laid(grey, found, _RED)])
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
