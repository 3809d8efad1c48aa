"""Reconstructions of held-out images by the model of a trained workdir."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hiresmed_jax.data import records, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation.pictures import Entry, Picture
from hiresmed_jax.evaluation.real import Place, Real
from hiresmed_jax.evaluation.sets import ImageSet
from hiresmed_jax.inference import reconstruct, workdir
from hiresmed_jax.runtime import compilation
from hiresmed_jax.runtime.compilation import compute_dtype

_FOUND = ("train", "held_out", "floors", "gap_psnr")  # of a run's own results


def window_of(folder: Path, dataset: records.Dataset) -> Any:
  """The window through which the model of a workdir sees records.

  Raises:
    UserError: it is not trained, or on other data.
  """
  window = _config(folder, dataset)["data"]["window"]
  return tuple(window) if isinstance(window, list) else window


def model_set(name: str, folder: Path, real: Real, *, devices: Sequence[jax.Device]) -> ImageSet:
  """The held-out images through encoder, codebook and decoder, the padding of the view cut away.

  One image at a time, as `synthesize` does it, so that the number of devices changes nothing.

  Raises:
    UserError: the workdir is not trained, on other data, or sees them through another window.
  """
  if real.dataset is None:
    raise UserError(f"--workdir {folder} needs its prepared dataset as --real or --data")
  there = _config(folder, real.dataset)
  if window_of(folder, real.dataset) != real.window:
    raise UserError(
      f"{folder} sees images through the window {there['data']['window']} and another method "
      f"through {real.window}: evaluate them one by one"
    )
  asked = ConfigDict({"data": there["data"] | {"workers": 0}, "background": there["background"]})
  dtype = compute_dtype(there["background"]["dtype"])
  model = workdir.model_of(folder, asked, real.dataset, dtype=dtype)
  view = model.view
  through = reconstruct.through_model(
    model.net, model.params, channels=view.channels, options=compilation.options()
  )
  source, entries = real.sources["test"], []
  for key, place in real.places.items():
    if place.split == "test":
      device = devices[place.number % len(devices)]
      load = functools.partial(_load, source, place, view, through, device)
      entries.append(Entry(key, place.group, 0, (), load))
  facts = {"step": model.step, "seed": there["seed"], **_results(folder / "background")}
  kind = "reconstructions of held-out images"
  longest = max(view.shape)
  return ImageSet(name, kind, tuple(entries), True, (), (facts,), longest)


def _config(folder: Path, dataset: records.Dataset) -> dict[str, Any]:
  return dict(workdir.trained_on(folder, "background", dataset)["config"])


def _results(folder: Path) -> dict[str, Any]:
  """What the run has found of itself; {} where its file is not there."""
  try:
    found = json.loads((folder / "results.json").read_text())
    return {name: found[name] for name in _FOUND if name in found}
  except (OSError, ValueError, TypeError):
    return {}


def _load(
  source: records.Records,
  place: Place,
  view: transforms.View,
  through: reconstruct.Through,
  device: jax.Device,
) -> Picture:
  item = source[place.number]
  example = transforms.load(item, view)
  placed = transforms.place(item["image"].shape[:2], view.shape, view.fit)
  rows, columns = placed.filled
  seen = example["images_m11"]
  made = transforms.with_channels(through(seen, device), seen.shape[-1])
  before, after = ((np.clip(x, -1, 1)[rows, columns] + 1.0) / 2.0 for x in (seen, made))
  mask = example["lesion_mask"]
  return Picture(
    image=after.astype(np.float32),
    reference=before.astype(np.float32),
    boxes=example["boxes"] - np.array([columns.start, rows.start] * 2, np.float32),
    lesion_mask=mask[rows, columns] if mask.size else mask,
  )
