"""Pictures and numbers of the location route: what is found, and where lesions may be."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import matplotlib
import numpy as np
from rich.console import Console

from hiresmed_jax.routes import report
from hiresmed_jax.routes.report import Evaluate, Examples, HostBatch
from hiresmed_jax.runtime.figures import image_grid

ROWS = 4  # of a figure
_SHOWN = 5  # detections of an image
_FOUND, _REAL = (1.0, 0.75, 0.1), (0.1, 0.9, 1.0)


def draw_detections(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes detections_<step>.png: validation images with real boxes beside the surest found ones.

  What `examples` have as made are f32[L, 5], boxes xyxy and scores, the surest first.
  """
  _grid(folder / f"detections_{step:07d}.png", examples, f"validation, step {step}")


def final_evaluation(
  evaluate: Evaluate,
  *,
  val: Iterable[HostBatch],
  test: Iterable[HostBatch],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Evaluates the best weights as a detector, lesions in place, and draws.

  `val` images chose the weights; `test` may be none.

  Returns:
    {"val", "held_out": numbers of `metrics.detection` or None, "protocol"}.
  """
  numbers, images = evaluate(val, lambda batch, made: None)
  results: dict[str, Any] = {
    "protocol": "COCO average precision, boxes as annotated; FROC: centre inside the real box; "
    "lesions in place; held-out groups (sha256 rule, group 0); weights with the highest validation "
    "mAP50-95",
    "val": numbers | {"images": images},
    "held_out": None,
  }
  examples = Examples(ROWS)
  numbers, images = evaluate(test, examples.add)
  if images:
    results["held_out"] = numbers | {"images": images}
  if jax.process_index() == 0:
    if images:
      _grid(folder / "figures" / "held_out.png", examples, "held-out images, best weights")
    report.write(folder, results)
  return results


def draw_priors(
  pictures: Sequence[tuple[Sequence[np.ndarray], np.ndarray]], path: pathlib.Path
) -> None:
  """Held-out images without their lesions, and each prior laid over them; the lesions' places.

  `pictures` are for each image ([shown, atlas, yolo, both, and perhaps hosts], f32[H, W] in [0, 1]
  each, and the points f64[n, 2] (x, y) where its lesions were).
  """
  rows = []
  for (shown, *maps), points in pictures:
    row = [np.repeat(shown[..., None], 3, axis=-1), *(_laid(shown, score) for score in maps)]
    boxes = np.concatenate([points - 6, points + 6], axis=1)
    rows.append([_outlined(image, boxes, _REAL) for image in row])
  if rows:
    image_grid(
      path,
      rows,
      columns=("lesions taken out", "atlas", "yolo", "atlas x yolo", "hosts")[: len(rows[0])],
      cell=400,
      footer="held-out images; outlined: where the lesions were; bright: likely, map by map",
    )


def print_results(done: Mapping[str, Any], folder: pathlib.Path) -> None:
  """The results on the terminal, and where the pictures are."""
  results, console = done["results"], Console(soft_wrap=True)
  numbers, name = (
    (results["held_out"], "held-out") if results["held_out"] else (results["val"], "validation")
  )
  console.print(
    f"location: {numbers['images']} {name} images: mAP50 {numbers['map50']:.3f}, mAP50-95 "
    f"{numbers['map50_95']:.3f}, FROC {numbers['froc']:.3f}"
  )
  prior = results["prior"]
  console.print(f"the prior for places, chosen on validation images: {prior['name']}")
  if scores := prior["held_out"]:
    for key, gain in scores["over_uniform"].items():
      console.print(
        f"{key}: the places of {scores['lesions']} held-out lesions, which were taken out of the "
        f"images, {math.exp(gain['mean']):.1f} times as likely as if all places were alike "
        f"({gain['mean']:+.2f} nats, {gain['low']:+.2f} to {gain['high']:+.2f})"
      )
  console.print(f"figures: {folder / 'figures' / 'priors.png'}")


def _grid(path: pathlib.Path, examples: Examples, footer: str) -> None:
  rows, labels = [], []
  for row in examples.rows():
    grey = np.clip((row["images_m11"].mean(axis=-1, keepdims=True) + 1) / 2, 0, 1)
    grey, surest = grey.repeat(3, axis=-1), row["made"][:_SHOWN]
    surest = surest[surest[:, 4] > 0]
    real = np.reshape(row["boxes"], (-1, 4))
    rows.append(
      [_outlined(grey, real, _REAL), _outlined(grey, surest[:, :4], _FOUND, surest[:, 4])]
    )
    labels.append("sure by\n" + "\n".join(f"{score:.2f}" for score in surest[:, 4]))
  image_grid(
    path, rows, columns=("annotated", "found, brightest surest"), labels=labels, cell=512,
    footer=footer,
  )  # fmt: skip


def _outlined(
  image: np.ndarray, boxes: np.ndarray, colour: tuple[float, ...], scores: np.ndarray | None = None
) -> np.ndarray:
  """f32[H, W, 3] with one-pixel outlines around boxes, fainter where less sure."""
  out = image.astype(np.float32).copy()
  height, width = out.shape[:2]
  strengths = np.ones(len(boxes)) if scores is None else scores / max(float(scores.max()), 1e-9)
  for box, strength in zip(boxes, strengths):
    x1, y1 = np.floor(box[:2]).astype(int) - 1
    x2, y2 = np.ceil(box[2:]).astype(int)
    rows, columns = np.clip([y1, y2], 0, height - 1), np.clip([x1, x2], 0, width - 1)
    paint = np.asarray(colour, np.float32)
    share = np.float32(0.35 + 0.65 * strength)
    for line in (
      np.s_[rows[0], columns[0] : columns[1] + 1],
      np.s_[rows[1], columns[0] : columns[1] + 1],
      np.s_[rows[0] : rows[1] + 1, columns[0]],
      np.s_[rows[0] : rows[1] + 1, columns[1]],
    ):
      out[line] = share * paint + (1 - share) * out[line]
  return out


def _laid(shown: np.ndarray, score: np.ndarray) -> np.ndarray:
  """A map of [0, 1] over a grey image, f32[H, W, 3]."""
  colour = matplotlib.colormaps["inferno"](score)[..., :3]
  strength = (0.75 * np.sqrt(score))[..., None]
  return ((1 - strength) * shown[..., None] + strength * colour).astype(np.float32)
