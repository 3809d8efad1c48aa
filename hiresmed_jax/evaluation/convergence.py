"""When runs reach an error: curves over steps, epochs and seconds from metrics.jsonl files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.figures import save

QUANTITY = "reconstruction"  # the loss of the paper's Figure 8
SMOOTH = 5  # measurements of a running mean; validation numbers are not smoothed
_AXES = (("step", "step"), ("epoch", "epoch"), ("seconds", "seconds of the run"))
_COLOURS = ("#1f5fa8", "#d1610c", "#3a8a3a", "#8a3a8a", "#7a6a00", "#444444")
_LEVELS = (2.0, 1.25, 1.05)  # of the greatest of the lowest errors


class Curve(NamedTuple):
  """One run: f64[K] each; epochs are NaN where the number of images is unknown."""

  step: np.ndarray
  epoch: np.ndarray
  seconds: np.ndarray
  value: np.ndarray


def read(folder: Path, quantity: str = QUANTITY) -> Curve:
  """The curve of a workdir, or of any folder with a metrics.jsonl.

  `quantity` is a key of its lines; lower is better. A number of single batches is smoothed: each
  value is the mean of the last 5 measurements, of fewer at the beginning.

  Raises:
    UserError: no file, or no such quantity in it.
  """
  for path in (folder / "metrics.jsonl", folder / "background" / "metrics.jsonl"):
    if path.is_file():
      break
  else:
    raise UserError(f"--run {folder}: there is no metrics.jsonl")
  entries = run_folder.read_metrics(path)
  found = [entry for entry in entries if np.isfinite(entry.get(quantity, np.nan))]
  if not found:
    known = sorted({key for entry in entries for key in entry} - {"step", "time"})
    raise UserError(f"--run {path} has no {quantity}; it has {', '.join(known) or 'nothing'}")
  steps = np.array([entry["step"] for entry in found], np.float64)
  began = entries[0].get("time", np.nan)
  seconds = np.array([entry.get("time", np.nan) - began for entry in found], np.float64)
  return Curve(
    steps,
    steps / (_steps_per_epoch(path.parent) or np.nan),
    seconds,
    smoothed(np.array([entry[quantity] for entry in found], np.float64), window_of(quantity)),
  )


def window_of(quantity: str) -> int:
  """Measurements that a value of a quantity is the mean of."""
  return 1 if quantity.startswith("val_") else SMOOTH


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
  """f64[K] means of the last `window` values each."""
  total = np.cumsum(np.concatenate([[0.0], values]))
  last = np.arange(1, len(values) + 1)
  first = np.maximum(last - window, 0)
  return np.asarray((total[last] - total[first]) / (last - first))


def first_below(value: np.ndarray, at: np.ndarray, threshold: float) -> float:
  """The first place from which all values stay at or below a threshold; NaN for none."""
  above = np.flatnonzero(value > threshold)
  first = 0 if not len(above) else int(above[-1]) + 1
  return float(at[first]) if first < len(value) else float("nan")


def compare(
  runs: Mapping[str, Sequence[Curve]], thresholds: Sequence[float] = ()
) -> list[dict[str, Any]]:
  """For each threshold and name: when its runs came to stay below.

  Args:
    runs: the curves of all seeds by name.
    thresholds: of the quantity; none: 2, 1.25 and 1.05 times the greatest of the lowest errors,
      which all runs reach.

  Returns:
    [{"threshold", "name", "reached", "runs", "step", "epoch", "seconds"}], the last three
    {"value": mean over the runs that reached it, "sd"} or {"missing"}.
  """
  lowest = max(float(c.value.min()) for curves in runs.values() for c in curves)
  rows = []
  for threshold in thresholds or [level * lowest for level in _LEVELS]:
    for name, curves in runs.items():
      row: dict[str, Any] = {"threshold": threshold, "name": name, "runs": len(curves)}
      for axis, _ in _AXES:
        found = [first_below(c.value, getattr(c, axis), threshold) for c in curves]
        reached = [value for value in found if np.isfinite(value)]
        if axis == "step":
          row["reached"] = len(reached)
        if reached:
          sd = float(np.std(reached, ddof=1)) if len(reached) > 1 else None
          row[axis] = {"value": float(np.mean(reached)), "sd": sd}
        else:
          why = "not known" if row["reached"] else "no run came to stay below"
          row[axis] = {"missing": why}
      rows.append(row)
  return rows


def draw(
  path: Path, runs: Mapping[str, Sequence[Curve]], thresholds: Sequence[float], quantity: str
) -> None:
  """Draws the curves over each known axis, with thresholds in grey and one colour a name."""
  axes = [
    (axis, title)
    for axis, title in _AXES
    if any(np.isfinite(getattr(c, axis)).any() for curves in runs.values() for c in curves)
  ]
  figure = Figure(figsize=(4.6 * len(axes), 3.6), dpi=110, layout="constrained")
  FigureCanvasAgg(figure)
  panels = np.ravel(figure.subplots(1, len(axes), sharey=True, squeeze=False))
  for panel, (axis, title) in zip(panels, axes):
    for threshold in thresholds:
      panel.axhline(threshold, color="0.8", lw=0.8, zorder=0)
    for number, (name, curves) in enumerate(runs.items()):
      for seed, curve in enumerate(curves):
        panel.plot(
          getattr(curve, axis), curve.value, color=_COLOURS[number % len(_COLOURS)], marker="o",
          ms=2.5, lw=1.2, alpha=0.85, label=None if seed else f"{name}, {_runs(len(curves))}",
        )  # fmt: skip
    panel.set_xlabel(title)
    panel.grid(alpha=0.2)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_yscale("log")
    panel.set_xlim(left=0)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
  panels[0].set_ylabel(quantity)
  panels[-1].legend(fontsize=8, frameon=False)
  save(figure, path)


def _runs(count: int) -> str:
  return "1 run" if count == 1 else f"{count} runs"


def _steps_per_epoch(folder: Path) -> float | None:
  """Steps of an epoch, from the files that `train` writes; None where they are missing."""
  try:
    config = json.loads(files.content(folder / "config.json"))["config"]
    noted = folder.parent / "data.json"
    root = (
      Path(json.loads(files.content(noted))["root"]) if noted.is_file() else folder.parent / "data"
    )
    images = int(json.loads(files.content(root / "card.json"))["splits"]["train"])
    return float(max(1, images // int(config[folder.name]["batch_size"])))
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return None
