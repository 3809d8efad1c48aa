"""Where a lesion is likely in an image, and where none can be.

Scores of YOLO11 before suppression are C_loc (Eq. 14); the U-Net gives M_danger (Eq. 15). How much
the surroundings of a place are like those of real lesions multiplies the prior (`placement.hosts`).
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
from hiresmed_jax.placement import candidates, hosts, lung, surroundings
from hiresmed_jax.placement.hosts import Hosts

_FORBIDDEN = 0.5  # chance from which on a pixel is forbidden
_COVERED = 0.3  # sigma of what a lesion covers, diameters
_SATURATED = 0.02  # of the value range, from its end: a lesion would not be visible there


class Prior(NamedTuple):
  """A prior over places."""

  name: str = "atlas"  # one of `settings.PRIORS`
  detector: Model | None = None  # of `workdir.detection_scores`; None for "uniform" and "atlas"
  power: float = 1.0  # of the detector's scores: below 1 they count less
  hosts: Hosts | None = None  # of `placement.hosts`, which multiplies it; None: nothing does
  hosts_power: float = 1.0  # of the hosts' odds
  least_seen: float = 1.0  # density of the atlas, over the uniform one, that limits the hosts below
  host_rule: str = ""  # one of `lung.RULES`: where lesions may live, for images without such a mask

  @property
  def label(self) -> str:
    """What the manifest says of places that are drawn from it."""
    if self.hosts is None:
      return self.name
    return "hosts" if self.name == "uniform" else f"{self.name} x hosts"


class Fitted(NamedTuple):
  """What was fitted to tell where lesions live, and how it is used without a detector."""

  hosts: Hosts | None  # None: it could not be fitted
  why: str  # it could not be; "" where it was
  digest: str  # differs for another fit
  least_seen: float  # as of `Prior`
  name: str  # "uniform" or "atlas": what it is best multiplied with
  power: float  # of its odds
  gains: dict[str, float]  # nats a lesion of validation images over the uniform prior, by prior

  @property
  def helps(self) -> bool:
    """Whether it foretells the places of validation images at least as well as the atlas alone."""
    own = [gain for key, gain in self.gains.items() if "hosts" in key]
    return not own or max(own) >= self.gains["atlas"]


class Density(NamedTuple):
  """A prior laid over a canvas."""

  score: np.ndarray  # f32[H, W], >= 0, any scale: all but the hosts; 0 where no lesion can live
  odds: hosts.Odds | None  # of the hosts; None: they do not count
  likely: np.ndarray  # bool[H, W], pixels to which uniform places are limited


def open_prior(
  asked: str,
  folder: Path,
  fingerprint: str,
  *,
  fitted: Fitted | None = None,
  host_rule: str = "",
  dtype: Any = None,
) -> tuple[Prior, str]:
  """Opens a prior of a run; `dtype` is that of the convolutions, None: as the route's config says.

  `asked` is one of `settings.PRIORS`, or "auto": the one that the route `location` found best on
  validation images; where that route is not trained, or for "hosts", the one that `fitted` is best
  with, else the atlas. `fitted` multiplies all but "uniform" where it helps; None: nothing does.

  Returns:
    (the prior, text that differs where another prior is used).

  Raises:
    UserError: the route that it needs is not trained, or on other data.
  """
  live, rule = None if fitted is None else fitted.hosts, host_rule
  is_trained = (folder / "location" / "DONE.json").is_file()
  if asked == "uniform":
    return Prior(asked, host_rule=rule), _text(asked, rule)
  if asked in ("atlas", "hosts") or (asked == "auto" and not is_trained):
    if fitted is None or live is None or (asked != "hosts" and not fitted.helps):
      return Prior("atlas", host_rule=rule), _text("atlas", rule)
    name = "atlas" if asked == "atlas" else fitted.name
    first = "atlas" if asked == "atlas" else f"hosts by {name}"
    return (
      Prior(name, None, 1.0, live, fitted.power, fitted.least_seen, rule),
      _text(f"{first}, {fitted.digest}, {fitted.power:g}", rule),
    )
  detector = workdir.location_of(folder, fingerprint, dtype=dtype)
  chosen = detector.results["prior"]
  name, powers = chosen["name"] if asked == "auto" else asked, chosen["powers"]
  label = f"{name}, {detector.step}, {powers}"
  prior = Prior(name, detector, powers.get(name, 1.0), host_rule=rule)
  # The route has found them of no use, or was trained before there were hosts.
  hosts_powers = chosen.get("hosts_powers", {})
  if fitted is None or live is None or name not in hosts_powers:
    return prior, _text(label, rule)
  power = hosts_powers[name]
  label = f"{name}, {detector.step}, {powers}, hosts {fitted.digest}, {power:g}"
  prior = prior._replace(hosts=live, hosts_power=power, least_seen=fitted.least_seen)
  return prior, _text(label, rule)


def asked_again(label: str) -> str:
  """What to ask `open_prior` for, to get the prior whose text is `label`, that "auto" has given."""
  if "{" in label:  # the choice of the route `location`
    return "auto"
  return label.partition(",")[0].partition(" by ")[0]


def why_weak(prior: Prior, fitted: Fitted | None) -> str:
  """One line where places come from little; "" where they do not."""
  if prior.name == "uniform" and prior.hosts is None:
    return ""
  can_count = prior.hosts is None and fitted is not None and fitted.hosts is not None
  if can_count and prior.detector is not None:
    powers = prior.detector.results["prior"].get("hosts_powers", {})
    if powers and prior.name not in powers:
      return ""  # the route location has tried them, and chosen to do without
  elif can_count and fitted is not None and not fitted.helps:
    return (
      "places come from the atlas alone: it foretells those of validation images better than "
      "what surrounds lesions does"
    )
  if prior.hosts is None and fitted is not None:
    reason = fitted.why or "the route location was trained before it could be used: train it again"
    return (
      f"what surrounds lesions does not count for places, which come from {prior.name}: {reason}"
    )
  if prior.hosts is None and prior.name == "atlas":
    return "places come from the atlas alone: see synthesize.hosts and the route location"
  return ""


def _text(label: str, rule: str) -> str:
  return f"{label}, in {rule}" if rule else label


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


def density(
  prior: Prior, atlas: atlases.Atlas, scene: Canvas, device: jax.Device | None = None
) -> Density:
  """The prior laid over a canvas; it is 0 where lesions cannot live (`host_of`).

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
  odds = None if prior.hosts is None else odds_of(prior.hosts, scene)
  host = host_of(scene, prior.host_rule)
  if host is not None:
    return Density(score * host, odds, host)
  likely = np.ones(scene.shape, bool)
  if prior.hosts is not None and odds is not None:
    likely = odds.of_mean >= np.float32(prior.hosts.least)
    # Where no patient has lesions, few places are known, and the odds are a guess.
    pixels = np.float32(max(int(np.count_nonzero(scene.content)), 1))
    seen = atlases.score_map(atlas, scene.content) * pixels
    score = score * likely * np.minimum(seen / np.float32(prior.least_seen), np.float32(1.0))
  return Density(score, odds, likely)


def score_map(
  prior: Prior, found: Density, scene: Canvas, diameter_px: float | None = None
) -> np.ndarray:
  """How likely a lesion of this diameter is at each place: f32[H, W], >= 0, any scale.

  `found` is the density of the prior over the canvas; without a diameter it is of the mean size.
  """
  if prior.hosts is None or found.odds is None:
    return found.score
  log_odds = _for_size(prior.hosts, found.odds, scene, diameter_px)
  return found.score * powered(log_odds, prior.hosts_power, scene.content)


def plenty(
  prior: Prior, found: Density, scene: Canvas, allowed: np.ndarray, diameter_px: float
) -> float:
  """How many places a canvas has for a lesion of this diameter, relative to training images.

  That is the mean of the hosts' odds over bool[H, W] allowed; 1 where hosts do not count.
  """
  free = allowed & (found.score > 0)
  if prior.hosts is None or found.odds is None or not free.any():
    return 1.0
  log_odds = _for_size(prior.hosts, found.odds, scene, diameter_px)
  return float(np.exp(log_odds[free], dtype=np.float64).mean())


def _for_size(
  live: Hosts, odds: hosts.Odds, scene: Canvas, diameter_px: float | None
) -> np.ndarray:
  """Log-odds f32[H, W] for a lesion of this diameter: the mean of the pixels that it covers."""
  if diameter_px is None:
    return odds.of_mean
  size = np.float32(hosts.size_of(live, diameter_px, scene.content))
  return cv2.GaussianBlur(odds.of_mean + size * odds.by_size, (0, 0), _COVERED * diameter_px)


def host_of(scene: Canvas, rule: str) -> np.ndarray | None:
  """bool[H, W]: where the centre of a lesion may lie; None: anywhere.

  That is the image's own mask of hosts where it is known, else what a rule of `lung.RULES` finds.
  """
  if scene.host_mask.size:
    return scene.host_mask > 0
  if not rule:
    return None
  return lung.RULES[rule](surroundings.grey_of(scene.values, scene.value_range), scene.content)


def odds_of(live: Hosts, scene: Canvas) -> hosts.Odds:
  """The hosts' log-odds over a canvas."""
  grey = surroundings.grey_of(scene.values, scene.value_range)
  return hosts.odds(live, grey, scene.content)


def powered(log_odds: np.ndarray, power: float, content: np.ndarray) -> np.ndarray:
  """exp(power * log-odds) f32[H, W], 1 at its greatest in bool[H, W] content."""
  top = log_odds[content].max() if content.any() else log_odds.max()
  return np.exp(np.float32(power) * np.minimum(log_odds - top, np.float32(0.0)))


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
  output = model.network(image_m11, device or jax.local_devices()[0])
  output = cv2.resize(output, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
  inside = transforms.place(scene.shape, view.shape, view.fit).filled
  return cv2.resize(output[inside], scene.shape[::-1], interpolation=cv2.INTER_LINEAR)
