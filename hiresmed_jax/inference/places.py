"""Where a lesion is likely in an image, and where none can be.

Scores of YOLO11 before suppression are C_loc (Eq. 14); the U-Net gives M_danger (Eq. 15).
H, W rows and columns of the canvas.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.inference import workdir
from hiresmed_jax.inference.canvas import Canvas, record_of
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.placement import candidates

_FORBIDDEN = 0.5  # chance from which on a pixel is forbidden
_SATURATED = 0.02  # of the value range, from its end: a lesion would not be visible there


class Prior(NamedTuple):
  """A prior over places."""

  name: str = "atlas"  # one of `settings.PRIORS`
  detector: Model | None = None  # of `workdir.detection_scores`; None for "uniform" and "atlas"
  power: float = 1.0  # of the detector's scores: below 1 they count less


def open_prior(
  asked: str, folder: Path, fingerprint: str, *, dtype: Any = None
) -> tuple[Prior, str]:
  """Opens a prior of a run; `dtype` is that of the convolutions, None: as the route's config says.

  `asked` is one of `settings.PRIORS`, or "auto": the one that the route `location` found best on
  validation images; the atlas where that route is not trained.

  Returns:
    (the prior, text that differs where another prior is used).

  Raises:
    UserError: the route that it needs is not trained, or on other data.
  """
  if asked == "auto" and not (folder / "location" / "DONE.json").is_file():
    asked = "atlas"
  if asked in ("uniform", "atlas"):
    return Prior(asked), asked
  detector = workdir.location_of(folder, fingerprint, dtype=dtype)
  chosen = detector.results["prior"]
  name, powers = chosen["name"] if asked == "auto" else asked, chosen["powers"]
  label = f"{name}, {detector.step}, {powers}"
  return Prior(name, detector, powers.get(name, 1.0)), label


def open_danger(
  asked: str,
  folder: Path,
  fingerprint: str,
  *,
  dtype: Any = None,
  say: Callable[[str], Any] = print,
) -> tuple[Model | None, str]:
  """Opens what finds forbidden tissue; else as `open_prior`.

  `asked` is "on", "off", or "auto": on where the route `danger` is trained and spares real lesions.
  `say` gets a line where "auto" leaves a trained network out.
  """
  trained = (folder / "danger" / "DONE.json").is_file()
  if asked == "off" or (asked == "auto" and not trained):
    return None, "off"
  unet = workdir.danger_of(folder, fingerprint, dtype=dtype)
  if asked == "auto" and not unet.results["use"]:
    say(f"forbidden tissue: {unet.results['why']}")
    return None, "off"
  return unet, f"danger, {unet.step}"


def score_map(
  prior: Prior, atlas: atlases.Atlas, scene: Canvas, device: jax.Device | None = None
) -> np.ndarray:
  """The prior laid over a canvas: f32[H, W], >= 0, any scale.

  Raises:
    UserError: see `atlas.score_map`.
    ValueError: a prior that lacks its detector.
  """
  score = np.ones(scene.shape, np.float32)
  if prior.name in ("yolo", "atlas x yolo"):
    if prior.detector is None:
      raise ValueError(f"the prior {prior.name} has no detector")
    score = detector_scores(prior.detector, scene, device) ** np.float32(prior.power)
  if prior.name in ("atlas", "atlas x yolo"):
    score = score * atlases.score_map(atlas, scene.content)
  return score


def detector_scores(detector: Model, scene: Canvas, device: jax.Device | None = None) -> np.ndarray:
  """The detector's scores laid over a canvas: f32[H, W] in [0, 1]."""
  return np.maximum(_laid_over(detector, scene, device), np.float32(0.0))


def forbidden(unet: Model, scene: Canvas, device: jax.Device | None = None) -> np.ndarray:
  """bool[H, W]: tissue in which no lesion can be (1 - M_danger, Eq. 15), by a U-Net of the run."""
  return _laid_over(unet, scene, device) > _FORBIDDEN


def allowed(scene: Canvas, forbidden: np.ndarray | None, margin_px: float) -> np.ndarray:
  """bool[H, W]: pixels of the body that a lesion may cover; see `candidates.allowed_pixels`."""
  low, high = scene.value_range
  saturated = scene.values.min(axis=-1) >= high - _SATURATED * (high - low)
  return candidates.allowed_pixels(forbidden, scene.content & ~saturated, margin_px)


def _laid_over(model: Model, scene: Canvas, device: jax.Device | None) -> np.ndarray:
  """f32[H, W]: a network's output, linear between its positions."""
  record = record_of(scene.values, scene.value_range, spacing_mm=scene.spacing_mm)
  view = model.view
  image_m11 = transforms.load(record, view)["images_m11"]
  output = model.network(image_m11, device or jax.devices()[0])
  output = cv2.resize(output, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
  inside = transforms.place(scene.shape, view.shape, view.fit).filled
  return cv2.resize(output[inside], scene.shape[::-1], interpolation=cv2.INTER_LINEAR)
