"""One measure for all recipes: the error of a reconstruction, and when it stays under a threshold.

Images are NumPy arrays f32[N, H, W, C] in [-1, 1], for every framework.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Reconstruct = Callable[[np.ndarray], np.ndarray]


def mean_absolute_error(
  reconstruct: Reconstruct, images_m11: np.ndarray, *, batch_size: int
) -> float:
  """Mean over images and pixels of |x - y| in [0, 1], the reconstruction clipped to the range.

  Args:
    reconstruct: images_m11 f32[batch_size, H, W, C] -> the same shape; always full batches, so
      that a compiled program has one shape.
    images_m11: f32[N, H, W, C]; the last batch is filled up with its first image.
  """
  total = 0.0
  for start in range(0, len(images_m11), batch_size):
    batch = images_m11[start : start + batch_size]
    filled = np.concatenate([batch, np.repeat(batch[:1], batch_size - len(batch), axis=0)])
    made = np.asarray(reconstruct(filled), np.float32)[: len(batch)]
    if made.shape != batch.shape:
      raise ValueError(f"reconstruction of shape {made.shape}, images of {batch.shape}")
    error = np.abs(np.clip(made, -1.0, 1.0) - batch) / 2.0
    total += float(error.mean(axis=(1, 2, 3), dtype=np.float64).sum())
  return total / len(images_m11)


@dataclasses.dataclass
class Curve:
  """The measurements of one run; entry i of every list is of the same moment.

  Attributes:
    seed: of the weights and of the order of the images.
    steps: updates made.
    seconds: of training alone, without compilation and evaluation.
    train, held_out: errors.
  """

  seed: int
  steps: list[int] = dataclasses.field(default_factory=list)
  seconds: list[float] = dataclasses.field(default_factory=list)
  train: list[float] = dataclasses.field(default_factory=list)
  held_out: list[float] = dataclasses.field(default_factory=list)

  def add(self, step: int, seconds: float, train: float, held_out: float) -> None:
    """Appends one measurement."""
    self.steps.append(step)
    self.seconds.append(round(seconds, 3))
    self.train.append(round(train, 5))
    self.held_out.append(round(held_out, 5))


def first_stays_under(values: Sequence[float], threshold: float) -> int | None:
  """Index from which on all values are below the threshold; None where there is none.

  NaN is not below the threshold.
  """
  first = None
  for index in reversed(range(len(values))):
    if not values[index] < threshold:
      break
    first = index
  return first


def reached(
  curve: Curve, thresholds: Sequence[float], *, steps_per_epoch: float, compile_seconds: float
) -> dict[str, dict[str, Any]]:
  """When a curve first stays under each threshold.

  Returns:
    {"train" or "held_out": {threshold as text: {step, epoch, seconds, with_compilation} or None}}.
  """
  found: dict[str, dict[str, Any]] = {}
  for name in ("train", "held_out"):
    found[name] = {}
    for threshold in thresholds:
      index = first_stays_under(getattr(curve, name), threshold)
      found[name][str(threshold)] = (
        index
        if index is None
        else {
          "step": curve.steps[index],
          "epoch": round(curve.steps[index] / steps_per_epoch, 2),
          "seconds": curve.seconds[index],
          "with_compilation": round(curve.seconds[index] + compile_seconds, 3),
        }
      )
  return found


def middle(
  runs: Sequence[dict[str, Any]], images: str, threshold: float, what: str
) -> float | None:
  """Median over runs of the time at which a threshold is reached; None unless most runs reach it.

  A run that does not reach it counts as later than those that do.
  """
  found = [run["reached"][images][str(threshold)] for run in runs]
  times = sorted(float("inf") if value is None else value[what] for value in found)
  median = times[len(times) // 2]  # the later one of an even number
  return None if median == float("inf") else median


def compare(
  recipes: dict[str, dict[str, Any]], thresholds: Sequence[float], *, ours: str
) -> list[dict[str, Any]]:
  """How many times sooner `ours` is, by threshold, images and recipe, in seconds and in steps.

  Where the baseline does not reach a threshold within its budget, `reached` is False, its figures
  are those of its last measurement, and the ratios are lower bounds.
  """
  rows: list[dict[str, Any]] = []
  mine = recipes[ours]
  for name, recipe in recipes.items():
    for images in ("train", "held_out") if name != ours else ():
      for threshold in thresholds:
        row: dict[str, Any] = {"recipe": name, "images": images, "threshold": threshold}
        row["reached"] = middle(recipe["runs"], images, threshold, "step") is not None
        for what, key in (
          ("step", "steps"),
          ("seconds", "seconds"),
          ("with_compilation", "with_compilation"),
        ):
          first = middle(mine["runs"], images, threshold, what)
          second = middle(recipe["runs"], images, threshold, what)
          if second is None:
            ends = [run["end"][what] for run in recipe["runs"]]
            second = statistics.median(ends)
          row |= {f"ours_{key}": first, f"baseline_{key}": second}
          row[f"times_{key}"] = round(second / first, 3) if first else None
        rows.append(row)
  return rows
