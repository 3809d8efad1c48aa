"""How well each prior predicts where held-out patients have their lesions, in nats over uniform.

Every prior is scored on images whose lesions are removed, with decoys: on whole images a detector
finds the lesions themselves. H, W rows and columns; N lesions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.records import Records
from hiresmed_jax.inference import canvas, emptied, places
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.metrics.significance import Interval, bootstrap
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.placement import candidates

POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the detector's scores
WITH_DETECTOR = ("yolo", "atlas x yolo")
_PICTURES = 4


class Scores(NamedTuple):
  """Log-scores of lesions."""

  # Key of a prior (see `key_of`) -> f64[N], nats over the uniform prior.
  logs: dict[str, np.ndarray]
  groups: list[str]  # N patient groups
  # Of a few images, ([image, atlas, detector, both: each f32[H, W] in [0, 1]], f64[n, 2] (x, y) of
  # its lesions).
  pictures: list[tuple[list[np.ndarray], np.ndarray]]


def key_of(name: str, power: float) -> str:
  """Under which key a prior's log-scores are: "atlas", "yolo ^ 0.5", "atlas x yolo ^ 2"."""
  return name if name == "atlas" else f"{name} ^ {power:g}"


def score_priors(
  source: Records,
  detector: Model,
  atlas: atlases.Atlas,
  *,
  decoys: float,
  floor: float,
  seed: int,
  limit: int,
  workers: int = 1,
) -> Scores:
  """Scores all priors at the places of the lesions of held-out images.

  Args:
    source: a split that nothing was fitted to.
    detector: of `workdir.detection_scores`.
    atlas: fitted to the training split.
    decoys: see `emptied.with_decoys`.
    floor: share that is uniform.
    seed: of the decoys.
    limit: images at most, evenly through the split.
    workers: threads.
  """
  chosen = np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).round().astype(int))

  def score(index: int) -> Any:
    item = source[int(index)]
    if not len(item["boxes"]):
      return None
    return _score_image(item, detector, atlas, (seed, int(index)), decoys, floor)

  logs: dict[str, list[np.ndarray]] = {}
  groups: list[str] = []
  pictures = []
  for scored in ordered_map(score, chosen, workers=workers):
    if scored is None:
      continue
    own, group, picture = scored
    for key, values in own.items():
      logs.setdefault(key, []).append(values)
    groups += [group] * len(picture[1])
    pictures.append(picture)
  every = max(1, len(pictures) // _PICTURES)
  joined = {key: np.concatenate(values) for key, values in logs.items()}
  return Scores(joined, groups, pictures[::every][:_PICTURES])


def best(scores: Scores) -> tuple[str, dict[str, float]]:
  """The prior with the highest mean log-score, and the best power of each that has a detector.

  Returns:
    (name, {name: power}); the atlas has no power.
  """
  means = {key: float(values.mean()) for key, values in scores.logs.items()}
  ranking = sorted(means, key=lambda key: -means[key])
  powers: dict[str, float] = {}
  for key in ranking:
    name, _, power = key.partition(" ^ ")
    if power:
      powers.setdefault(name, float(power))
  return ranking[0].partition(" ^ ")[0], powers


def table(scores: Scores, used: str, *, powers: Iterable[float], seed: int) -> dict[str, Any]:
  """Means and intervals over groups, for JSON.

  `used` is the key of the prior that was chosen on other images, `powers` are those of the detector
  that are reported, `seed` is that of the resampling.

  Returns:
    {"over_uniform": key -> {"mean", "low", "high"}, "used_over": the same of the gain of the prior
    in use over the others, "lesions", "groups"}; nats a lesion.
  """
  reported = {"atlas", used, *(key_of(name, power) for name in WITH_DETECTOR for power in powers)}
  logs = {key: values for key, values in scores.logs.items() if key in reported}
  over_used = gains(logs, scores.groups, against=used, seed=seed)
  used_over = {
    key: Interval(-gain.value, -gain.high, -gain.low, gain.p_value, gain.groups)
    for key, gain in over_used.items()
  }
  return {
    "over_uniform": _plain(gains(logs, scores.groups, seed=seed)),
    "used_over": _plain(used_over),
    "lesions": len(scores.groups),
    "groups": len(set(scores.groups)),
  }


def gains(
  logs: Mapping[str, np.ndarray], groups: Sequence[str], *, against: str = "", seed: int = 0
) -> dict[str, Interval]:
  """Mean gain of each prior over another one, with groups resampled.

  Args:
    logs: key -> f64[N].
    groups: N of them.
    against: key of the other prior; "": the uniform one.
    seed: of the resampling.

  Returns:
    key -> mean and interval, nats a lesion.
  """
  base = logs[against] if against else np.zeros(len(groups))
  return {
    key: bootstrap(values.tolist(), base.tolist(), groups=groups, seed=seed)
    for key, values in logs.items()
    if key != against
  }


def log_scores(
  score: np.ndarray, allowed: np.ndarray, points: np.ndarray, *, floor: float
) -> np.ndarray:
  """Log-chance of each point under a prior, less that under the uniform one.

  Args:
    score: f32[H, W], >= 0, any scale.
    allowed: bool[H, W], where a lesion may be; the pixels of the points are allowed in any case.
    points: f64[N, 2] (x, y) pixels.
    floor: share that is uniform.

  Returns:
    f64[N], nats; 0: no better than uniform.
  """
  height, width = score.shape
  columns = np.clip(np.floor(points[:, 0]).astype(int), 0, width - 1)
  rows = np.clip(np.floor(points[:, 1]).astype(int), 0, height - 1)
  free = allowed.copy()
  free[rows, columns] = True
  logs = candidates.log_probabilities(score, free, floor)[rows, columns]
  return logs + np.log(np.count_nonzero(free))


def _score_image(
  item: Mapping[str, Any],
  detector: Model,
  atlas: atlases.Atlas,
  seed: tuple[int, int],
  decoys: float,
  floor: float,
) -> tuple[dict[str, np.ndarray], str, tuple[list[np.ndarray], np.ndarray]]:
  """(log-scores of each prior, group, picture) of one image; see `Scores`."""
  points = atlases.centres_of(item)
  scene = canvas.real({**item, "image": emptied.with_decoys(item, seed, decoys=decoys)})
  likely = places.score_map(places.Prior("atlas"), atlas, scene)
  detected = places.detector_scores(detector, scene)
  scores = {"atlas": likely}
  for power in POWERS:
    detected_power = detected ** np.float32(power)
    scores[key_of("yolo", power)] = detected_power
    scores[key_of("atlas x yolo", power)] = likely * detected_power
  logs = {
    key: log_scores(score, scene.content, points, floor=floor) for key, score in scores.items()
  }
  low, high = scene.value_range
  image = np.clip((scene.values.mean(axis=-1) - low) / max(high - low, 1e-6), 0.0, 1.0)
  maps = [score / max(float(score.max()), 1e-12) for score in (likely, detected, likely * detected)]
  return logs, item["group"], ([image, *maps], points)


def _plain(gains: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
  return {
    key: {"mean": gain.value, "low": gain.low, "high": gain.high} for key, gain in gains.items()
  }
