"""Curves of the convergence benchmark: error against epochs and against seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#b2182b", "#2166ac", "#67a9cf", "#1b7837", "#7fbf7b")


def draw(result: Mapping[str, Any], path: Path) -> None:
  """Draws the mean over seeds (line) and their range (band) of each recipe to an image file.

  Training images left and middle, held-out ones right. Both axes are logarithmic: equal distances
  are equal ratios. Grey lines: the thresholds.
  """
  figure = Figure(figsize=(13, 4.2), layout="constrained")
  axes = figure.subplots(1, 3, sharey=True)
  per_epoch = result["images"]["train"]
  panels = (
    ("train", "steps", "epochs", "training images"),
    ("train", "seconds", "seconds of training", "training images"),
    ("held_out", "seconds", "seconds of training", "held-out images"),
  )
  for axis, (errors, time, label, title) in zip(axes, panels, strict=True):
    for colour, (name, recipe) in zip(_COLOURS, result["recipes"].items(), strict=False):
      runs = _of_equal_length(recipe["runs"])
      times = np.mean([run[time] for run in runs], axis=0)[1:]
      if time == "steps":
        times = times * recipe["batch_size"] / per_epoch
      values = np.array([run[errors] for run in runs])[:, 1:]
      axis.plot(times, values.mean(axis=0), color=colour, label=name, lw=1.6)
      axis.fill_between(times, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)
    for threshold in result["thresholds"]:
      axis.axhline(threshold, color="0.8", lw=0.6, zorder=0)
    if errors == "train":
      floor = result["images"]["error_of_mean_image"]
      label_of_floor = "mean image" if axis is axes[0] else None
      axis.axhline(floor, color="0.4", ls=":", lw=1, label=label_of_floor)
    axis.set(xscale="log", yscale="log", xlabel=label, title=title)
    axis.xaxis.set_major_formatter("{x:g}")
  axes[0].set_ylabel("mean absolute error, images in [0, 1]")
  axes[0].set_yticks(list(result["thresholds"]), [f"{t:g}" for t in result["thresholds"]])
  axes[0].minorticks_off()
  axes[0].legend(fontsize=8, loc="lower left")
  count = len(next(iter(result["recipes"].values()))["runs"])
  figure.suptitle(
    f"{result['images']['train']} images of {result['images']['size']} px, "
    f"{count} seed{'s' if count > 1 else ''}, {result['seconds_per_run']:g} s a run, "
    f"{result['device']}",
    fontsize=10,
  )
  figure.savefig(path, dpi=120)


def _of_equal_length(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Runs cut to the shortest, for a run may have been ended early."""
  shortest = min(len(run["steps"]) for run in runs)
  names = ("steps", "seconds", "train", "held_out")
  return [{name: run[name][:shortest] for name in names} for run in runs]
