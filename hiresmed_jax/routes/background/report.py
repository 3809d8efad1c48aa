"""Pictures and numbers of the background route: what a person looks at, what DONE.json holds."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from hiresmed_jax import files
from hiresmed_jax.metrics.image import contrast_kept, floors
from hiresmed_jax.runtime.figures import image_grid, loss_curves

HostBatch = Mapping[str, Any]
Evaluate = Callable[[Iterable[HostBatch]], tuple[dict[str, float], list[np.ndarray]]]

_DIAMETER_BINS = (0.0, 5.0, 8.0, 12.0, np.inf)  # pixels of the network's input
_ROWS = 4


def draw_reconstructions(
  step: int, pictures: Sequence[np.ndarray], *, batches: Sequence[HostBatch], folder: pathlib.Path
) -> None:
  """Writes reconstruction_<step>.png: original, reconstruction and difference, lesions magnified.

  Args:
    step: of the run, for the name.
    pictures: reconstructions f32[n, H, W, C] in [-1, 1], one array a batch, without padding.
    batches: the host batches that they were made from.
    folder: of the figures.
  """
  _grid(folder / f"reconstruction_{step:07d}.png", pictures, batches, f"validation, step {step}")


def final_evaluation(
  evaluate: Evaluate,
  *,
  train: Sequence[HostBatch],
  test: Sequence[HostBatch],
  all_train: Callable[[], Iterable[HostBatch]],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Judges the best weights on the held-out groups, and draws the figures of the run.

  Args:
    evaluate: host batches -> (numbers, pictures), as `programs.evaluate` with the best state.
    train: some training images, for the gap between what was seen and what was not.
    test: all held-out images; may be none.
    all_train: every training image, for the floors.
    folder: <workdir>/background.

  Returns:
    {"held_out": numbers or None, "train": numbers, "floors": PSNR of the mean training image and
    of the nearest one, "contrast_kept": by diameter, "protocol": how to read them}.
  """
  results: dict[str, Any] = {
    "protocol": "PSNR over the pixels of the patient image, data range 1; means over images; "
    "held-out groups (sha256 rule, group 0); weights with the lowest validation l1",
    "train": evaluate(train)[0] | {"images": _count(train)},
    "held_out": None,
  }
  if test:
    numbers, pictures = evaluate(test)
    results["held_out"] = numbers | {"images": _count(test)}
    results["gap_psnr"] = results["train"]["psnr"] - numbers["psnr"]
    results["floors"] = _floors(all_train(), test)
    results["contrast_kept"] = _contrast(pictures, test)
  if jax.process_index() == 0:
    if test:
      _grid(folder / "figures" / "held_out.png", pictures, test, "held-out images, best weights")
    loss_curves(folder / "metrics.jsonl", folder / "figures" / "curves.png")
    files.write_json(folder / "results.json", results)
  return results


def print_results(done: Mapping[str, Any], folder: pathlib.Path) -> None:
  """The results as a table on the terminal, and where the pictures are."""
  results, console = done["results"], Console()
  held_out = results["held_out"]
  table = Table("", "PSNR (dB)", "L1 (0..1)", "codes in use", title="reconstruction")
  for name, numbers in (("held-out images", held_out), ("training images", results["train"])):
    if numbers:
      table.add_row(
        f"{numbers['images']} {name}",
        f"{numbers['psnr']:.2f}",
        f"{numbers['l1']:.4f}",
        f"{numbers['code_usage']:.0%}",
      )
  if held_out:
    for name, key in (("mean training image", "mean_image"), ("nearest", "nearest_image")):
      table.add_row(f"floor: {name}", f"{results['floors'][key]:.2f}", "", "")
  console.print(table)
  for kept in results.get("contrast_kept", ()):
    console.print(
      f"lesions of {kept['diameter_px']} px: {kept['median']:.0%} of the contrast kept "
      f"(median of {kept['lesions']})"
    )
  if (held_out or results["train"])["code_usage"] < 0.2:
    console.print("below 20 % of the codes are in use: lower codebook.num_codes or train longer")
  name = "held_out.png" if held_out else ""
  console.print(f"figures: {folder / 'figures' / name}", soft_wrap=True)


def _count(batches: Iterable[HostBatch]) -> int:
  return int(sum(batch["weight"].sum() for batch in batches))


def _grey_01(images_m11: np.ndarray) -> np.ndarray:
  """[..., C] in [-1, 1] -> [...] in [0, 1]."""
  return np.clip((np.asarray(images_m11, np.float32).mean(axis=-1) + 1.0) / 2.0, 0.0, 1.0)


def _originals(batches: Iterable[HostBatch]) -> list[np.ndarray]:
  return [batch["images_m11"][batch["weight"] > 0] for batch in batches]


def _grid(
  path: pathlib.Path, pictures: Sequence[np.ndarray], batches: Sequence[HostBatch], footer: str
) -> None:
  """`_ROWS` images from all over the set, so that not all are of one patient; lesions preferred."""
  originals = np.concatenate(_originals(batches))
  made = np.concatenate(pictures)
  boxes = [np.asarray(b).reshape(-1, 4) for batch in batches for b in batch["boxes"]]
  choice = [i for i, own in enumerate(boxes) if len(own)] or list(range(len(originals)))
  order = (
    [choice[i * len(choice) // _ROWS] for i in range(_ROWS)] if len(choice) > _ROWS else choice
  )
  rows = []
  for i in order:
    before, after = _grey_01(originals[i]), _grey_01(made[i])
    # Grey is no difference; brighter than the original shows bright.
    rows.append([before, after, np.clip(0.5 + 2.0 * (after - before), 0.0, 1.0)])
  image_grid(
    path,
    rows,
    columns=("original", "reconstruction", "difference x 4"),
    boxes=[boxes[i] for i in order] if any(len(boxes[i]) for i in order) else None,
    cell=512,
    footer=footer,
  )


def _floors(all_train: Iterable[HostBatch], test: Sequence[HostBatch]) -> dict[str, float]:
  held_out = np.concatenate(_originals(test))
  found = floors(
    ((batch["images_m11"], batch["weight"]) for batch in all_train),
    jnp.asarray(held_out),
    data_range=2.0,
  )
  return {name: float(np.mean(values)) for name, values in found._asdict().items()}


def _contrast(pictures: Sequence[np.ndarray], batches: Sequence[HostBatch]) -> list[dict[str, Any]]:
  """Median share of lesion contrast kept, by diameter in pixels."""
  kept, diameters = [], []
  for made, original, batch in zip(pictures, _originals(batches), batches):
    boxes = _padded_boxes(batch["boxes"])
    if boxes.shape[1]:
      found = _contrast_kept(_grey_01(original), _grey_01(made), boxes)
      kept.append(np.ravel(found[0]))
      diameters.append(np.ravel(found[1]))
  if not kept:
    return []
  share, diameter = np.concatenate(kept), np.concatenate(diameters)
  rows = []
  for low, high in itertools.pairwise(_DIAMETER_BINS):
    chosen = share[(diameter >= low) & (diameter < high) & np.isfinite(share)]
    if len(chosen):
      name = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"
      quartiles = np.percentile(chosen, [25, 50, 75])
      rows.append(
        {
          "diameter_px": name,
          "lesions": len(chosen),
          "median": float(quartiles[1]),
          "quartiles": [float(quartiles[0]), float(quartiles[2])],
        }
      )
  return rows


@functools.cache
def _jitted_contrast() -> Callable[..., Any]:
  return jax.jit(contrast_kept)


def _contrast_kept(originals: np.ndarray, pictures: np.ndarray, boxes: np.ndarray) -> Any:
  return jax.device_get(_jitted_contrast()(originals, pictures, boxes))


def _padded_boxes(boxes: Sequence[np.ndarray]) -> np.ndarray:
  """-> f32[N, M, 4], NaN where an image has fewer; M a power of two, so that shapes are few."""
  most = max((len(b) for b in boxes), default=0)
  width = 1 << (most - 1).bit_length() if most else 0
  padded = np.full((len(boxes), width, 4), np.nan, np.float32)
  for row, own in zip(padded, boxes):
    row[: len(own)] = own
  return padded
