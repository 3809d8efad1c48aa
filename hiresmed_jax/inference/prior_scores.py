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
from hiresmed_jax.placement import candidates, surroundings

POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the detector's scores
HOSTS_POWERS = (0.35, 0.5, 0.7, 1.0, 1.4)  # of the hosts' odds
WITH_DETECTOR = ("yolo", "atlas x yolo")
_PICTURES = 4
_LEAST_FLOOR = 0.01  # one lesion where a prior is 0 would be minus infinity


class Scores(NamedTuple):
  """Log-scores of lesions."""

  # Key of a prior (see `Choice.key`) -> f64[N], nats over the uniform prior.
  logs: dict[str, np.ndarray]
  groups: list[str]  # N patient groups
  # Of a few images, ([image, atlas, detector, both, hosts: each f32[H, W] in [0, 1], where they are
  # scored], f64[n, 2] (x, y) of its lesions).
  pictures: list[tuple[list[np.ndarray], np.ndarray]]
  choices: dict[str, "Choice"]  # what each key stands for


class Choice(NamedTuple):
  """A prior and how much its factors count."""

  name: str  # one of `settings.PRIORS`
  power: float = 1.0  # of the detector's scores, where the prior has one
  hosts_power: float = 0.0  # of the hosts' odds; 0: they do not count

  @property
  def key(self) -> str:
    """Under which its log-scores are: "atlas", "yolo ^ 0.5", "atlas x yolo ^ 2 x hosts ^ 1"."""
    own = f"{self.name} ^ {self.power:g}" if self.name in WITH_DETECTOR else self.name
    if not self.hosts_power:
      return own
    live = f"hosts ^ {self.hosts_power:g}"
    return live if self.name == "uniform" else f"{own} x {live}"


def score_priors(
  source: Records,
  detector: Model | None,
  atlas: atlases.Atlas,
  *,
  fitted: places.Fitted | None = None,
  host_rule: str = "",
  decoys: float,
  floor: float,
  seed: int,
  limit: int,
  workers: int = 1,
) -> Scores:
  """Scores all priors at the places of the lesions of held-out images.

  Args:
    source: a split that nothing was fitted to.
    detector: of `workdir.detection_scores`; None: priors without one.
    fitted: what tells where lesions live; None: priors without it.
    host_rule: as of `places.Prior`.
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
    return _score_image(item, detector, atlas, fitted, host_rule, (seed, int(index)), decoys, floor)

  logs: dict[str, list[np.ndarray]] = {}
  choices: dict[str, Choice] = {}
  groups: list[str] = []
  pictures = []
  for scored in ordered_map(score, chosen, workers=workers):
    if scored is None:
      continue
    own, group, picture = scored
    for choice, values in own.items():
      choices[choice.key] = choice
      logs.setdefault(choice.key, []).append(values)
    groups += [group] * len(picture[1])
    pictures.append(picture)
  every = max(1, len(pictures) // _PICTURES)
  joined = {key: np.concatenate(values) for key, values in logs.items()}
  return Scores(joined, groups, pictures[::every][:_PICTURES], choices)


def best(scores: Scores, *, hosts: bool) -> dict[str, Choice]:
  """The best choice of each prior by mean log-score, the best prior first.

  `hosts` says whether they may count; the uniform prior is among them only where they do.
  """
  ranking = sorted(scores.choices, key=lambda key: -float(scores.logs[key].mean()))
  found: dict[str, Choice] = {}
  for choice in (scores.choices[key] for key in ranking):
    if hosts >= bool(choice.hosts_power) and (choice.hosts_power or choice.name != "uniform"):
      found.setdefault(choice.name, choice)
  return found


def table(scores: Scores, used: str, *, others: Iterable[str], seed: int) -> dict[str, Any]:
  """Means and intervals over groups, for JSON.

  `used` is the key of the prior that was chosen on other images, `others` are keys of those that
  are reported beside it and the atlas, `seed` is that of the resampling.

  Returns:
    {"over_uniform": key -> {"mean", "low", "high"}, "used_over": the same of the gain of the prior
    in use over the others, "lesions", "groups"}; nats a lesion.
  """
  reported = {"atlas", used, *others}
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
    floor: share that is uniform; counted as `_LEAST_FLOOR` where it is less.

  Returns:
    f64[N], nats, finite; 0: no better than uniform.
  """
  height, width = score.shape
  columns = np.clip(np.floor(points[:, 0]).astype(int), 0, width - 1)
  rows = np.clip(np.floor(points[:, 1]).astype(int), 0, height - 1)
  free = allowed.copy()
  free[rows, columns] = True
  logs = candidates.log_probabilities(score, free, max(floor, _LEAST_FLOOR))[rows, columns]
  return logs + np.log(np.count_nonzero(free))


def _score_image(
  item: Mapping[str, Any],
  detector: Model | None,
  atlas: atlases.Atlas,
  fitted: places.Fitted | None,
  host_rule: str,
  seed: tuple[int, int],
  decoys: float,
  floor: float,
) -> tuple[dict[Choice, np.ndarray], str, tuple[list[np.ndarray], np.ndarray]] | None:
  """(log-scores of each prior, group, picture) of one image; see `Scores`.

  None where a lesion cannot be taken out: it would be found itself.
  """
  points = atlases.centres_of(item)
  bare = emptied.with_decoys(item, seed, decoys=decoys)
  if bare is None:
    return None
  scene = canvas.real({**item, "image": bare})
  likely = places.density(places.Prior("atlas"), atlas, scene).score
  scores = {Choice("atlas"): likely}
  shown = [likely]
  if detector is not None:
    detected = places.detector_scores(detector, scene)
    shown += [detected, likely * detected]
    for power in POWERS:
      detected_power = detected ** np.float32(power)
      scores[Choice("yolo", power)] = detected_power
      scores[Choice("atlas x yolo", power)] = likely * detected_power
  if fitted is not None and fitted.hosts is not None:
    live = places.Prior(
      "uniform", hosts=fitted.hosts, least_seen=fitted.least_seen, host_rule=host_rule
    )
    found = places.density(live, atlas, scene)
    living = {
      power: places.score_map(live._replace(hosts_power=power), found, scene)
      for power in HOSTS_POWERS
    }
    without = {**scores, Choice("uniform"): np.float32(1.0)}
    for choice, score in without.items():
      for power, one in living.items():
        scores[choice._replace(hosts_power=power)] = score * one
    shown.append(living[1.0])
  logs = {
    choice: log_scores(score, scene.content, points, floor=floor)
    for choice, score in scores.items()
  }
  image = surroundings.grey_of(scene.values, scene.value_range)
  maps = [score / max(float(score.max()), 1e-12) for score in shown]
  return logs, item["group"], ([image, *maps], points)


def _plain(gains: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
  return {
    key: {"mean": gain.value, "low": gain.low, "high": gain.high} for key, gain in gains.items()
  }
