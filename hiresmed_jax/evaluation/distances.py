"""Distances between the real images and a method's, each with floor, interval and protocol.

Two FIDs with different protocols (network, resize, numbers, seed) cannot be compared.
KID is first, since few images do not bias it. FID is shown beside its floor, the distance of two
halves of the real images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.metrics import fid, kid
from hiresmed_jax.nets.features import FeatureNet

_K = 5  # neighbours of precision and recall
_RESAMPLES, _LEAST_RESAMPLES = 200, 20
_AT_FULL = 500  # images up to which all resamples are drawn; fewer beyond, for time
_SUBSETS = 100


class Side(NamedTuple):
  """One set of feature vectors f32[N, D], with the group, sampling and key of each."""

  features: np.ndarray
  groups: np.ndarray
  samplings: np.ndarray
  keys: np.ndarray


def side(
  features: np.ndarray, groups: Sequence[str], samplings: Sequence[int], keys: Sequence[str]
) -> Side:
  """Leaves out images that were not read (NaN)."""
  read = np.isfinite(features).all(axis=1)
  columns = (np.asarray(column)[read] for column in (groups, samplings, keys))
  return Side(features[read], *columns)


def floors(real: Side, net: FeatureNet, *, seed: int) -> dict[str, Any]:
  """Distances between two halves of the real images, split by patient."""
  found: dict[str, Any] = {}
  for name, distance in (("KID", kid.mmd2), ("FID", fid.fid)):
    title = label(name, net.name, net.tap)
    try:
      floor = fid.split_half(real.features, distance, groups=list(real.groups), seed=seed)
    except ValueError as error:
      found[name] = {"name": title, "missing": str(error)}
      continue
    found[name] = {
      "name": title,
      "value": floor.value,
      "sd": floor.sd,
      "protocol": f"{title} of random halves of the real images, whole groups, 10 splits, "
      f"N {floor.number} or more a side, seed {seed}; a full set's floor is lower",
    }
  return found


def distances(
  real: Side, other: Side, net: FeatureNet, *, seed: int, resamples: int = _RESAMPLES
) -> dict[str, Any]:
  """Everything between two sets; means and SDs over the samplings of `other`.

  Returns:
    {"KID", "FID", "precision", "recall", "density", "coverage"}: each {"name", "value", "sd" (over
    samplings, None for one), "samplings": [values], "protocol"} or {"name", "missing": reason};
    KID and FID with "interval" where patients can be resampled.
  """
  parts = [other.features[other.samplings == k] for k in np.unique(other.samplings)]
  many = len(parts) > 1
  count = (
    f"{min(map(len, parts))} to {max(map(len, parts))}" if len(set(map(len, parts))) > 1 else ""
  )

  def line(name: str, **options: Any) -> str:
    text = protocol(
      name,
      net=net.name,
      tap=net.tap,
      resize=net.resize,
      count_real=len(real.features),
      count_other=len(parts[0]),
      **options,
    )
    text += f"; {len(parts)} samplings" if many else ""
    return text + (f" of {count} images" if count else "")

  found: dict[str, Any] = {}
  for name, exact in (("KID", kid.mmd2), ("FID", fid.fid)):
    title = label(name, net.name, net.tap)
    try:
      if name == "KID":
        kids = [kid.kid(real.features, part, subsets=_SUBSETS, seed=seed) for part in parts]
        values = [one.value for one in kids]
        text = line(name, details=f"{kids[0].subsets} subsets of {kids[0].size}", seed=seed)
      else:
        values, text = [fid.fid(real.features, part) for part in parts], line(name)
    except ValueError as error:
      found[name] = {"name": title, "missing": str(error)}
      continue
    found[name] = {"name": title, **_spread(values), "protocol": text}
    found[name] |= _interval(real, other, exact, resamples=resamples, seed=seed)
  try:
    four = [kid.prdc(real.features, part, k=_K) for part in parts]
  except ValueError as error:
    return found | {name: {"name": name, "missing": str(error)} for name in kid.Prdc._fields}
  for name in kid.Prdc._fields:
    title = (
      name
      if net.name.startswith("inception") and net.tap == 2048
      else label(name, net.name, net.tap)
    )
    values = [getattr(one, name) for one in four]
    found[name] = {"name": title, **_spread(values), "protocol": line(name, details=f"k {_K}")}
  return found


def without_network(reason: str) -> dict[str, Any]:
  """The rows of `distances`, missing for a reason."""
  return {name: {"name": name, "missing": reason} for name in ("KID", "FID", *kid.Prdc._fields)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
  sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {"value": float(np.mean(values)), "sd": sd, "samplings": [float(v) for v in values]}


def _interval(
  real: Side,
  other: Side,
  distance: Callable[[np.ndarray, np.ndarray], float],
  *,
  resamples: int,
  seed: int,
) -> Mapping[str, Any]:
  """95 % interval over patients, of the mean over samplings where all have the same images."""
  parts = [_by_key(other, k) for k in np.unique(other.samplings)]
  groups, keys = parts[0].groups, parts[0].keys
  together = all(np.array_equal(part.keys, keys) for part in parts)
  parts = parts if together else parts[:1]
  # Side by side, so that a patient is drawn with all samplings.
  features = np.concatenate([part.features for part in parts], axis=1)

  def mean(real: np.ndarray, beside: np.ndarray) -> float:
    split = np.split(beside, len(parts), axis=1)
    return float(np.mean([distance(real, part) for part in split]))

  # With the same images on both sides the same patients are drawn.
  ordered = real._replace(samplings=np.zeros(len(real.keys), int))
  ordered = _by_key(ordered, 0)
  paired = np.array_equal(keys, ordered.keys)
  base, base_groups = (ordered if paired else real)[:2]
  number = max(len(base), len(features))
  draws = int(
    np.clip(resamples / len(parts) * (_AT_FULL / number) ** 2, _LEAST_RESAMPLES, resamples)
  )
  try:
    found = fid.bootstrap(
      base,
      features,
      mean,
      groups_real=list(base_groups),
      groups_other=list(groups),
      paired=paired,
      resamples=draws,
      seed=seed,
    )
  except ValueError as error:
    return {"interval_missing": str(error)}
  if not math.isfinite(found.low):
    return {"interval_missing": "it is not finite"}
  return {
    "interval": [found.low, found.high],
    "interval_protocol": f"95 %, {draws} bootstrap samples of {found.groups} groups"
    + (", the same patients on both sides" if paired else "")
    + (", of the mean over samplings" if len(parts) > 1 else "")
    + ("" if together else ", first sampling alone: the others are of other images")
    + ", centred on the value of all images",
  }


def _by_key(side: Side, sampling: int) -> Side:
  """One sampling, in the order of its keys."""
  rows = np.flatnonzero(side.samplings == sampling)
  rows = rows[np.argsort(side.keys[rows], kind="stable")]
  return Side(*(column[rows] for column in side))


def label(metric: str, net: str, tap: int) -> str:
  """The metric's name as it may be printed: "FID" only where it is that of the literature.

  Any other tap of the Inception network is named ("FID@768"), and any other network ("FID
  (RadImageNet ResNet-50)").
  """
  if not net.startswith("inception"):
    return f"{metric} ({net})"
  return metric if tap == 2048 else f"{metric}@{tap}"


def protocol(
  metric: str,
  *,
  net: str,
  tap: int,
  resize: str,
  count_real: int,
  count_other: int,
  seed: int | None = None,
  details: str = "",
) -> str:
  """One line, for beside the number.

  `net`, `tap` and `resize` are those of a FeatureNet, the counts are of images. `seed` is None
  where nothing was drawn; `details`: what else the metric depends on, such as "k 5".
  """
  parts = [f"{label(metric, net, tap)}: {net}, {tap} features", resize]
  parts.append(f"N {count_real} against {count_other}")
  parts += [details] if details else []
  parts += [] if seed is None else [f"seed {seed}"]
  return ", ".join([*parts, "float64"])
