"""One look at all training images: where lesions are, what they look like, how boxes pad them.

It takes some time (a slice of 391 x 320 about 0.1 s on one core), so it is kept in the workdir.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data import records
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.writers import whole_file
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.placement import atlas
from hiresmed_jax.synthesis import guard, labels

_VERSION = 1  # of what is kept and how it is found


class Survey(NamedTuple):
  """What was found.

  Attributes:
    atlas: where lesions are.
    patches: the lesions that can be used.
    padding: see `labels.padding`, f32[N, 5].
    groups: of the training split: nothing else may give a lesion.
    skipped: lesions that cannot be used, by reason.
  """

  atlas: atlas.Atlas
  patches: list[LesionPatch]
  padding: np.ndarray
  groups: frozenset[str]
  skipped: dict[str, int]


def survey(source: records.Records, *, workers: int = 1) -> Survey:
  """Looks at the images of the training split.

  Raises:
    UserError: they are not of the training split, or have no lesions.
  """
  guard.training_only(source)
  patches: list[LesionPatch] = []
  paddings: list[np.ndarray] = []
  groups: set[str] = set()
  skipped: Counter[str] = Counter()

  def look(index: int) -> tuple[dict[str, Any], list[LesionPatch | str], np.ndarray]:
    item = source[index]
    return item, list(crops.crops_of(item)), labels.padding(item)

  def items() -> Iterator[dict[str, Any]]:
    for item, found, padding in ordered_map(look, range(len(source)), workers=workers):
      patches.extend(one for one in found if not isinstance(one, str))
      skipped.update(one for one in found if isinstance(one, str))
      paddings.append(padding)
      groups.add(item["group"])
      yield item

  where = atlas.fit(items())
  return Survey(where, patches, np.concatenate(paddings), frozenset(groups), dict(skipped))


def kept(dataset: records.Dataset, folder: Path, *, workers: int = 1) -> Survey:
  """The survey of a dataset's training split, from `folder` where it is there, else made and put
  there.

  Raises:
    UserError: see `survey`; nothing can be written there.
  """
  path = folder / f"survey-{_VERSION}-{str(dataset.card['fingerprint'])[:12]}.npz"
  if path.is_file():
    with np.load(path, allow_pickle=False) as arrays:
      return _unpacked(arrays)
  found = survey(records.source(dataset, "train"), workers=workers)
  file = io.BytesIO()
  np.savez(file, allow_pickle=False, **_packed(found))
  whole_file.write(path, file.getvalue())
  return found


_IMAGES = ("values", "surround", "alpha")


def _packed(found: Survey) -> dict[str, np.ndarray]:
  """Arrays alone: no pickles."""
  about = [
    {
      key: value
      for key, value in patch._asdict().items()
      if key not in _IMAGES
    } | {"shape": patch.values.shape}
    for patch in found.patches
  ]  # fmt: skip
  text = json.dumps({"patches": about, "skipped": found.skipped, "groups": sorted(found.groups)})
  flat = {
    name: np.concatenate(
      [np.zeros(0, np.float32), *(getattr(patch, name).ravel() for patch in found.patches)]
    )
    for name in _IMAGES
  }
  return {
    **flat,
    "about": np.frombuffer(text.encode(), np.uint8),
    "centres": found.atlas.centres,
    "weights": found.atlas.weights,
    "bandwidth": np.asarray(found.atlas.bandwidth),
    "padding": found.padding,
  }


def _unpacked(arrays: Any) -> Survey:
  about = json.loads(arrays["about"].tobytes().decode())
  flat, start = {name: arrays[name] for name in _IMAGES}, dict.fromkeys(_IMAGES, 0)
  patches = []
  for one in about["patches"]:
    shape = tuple(one.pop("shape"))
    images = {}
    for name in _IMAGES:
      size = shape if name != "alpha" else shape[:2]
      count = int(np.prod(size))
      images[name] = flat[name][start[name] : start[name] + count].reshape(size)
      start[name] += count
    for key in ("spacing_mm", "value_range"):
      one[key] = tuple(one[key])
    patches.append(LesionPatch(**images, **one))
  row, column = arrays["bandwidth"]
  where = atlas.Atlas(arrays["centres"], arrays["weights"], (float(row), float(column)))
  groups = frozenset(about["groups"])
  return Survey(where, patches, arrays["padding"], groups, about["skipped"])
