"""Which prior is surprised least by where held-out patients have their lesions.

All are judged on images whose lesions are taken out, with decoys, as backgrounds are: on whole
images a detector finds the lesions themselves, which says nothing of where the next one may be.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.records import Records
from hiresmed_jax.metrics.significance import Interval
from hiresmed_jax.placement import atlas, scoring
from hiresmed_jax.synthesis import bare, canvas
from hiresmed_jax.synthesis import prior as priors

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


def log_scores(
  source: Records,
  prior: priors.Prior,
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
  told = {"atlas"} | {key_of(name, power) for name in priors.NAMES[2:] for power in powers} | {used}
  logs = {name: values for name, values in found.logs.items() if name in told}
  return {
    "over_uniform": _plain(scoring.gains(logs, found.groups, seed=seed)),
    # What the one in use has over another: minus what that one has over it.
    "used_over": _plain(
      {
        name: Interval(-gain.value, -gain.high, -gain.low, gain.p_value, gain.groups)
        for name, gain in scoring.gains(logs, found.groups, against=used, seed=seed).items()
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
  prior: priors.Prior,
  where: atlas.Atlas,
  seed: tuple[int, int],
  decoys: float,
  floor: float,
) -> tuple[dict[str, np.ndarray], str, tuple[list[np.ndarray], np.ndarray]]:
  points = atlas.centres_of(item)
  scene = canvas.real({**item, "image": bare.emptied(item, seed, decoys=decoys)})
  prior = prior._replace(name="yolo", power=1.0)
  seen = priors.score_map(prior, where, scene)
  known = priors.score_map(priors.Prior("atlas"), where, scene)
  logs = {
    name: scoring.log_scores(score, scene.content, points, floor=floor)
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
