"""Pictures and numbers of the location route: what is found, and where lesions may be."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import matplotlib
import numpy as np
from rich.console import Console

from hiresmed_jax import files
from hiresmed_jax.runtime.figures import image_grid, loss_curves

HostBatch = Mapping[str, Any]
Evaluate = Callable[[Iterable[HostBatch]], tuple[dict[str, float], list[np.ndarray]]]

_ROWS = 4
_SHOWN = 5  # detections of an image
_FOUND, _REAL = (1.0, 0.75, 0.1), (0.1, 0.9, 1.0)


def draw_detections(
  step: int, pictures: Sequence[np.ndarray], *, batches: Sequence[HostBatch], folder: pathlib.Path
) -> None:
  """Writes detections_<step>.png: validation images with real boxes beside the surest found ones.

  Args:
    step: of the run, for the name.
    pictures: f32[n, L, 5], boxes xyxy and scores, the surest first; one array a batch.
    batches: host batches that they were found in.
    folder: of the figures.
  """
  _grid(folder / f"detections_{step:07d}.png", pictures, batches, f"validation, step {step}")


def final_evaluation(
  evaluate: Evaluate,
  *,
  val: Sequence[HostBatch],
  test: Sequence[HostBatch],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Judges the best weights as a detector, lesions in place, and draws.

  Args:
    evaluate: host batches -> (numbers, detections), as `programs.evaluate` with the best state.
    val: validation images, which chose the weights.
    test: held-out images; may be none.
    folder: <workdir>/location.

  Returns:
    {"val", "held_out": numbers of `metrics.detection` or None, "protocol"}.
  """
  results: dict[str, Any] = {
    "protocol": "COCO average precision, boxes as annotated; FROC: centre inside the real box; "
    "lesions in place; held-out groups (sha256 rule, group 0); weights with the highest validation "
    "mAP50-95",
    "val": evaluate(val)[0] | {"images": _count(val)},
    "held_out": None,
  }
  if test:
    numbers, found = evaluate(test)
    results["held_out"] = numbers | {"images": _count(test)}
  if jax.process_index() == 0:
    if test:
      _grid(folder / "figures" / "held_out.png", found, test, "held-out images, best weights")
    loss_curves(folder / "metrics.jsonl", folder / "figures" / "curves.png")
    files.write_json(folder / "results.json", results)
  return results


def draw_priors(
  pictures: Sequence[tuple[Sequence[np.ndarray], np.ndarray]], path: pathlib.Path
) -> None:
  """Held-out images without their lesions, and each prior laid over them; the lesions' places.

  Args:
    pictures: for each image ([shown, atlas, yolo, both], f32[H, W] in [0, 1] each, and the points
      f64[n, 2] (x, y) where its lesions were).
    path: of the PNG.
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
      columns=("lesions taken out", "atlas", "yolo", "atlas x yolo"),
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
    f"{numbers['images']} {name} images: mAP50 {numbers['map50']:.3f}, mAP50-95 "
    f"{numbers['map50_95']:.3f}, FROC {numbers['froc']:.3f}"
  )
  prior = results["prior"]
  console.print(f"the prior for places, chosen on validation images: {prior['name']}")
  if told := prior["held_out"]:
    for key, gain in told["over_uniform"].items():
      console.print(
        f"{key}: {gain['mean']:+.2f} nats a lesion over uniform ({gain['low']:+.2f} to "
        f"{gain['high']:+.2f}), {told['lesions']} held-out lesions without their pixels"
      )
  console.print(f"figures: {folder / 'figures' / 'priors.png'}")


def _count(batches: Iterable[HostBatch]) -> int:
  return int(sum(batch["weight"].sum() for batch in batches))


def _grid(
  path: pathlib.Path, found: Sequence[np.ndarray], batches: Sequence[HostBatch], footer: str
) -> None:
  """`_ROWS` images with lesions, from all over the set."""
  images = np.concatenate([batch["images_m11"][batch["weight"] > 0] for batch in batches])
  real = [np.reshape(own, (-1, 4)) for batch in batches for own in batch["boxes"]]
  boxes = np.concatenate(list(found))
  with_lesions = [i for i, own in enumerate(real) if len(own)] or list(range(len(images)))
  picks = np.unique(np.linspace(0, len(with_lesions) - 1, _ROWS).round().astype(int))
  rows, labels = [], []
  for i in (with_lesions[pick] for pick in picks):
    grey = np.clip((images[i].mean(axis=-1, keepdims=True) + 1) / 2, 0, 1).repeat(3, axis=-1)
    surest = boxes[i][:_SHOWN]
    surest = surest[surest[:, 4] > 0]
    rows.append(
      [_outlined(grey, real[i], _REAL), _outlined(grey, surest[:, :4], _FOUND, surest[:, 4])]
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
