"""How well each prior predicts where held-out patients have their lesions, in nats over uniform.

Every prior is scored on images whose lesions are taken out, with decoys, as backgrounds are: on
whole images a detector finds the lesions themselves, which says nothing of the next one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.records import Records
from hiresmed_jax.inference import canvas, emptied, places
from hiresmed_jax.metrics.significance import Interval, bootstrap
from hiresmed_jax.placement import atlas, candidates


def log_scores(
  score: np.ndarray, allowed: np.ndarray, points: np.ndarray, *, floor: float
) -> np.ndarray:
  """Log-chance of each point under a prior, less that under the uniform one.

  Args:
    score: f32[H, W], >= 0, any scale.
    allowed: bool[H, W], where a lesion may be. The points' own pixels are allowed whatever it says:
      a lesion was there.
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


def gains(
  logs: Mapping[str, np.ndarray], groups: Sequence[str], *, against: str = "", seed: int = 0
) -> dict[str, Interval]:
  """Mean of each prior's log-scores, or of what it has over another one, groups resampled.

  Args:
    logs: name -> a log-score of each lesion.
    groups: of each lesion.
    against: name of the other one; "" is the uniform prior.
    seed: of the resampling.

  Returns:
    name -> mean and interval, nats a lesion.
  """
  base = logs[against] if against else np.zeros(len(groups))
  return {
    name: bootstrap(values.tolist(), base.tolist(), groups=groups, seed=seed)
    for name, values in logs.items()
    if name != against
  }


POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)
_PICTURES = 4


class Found(NamedTuple):
  """Log-scores of lesions.

  Attributes:
    logs: "atlas", and "yolo" and "atlas x yolo" with each power ("yolo ^ 0.5") -> f64[N], nats over
      the uniform prior.
    groups: of each lesion.
    pictures: of a few images, [shown in [0, 1], atlas, yolo, both: each f32[H, W] in [0, 1]] and
      the points f64[n, 2] where the lesions were.
  """

  logs: dict[str, np.ndarray]
  groups: list[str]
  pictures: list[tuple[list[np.ndarray], np.ndarray]]


def score_priors(
  source: Records,
  prior: places.Prior,
  where: atlas.Atlas,
  *,
  decoys: float,
  floor: float,
  seed: int,
  limit: int,
  workers: int = 1,
) -> Found:
  """Scores all priors at the places of the lesions of held-out images.

  Args:
    source: a split that nothing was fitted to.
    prior: the detector; name and power do not matter.
    where: fitted to the training split.
    decoys: see `bare.emptied`.
    floor: share that is uniform.
    seed: of the decoys.
    limit: images at most, evenly through the split.
    workers: threads.
  """
  chosen = np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).round().astype(int))

  def one(index: int) -> Any:
    item = source[int(index)]
    if not len(item["boxes"]):
      return None
    return _one(item, prior, where, (seed, int(index)), decoys, floor)

  logs: dict[str, list[np.ndarray]] = {}
  groups: list[str] = []
  pictures = []
  for found in ordered_map(one, chosen, workers=workers):
    if found is None:
      continue
    own, group, picture = found
    for name, values in own.items():
      logs.setdefault(name, []).append(values)
    groups += [group] * len(picture[1])
    pictures.append(picture)
  every = max(1, len(pictures) // _PICTURES)
  return Found(
    {name: np.concatenate(values) for name, values in logs.items()},
    groups,
    pictures[::every][:_PICTURES],
  )


def best(found: Found) -> tuple[str, dict[str, float]]:
  """The prior with the highest mean log-score, and of those with a detector the best power.

  Returns:
    (name, {name: power}); the atlas has none.
  """
  means = {key: float(values.mean()) for key, values in found.logs.items()}
  order = sorted(means, key=lambda key: -means[key])
  powers: dict[str, float] = {}
  for key in order:
    name, _, power = key.partition(" ^ ")
    if power:
      powers.setdefault(name, float(power))
  return order[0].partition(" ^ ")[0], powers


def key_of(name: str, power: float) -> str:
  """Under which name a prior's log-scores stand in `Found.logs`."""
  return name if name == "atlas" else f"{name} ^ {power:g}"


def table(found: Found, used: str, *, powers: Iterable[float], seed: int) -> dict[str, Any]:
  """Means and intervals over groups, as JSON holds them.

  Args:
    found: of the test split.
    used: key of the prior that was chosen on other images.
    powers: that are told.
    seed: of the resampling.

  Returns:
    {"over_uniform": name -> {"mean", "low", "high"}, "used_over": the same of what the prior in use
    has over the others, "lesions", "groups"}; nats a lesion.
  """
  told = {"atlas"} | {key_of(name, power) for name in places.NAMES[2:] for power in powers} | {used}
  logs = {name: values for name, values in found.logs.items() if name in told}
  return {
    "over_uniform": _plain(gains(logs, found.groups, seed=seed)),
    # What the one in use has over another: minus what that one has over it.
    "used_over": _plain(
      {
        name: Interval(-gain.value, -gain.high, -gain.low, gain.p_value, gain.groups)
        for name, gain in gains(logs, found.groups, against=used, seed=seed).items()
      }
    ),
    "lesions": len(found.groups),
    "groups": len(set(found.groups)),
  }


def _plain(gains: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
  return {
    name: {"mean": gain.value, "low": gain.low, "high": gain.high} for name, gain in gains.items()
  }


def _one(
  item: Mapping[str, Any],
  prior: places.Prior,
  where: atlas.Atlas,
  seed: tuple[int, int],
  decoys: float,
  floor: float,
) -> tuple[dict[str, np.ndarray], str, tuple[list[np.ndarray], np.ndarray]]:
  points = atlas.centres_of(item)
  scene = canvas.real({**item, "image": emptied.emptied(item, seed, decoys=decoys)})
  prior = prior._replace(name="yolo", power=1.0)
  seen = places.score_map(prior, where, scene)
  known = places.score_map(places.Prior("atlas"), where, scene)
  logs = {
    name: log_scores(score, scene.content, points, floor=floor)
    for name, score in _scores(seen, known)
  }
  low, high = scene.value_range
  shown = np.clip((scene.values.mean(axis=-1) - low) / max(high - low, 1e-6), 0.0, 1.0)
  maps = [score / max(float(score.max()), 1e-12) for score in (known, seen, known * seen)]
  return logs, item["group"], ([shown, *maps], points)


def _scores(seen: np.ndarray, known: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
  yield "atlas", known
  for power in POWERS:
    soft = seen ** np.float32(power)
    yield key_of("yolo", power), soft
    yield key_of("atlas x yolo", power), known * soft
