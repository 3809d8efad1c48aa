"""Pictures and numbers of the background route: what a person looks at, what DONE.json holds."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from hiresmed_jax.metrics.image import contrast_kept, floors, verdict
from hiresmed_jax.routes import report
from hiresmed_jax.routes.programs import local_share
from hiresmed_jax.routes.report import Evaluate, Examples, HostBatch
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.figures import image_grid

ROWS = 4  # of a figure
_DIAMETER_BINS = (0.0, 5.0, 8.0, 12.0, np.inf)  # pixels of the network's input


def draw_reconstructions(step: int, examples: Examples, *, folder: pathlib.Path) -> None:
  """Writes reconstruction_<step>.png: original, reconstruction, difference, lesions magnified."""
  _grid(folder / f"reconstruction_{step:07d}.png", examples, f"validation, step {step}")


def final_evaluation(
  evaluate: Evaluate,
  *,
  train: Iterable[HostBatch],
  test: Callable[[], Iterable[HostBatch]],
  all_train: Callable[[], Iterable[HostBatch]],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Evaluates the best weights on the held-out groups, and draws the figures of the run.

  Every process takes part. A few batches at most are in memory, however many images there are.

  Args:
    evaluate: `programs.evaluate` with the best state.
    train: some training images, for the gap between images that were trained on and others.
    test: all held-out images, read anew at each call; may be none.
    all_train: every training image, likewise, for the floors.
    folder: <workdir>/background.

  Returns:
    {"held_out": numbers or None, "train": numbers, "floors": PSNR of the mean training image and
    of the nearest one, "contrast_kept": by diameter, "protocol": how to read them}.
  """
  numbers, images = evaluate(train, lambda batch, made: None)
  results: dict[str, Any] = {
    "protocol": "PSNR over the pixels of the patient image, data range 1; means over images; "
    "held-out groups (sha256 rule, group 0); weights with the lowest validation l1",
    "train": numbers | {"images": images},
    "held_out": None,
  }
  examples, contrast = Examples(ROWS), _Contrast()

  def look(batch: HostBatch, made: np.ndarray) -> None:
    examples.add(batch, made)
    contrast.add(batch, made)

  numbers, images = evaluate(test(), look)
  if images:
    results["held_out"] = numbers | {"images": images}
    results["gap_psnr"] = results["train"]["psnr"] - numbers["psnr"]
    results["floors"] = _floors(all_train, map(local_share, test()))
    results["contrast_kept"] = contrast.by_diameter()
  if jax.process_index() == 0:
    if images:
      _grid(folder / "figures" / "held_out.png", examples, "held-out images, best weights")
    report.write(folder, results)
  return results


def print_results(done: Mapping[str, Any], folder: pathlib.Path) -> None:
  """The results as a table on the terminal, and where the pictures are."""
  results, console = done["results"], Console()
  held_out = results["held_out"]
  table = Table("", "PSNR (dB)", "L1 (0..1)", "codes in use", title="background: reconstruction")
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
      f"(median of {kept['lesions']}): {verdict(kept['median'])}"
    )
  if (held_out or results["train"])["code_usage"] < 0.2:
    console.print("below 20 % of the codes are in use: lower codebook.num_codes or train longer")
  name = "held_out.png" if held_out else ""
  console.print(f"figures: {folder / 'figures' / name}", soft_wrap=True)


def _grey_01(images_m11: np.ndarray) -> np.ndarray:
  """[..., C] in [-1, 1] -> [...] in [0, 1]."""
  return np.clip((np.asarray(images_m11, np.float32).mean(axis=-1) + 1.0) / 2.0, 0.0, 1.0)


def _grid(path: pathlib.Path, examples: Examples, footer: str) -> None:
  rows, boxes = [], []
  for row in examples.rows():
    before, after = _grey_01(row["images_m11"]), _grey_01(row["made"])
    # Grey is no difference; brighter than the original shows bright.
    rows.append([before, after, np.clip(0.5 + 2.0 * (after - before), 0.0, 1.0)])
    boxes.append(np.reshape(row["boxes"], (-1, 4)))
  image_grid(
    path,
    rows,
    columns=("original", "reconstruction", "difference x 4"),
    boxes=boxes if any(map(len, boxes)) else None,
    cell=512,
    footer=footer,
  )


def _floors(
  all_train: Callable[[], Iterable[HostBatch]], test: Iterator[HostBatch]
) -> dict[str, float]:
  """Means over all held-out images; `test` has this process's share of them."""

  def pairs(batches: Iterable[HostBatch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((batch["images_m11"], batch["weight"]) for batch in batches)

  found = floors(lambda: pairs(all_train()), pairs(test), data_range=2.0)
  return {name: float(jnp.mean(meshes.gather(own))) for name, own in found._asdict().items()}


class _Contrast:
  """Share of the contrast that each lesion keeps, gathered batch by batch."""

  def __init__(self) -> None:
    self._shares: list[np.ndarray] = []
    self._diameters: list[np.ndarray] = []

  def add(self, batch: HostBatch, made: np.ndarray) -> None:
    boxes = _padded_boxes(batch["boxes"], len(made))
    if boxes.shape[1]:
      images = _grey_01(batch["images_m11"]), _grey_01(made)
      share, diameter = jax.device_get(_jitted_contrast()(*images, boxes))
      known = np.isfinite(share)
      self._shares.append(share[known])
      self._diameters.append(diameter[known])

  def by_diameter(self) -> list[dict[str, Any]]:
    """Median and quartiles over the lesions of all processes, by diameter in pixels."""
    none = np.zeros(0, np.float32)
    shares, diameters = (
      meshes.gather(np.concatenate([none, *own])) for own in (self._shares, self._diameters)
    )
    rows = []
    for low, high in itertools.pairwise(_DIAMETER_BINS):
      chosen = shares[(diameters >= low) & (diameters < high)]
      if len(chosen):
        quartiles = np.percentile(chosen, [25, 50, 75])
        rows.append(
          {
            "diameter_px": f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more",
            "lesions": len(chosen),
            "median": float(quartiles[1]),
            "quartiles": [float(quartiles[0]), float(quartiles[2])],
          }
        )
    return rows


@functools.cache
def _jitted_contrast() -> Callable[..., Any]:
  return jax.jit(contrast_kept)


def _padded_boxes(boxes: Sequence[np.ndarray], count: int) -> np.ndarray:
  """-> f32[count, M, 4], NaN where there are fewer; M a power of two, so that shapes are few."""
  most = max((len(own) for own in boxes), default=0)
  width = 1 << (most - 1).bit_length() if most else 0
  padded = np.full((count, width, 4), np.nan, np.float32)
  for row, own in zip(padded, boxes):
    row[: len(own)] = own
  return padded
