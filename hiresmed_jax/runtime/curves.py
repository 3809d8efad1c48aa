"""The curves of a metrics.jsonl, one panel for each quantity."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import writer

# What a panel says on its axis: the quantity and its unit. Others show their own name.
_TITLES = {
  "psnr": "PSNR (dB)",
  "ssim": "SSIM",
  "l1": "L1 (share of the intensity range)",
  "reconstruction": "reconstruction loss",
  "perceptual": "perceptual distance (LPIPS)",
  "lpips": "perceptual distance (LPIPS)",
  "commitment": "commitment (squared distance, 0..4)",
  "codebook": "codebook (squared distance, 0..4)",
  "entropy": "code entropy term (nats)",
  "gan_weight": "weight of the GAN term",
  "code_usage": "share of codes in use",
  "code_perplexity": "code perplexity (codes)",
  "revived": "codes revived (per step)",
  "gradient_norm": "norm of the gradient",
  "skipped": "updates skipped (count)",
  "images_per_second": "images per second",
}
_FIRST = ("total", "reconstruction", "psnr", "l1", "ssim", "perceptual", "lpips")
_LATER = ("code_usage", "code_perplexity", "revived", "gradient_norm", "skipped")
_LAST = ("images_per_second",)
# One number for the whole run, or a repetition of another curve.
_NOT_CURVES = (
  "step",
  "time",
  "skipped_in_a_row",
  "tflops_per_second",
  "peak_device_memory_bytes",
  "peak_resident_memory_bytes",
)
_LINEAR = ("psnr", "ssim", "code_usage", "code_perplexity", "gan_weight")
# Without noise: a running mean would only blur their steps.
_EXACT = ("gan_weight", "skipped", "revived", "code_usage", "code_perplexity")
_TRAIN, _VALIDATION, _BROKEN = "#1f5fa8", "#d1610c", "#c00000"


def loss_curves(metrics: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
  """Draws every quantity of a metrics.jsonl over the steps, training and validation together.

  A key "val_x" shares the panel of "x". A quantity that stays positive and spans more than a factor
  of 20 gets a logarithmic axis. Long training curves are drawn faintly, their running mean boldly.
  Steps at which a value was not finite are marked on the lower edge.

  Raises:
    UserError: the file holds nothing to draw.
  """
  entries = writer.read(metrics)
  keys = dict.fromkeys(key.removeprefix("val_") for entry in entries for key in entry)
  names = [name for name in keys if name not in _NOT_CURVES]
  if not names:
    raise UserError(f"{metrics} holds no measurements to draw")
  names.sort(key=lambda name: (name in _LAST, name in _LATER, _rank(name)))
  across = min(3, len(names))
  down = -(-len(names) // across)
  figure = Figure(figsize=(4.4 * across, 2.7 * down), dpi=100, layout="constrained")
  FigureCanvasAgg(figure)
  panels = np.ravel(figure.subplots(down, across, squeeze=False))
  for panel, name in itertools.zip_longest(panels, names):
    if name is None:
      panel.axis("off")
    else:
      _draw_curve(panel, name, entries)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)


def _draw_curve(panel: Axes, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
  drawn = []
  for key, label, colour in ((name, "train", _TRAIN), (f"val_{name}", "validation", _VALIDATION)):
    found = [(entry["step"], entry[key]) for entry in entries if key in entry]
    if not found:
      continue
    steps, values = (np.array(column, float) for column in zip(*found))
    finite = np.isfinite(values)
    if not finite.all():
      edge = panel.get_xaxis_transform()
      broken: dict[str, Any] = {
        "color": _BROKEN,
        "marker": "|",
        "ls": "",
        "transform": edge,
        "clip_on": False,
      }
      panel.plot(steps[~finite], np.zeros((~finite).sum()), label="not finite", **broken)
    steps, values = steps[finite], values[finite]
    if not len(values):
      continue
    drawn.append(values)
    label = f"{label} (last {values[-1]:.4g})"
    if key.startswith("val_"):
      panel.plot(steps, values, color=colour, marker="o", ms=3.5, lw=1.2, label=label, zorder=3)
    else:
      window = 1 if name in _EXACT else len(values) // 40
      _draw_train(panel, steps, values, colour, label, window)
  panel.set_title(_TITLES.get(name, name.replace("_", " ")), fontsize=10)
  panel.set_xlabel("step", fontsize=8)
  panel.set_xlim(0, max(entry["step"] for entry in entries) or 1)
  panel.tick_params(labelsize=8)
  panel.grid(alpha=0.25)
  panel.spines[["top", "right"]].set_visible(False)
  values = np.concatenate(drawn) if drawn else np.ones(1)
  if name not in _LINEAR and values.min() > 0 and values.max() > 20 * values.min():
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
  if name == "code_usage":
    panel.set_ylim(0, 1.02)
  panel.legend(fontsize=8, frameon=False)


def _draw_train(
  panel: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str, window: int
) -> None:
  if window < 2:
    panel.plot(steps, values, color=colour, lw=1.2, label=label)
    return
  panel.plot(steps, values, color=colour, lw=0.7, alpha=0.3)
  mean = np.convolve(values, np.ones(window) / window, mode="valid")
  middle = np.convolve(steps, np.ones(window) / window, mode="valid")
  panel.plot(middle, mean, color=colour, lw=1.6, label=f"{label}, mean of {window}")


def _rank(name: str) -> int:
  return _FIRST.index(name) if name in _FIRST else len(_FIRST)
