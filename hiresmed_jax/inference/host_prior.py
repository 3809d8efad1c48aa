"""Where lesions live, fitted to the training split in seconds, and kept in the workdir.

Lesions are taken out of training images, and as many outlines and more are filled at places drawn
at random among those that are allowed, in the same way: what tells the two apart is anatomy. How
much it counts, and whether the atlas helps it, is chosen on validation images.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.inference import canvas, emptied, places, prior_scores
from hiresmed_jax.inference.places import Fitted
from hiresmed_jax.placement import atlas as atlases
from hiresmed_jax.placement import hosts, surroundings
from hiresmed_jax.placement.atlas import Atlas
from hiresmed_jax.runtime.progress import Progress

_VERSION = 2  # of the file, the features and the fit
_IMAGES = 256  # that are looked at, evenly through the split, at most
_CHANCE = 2000  # places drawn at random, about
_FEWEST, _MOST = 3, 12  # of them for each lesion
_LEAST = 12  # real places, below which nothing is fitted
_VAL_IMAGES = 64
_UNSEEN = 0.02  # share of real places where the atlas is below `Prior.least_seen`
_FLOOR = 0.05  # share of places that is uniform, when priors are compared
_LEVEL_IMAGES, _KEPT = 40, 61  # images, and every so many of their pixels, that give the levels


NOT_FITTED = Fitted(
  None,
  "it is fitted when synthesize or train is given the run's own data",
  "",
  1.0,
  "atlas",
  0.0,
  {},
)


class _Places(NamedTuple):
  """Places of one image, real ones first."""

  found: np.ndarray  # f32[n, D] of `surroundings.features`
  is_real: np.ndarray  # bool[n]
  log_sizes: np.ndarray  # f64[n], see `hosts.fit`
  seen: np.ndarray  # f64[n], density of the atlas over the uniform one
  group: str


def load_or_make(
  dataset: records.Dataset, workdir: Path, atlas: Atlas, *, host_rule: str, workers: int = 1
) -> Fitted:
  """The fit of a dataset's training split, from the workdir where it is, else made and written.

  A damaged file is made anew.

  Args:
    dataset: that the workdir is of.
    workdir: of the run.
    atlas: of the training split.
    host_rule: as of `places.Prior`.
    workers: threads.

  Raises:
    UserError: nothing can be written there.
  """
  path = _path(workdir, dataset.card["fingerprint"], host_rule)
  found = _read(path)
  if found is None:
    found = make(dataset, atlas, host_rule=host_rule, workers=workers)
    files.write_npz(path, _packed(found))
  return found


def load(workdir: Path, fingerprint: str, *, host_rule: str) -> Fitted | None:
  """The fit in a workdir, without its dataset; None where there is none."""
  return _read(_path(workdir, fingerprint, host_rule))


def make(dataset: records.Dataset, atlas: Atlas, *, host_rule: str, workers: int = 1) -> Fitted:
  """Fits to the training split, and chooses how it is used on the validation split."""
  source = records.source(dataset, "train").labelled()
  chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), _IMAGES)).round().astype(int))
  share = float(np.clip(_CHANCE / len(atlas.centres), _FEWEST, _MOST))
  levels = _levels(source, chosen)
  looked: list[_Places] = []

  def look(index: int) -> _Places | None:
    return _look(source[int(index)], int(index), share, host_rule, levels, atlas)

  with Progress(len(chosen), "where lesions live", unit="image") as progress:
    for found in ordered_map(look, chosen, workers=workers):
      if found is not None:
        looked.append(found)
      progress.advance()
  real = int(sum(one.is_real.sum() for one in looked))
  chance = int(sum((~one.is_real).sum() for one in looked))
  if real < _LEAST or chance < _LEAST or len({one.group for one in looked}) < 2:
    why = f"{real} lesions of the training images and {chance} places beside them are too few"
    return Fitted(None, why, "", 1.0, "atlas", 0.0, {})
  live = hosts.fit(
    np.concatenate([one.found for one in looked]),
    np.concatenate([one.is_real for one in looked]),
    np.concatenate([one.log_sizes for one in looked]),
    [one.group for one in looked for _ in one.is_real],
    levels,
  )
  seen = np.concatenate([one.seen[one.is_real] for one in looked])
  least_seen = float(max(np.quantile(seen, _UNSEEN), 1e-6))
  digest = hashlib.sha256(b"".join(a.tobytes() for a in hosts.packed(live).values())).hexdigest()
  scores = prior_scores.score_priors(
    records.source(dataset, "val").labelled(),
    None,
    atlas,
    fitted=Fitted(live, "", "", least_seen, "uniform", 1.0, {}),
    host_rule=host_rule,
    decoys=1.0,
    floor=_FLOOR,
    seed=0,
    limit=_VAL_IMAGES,
    workers=workers,
  )
  name, power = "uniform", 1.0
  if scores.groups:
    live_ones = [key for key, choice in scores.choices.items() if choice.hosts_power]
    choice = scores.choices[max(live_ones, key=lambda key: float(scores.logs[key].mean()))]
    name, power = choice.name, choice.hosts_power
  gains = {key: float(values.mean()) for key, values in scores.logs.items()}
  return Fitted(live, "", digest[:12], least_seen, name, power, gains)


def _levels(source: records.Records, chosen: np.ndarray) -> np.ndarray:
  """The levels of tissue in some of the images."""
  greys = []
  for index in chosen[:: max(1, len(chosen) // _LEVEL_IMAGES)]:
    scene = canvas.real(source[int(index)])
    grey = surroundings.grey_of(scene.values, scene.value_range)
    greys.append(grey[scene.content][::_KEPT])
  return surroundings.levels_of(np.concatenate(greys))


def _look(
  item: Mapping[str, Any],
  index: int,
  share: float,
  host_rule: str,
  levels: np.ndarray,
  atlas: Atlas,
) -> _Places | None:
  """The places of one record; None where it has no lesion, or one that cannot be taken out."""
  if not len(item["boxes"]):
    return None
  scene = canvas.real(item)
  real = emptied.lesion_masks(scene.values, item["boxes"], item["lesion_mask"], scene.value_range)
  forbidden = item["forbidden_mask"] if item["forbidden_mask"].size else None
  chance = emptied.holes_elsewhere(
    places.allowed(scene, forbidden, 0.0),
    real,
    np.random.default_rng([0, index]),
    share,
    host=places.host_of(scene, host_rule),
  )
  key = jax.random.fold_in(jax.random.key(0), index)
  own = emptied.bounds(scene.values, item["boxes"], item["lesion_mask"])
  values = emptied.cleared(scene.values, real + chance, own, key)
  shapes = [np.nonzero(mask) for mask in (*real, *chance)]
  if not shapes or values is None:
    return None
  grey = surroundings.grey_of(values, scene.value_range)
  points = np.array([(columns.mean() + 0.5, rows.mean() + 0.5) for rows, columns in shapes])
  areas = np.array([len(rows) for rows, _ in shapes])
  side = surroundings.body_side(scene.content)
  seen = atlases.score_map(atlas, scene.content) * np.count_nonzero(scene.content)
  return _Places(
    surroundings.at(surroundings.features(grey, scene.content, levels), points, scene.shape),
    np.arange(len(shapes)) < len(real),
    np.log(2.0 * np.sqrt(areas / np.pi) / side),
    surroundings.at(seen[..., None], points, scene.shape)[:, 0],
    item["group"],
  )


def _path(workdir: Path, fingerprint: str, host_rule: str) -> Path:
  rule = f"-{host_rule}" if host_rule else ""
  return workdir / f"hosts-{_VERSION}-{fingerprint[:12]}{rule}.npz"


def _read(path: Path) -> Fitted | None:
  """None where there is no whole file."""
  try:
    # By way of the bytes: of a damaged zip NumPy leaves the file open.
    with np.load(io.BytesIO(files.content(path)), allow_pickle=False) as arrays:
      about = json.loads(arrays["about"].tobytes().decode())
      live = hosts.unpacked(arrays) if "weights" in arrays else None
      return Fitted(live, **about)
  except Exception:  # what a damaged archive raises is no closed list
    return None


def _packed(found: Fitted) -> dict[str, np.ndarray]:
  """As arrays; what is no array as JSON."""
  about = {key: value for key, value in found._asdict().items() if key != "hosts"}
  arrays = {} if found.hosts is None else hosts.packed(found.hosts)
  return arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
