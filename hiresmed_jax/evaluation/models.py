"""Reconstructions of held-out images by the model of a trained workdir."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation.pictures import Entry, Picture
from hiresmed_jax.evaluation.real import Place, Real
from hiresmed_jax.evaluation.sets import ImageSet
from hiresmed_jax.inference import canvas, workdir
from hiresmed_jax.inference.networks import Model

_REPORTED = ("train", "held_out", "floors", "gap_psnr")  # of a run's own results


def window_of(folder: Path, dataset: records.Dataset) -> Any:
  """The window through which the model of a workdir sees records.

  Raises:
    UserError: it is not trained, or on other data.
  """
  run = workdir.finished(folder, "background", dataset.card["fingerprint"])
  return run.config["data"]["window"]


def model_set(name: str, folder: Path, real: Real, *, devices: Sequence[jax.Device]) -> ImageSet:
  """The held-out images through encoder, codebook and decoder, without the padding of the view.

  One image at a time, as `synthesize` does it, so that the number of devices changes nothing.

  Raises:
    UserError: the workdir is not trained, on other data, or sees them through another window.
  """
  if real.dataset is None:
    raise UserError(f"--workdir {folder} needs its prepared dataset as --real or --data")
  window = window_of(folder, real.dataset)
  if window != real.window:
    raise UserError(
      f"{folder} sees images through the window {window} and another method through "
      f"{real.window}: evaluate them one by one"
    )
  fingerprint = real.dataset.card["fingerprint"]
  model = workdir.background_of(folder, fingerprint)
  source, entries = real.sources["test"], []
  for key, place in real.places.items():
    if place.split == "test":
      device = devices[place.number % len(devices)]
      load = functools.partial(_load, source, place, model, device)
      entries.append(Entry(key, place.group, 0, (), load))
  seed = workdir.finished(folder, "background", fingerprint).config["seed"]
  reported = {name: model.results[name] for name in _REPORTED if name in model.results}
  kind = "reconstructions of held-out images"
  facts = {"step": model.step, "seed": seed, **reported}
  return ImageSet(name, kind, tuple(entries), True, (), (facts,), max(model.view.shape))


def _load(source: records.Records, place: Place, model: Model, device: jax.Device) -> Picture:
  example, output_m11 = canvas.without_padding(
    source[place.number], model.view, lambda image: model.network(image, device)
  )
  before, after = ((np.clip(x, -1, 1) + 1.0) / 2.0 for x in (example["images_m11"], output_m11))
  return Picture(
    image=after.astype(np.float32),
    reference=before.astype(np.float32),
    boxes=example["boxes"],
    lesion_mask=example["lesion_mask"],
  )
