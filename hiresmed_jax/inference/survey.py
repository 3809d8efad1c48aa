"""The lesions of a training split: where they are, what they look like, how boxes pad them.

Looking at all images takes about 0.1 s for a slice of 391 x 320 on one core, so the result is kept
in the workdir. It holds keyed hashes, no names. Only the training split is looked at: nothing of a
held-out patient enters a synthetic image.
"""

import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.placement import atlas
from hiresmed_jax.runtime.progress import Progress

_VERSION = 1  # of the file and of how lesions are found
_MOST_BYTES = 1 << 32
_IMAGES = ("values", "surround", "alpha")


class Survey(NamedTuple):
  """What a training split holds."""

  atlas: atlas.Atlas  # where lesions are
  patches: list[LesionPatch]  # the lesions that can be used
  padding: np.ndarray  # f32[N, 5], see `crops.padding`
  groups: frozenset[str]  # hashes of the split's groups; no other may give a lesion
  skipped: dict[str, int]  # number of lesions that cannot be used, by reason
  # Of each image with lesions, how many it has. A survey of an older version, read without its
  # dataset, knows of those that can be used.
  counts: tuple[int, ...]


def require_training_donor(group: str, groups: Collection[str]) -> None:
  """Refuses a lesion whose donor's group is none of the training split's `groups`; all are hashes.

  Raises:
    UserError: it is not one of them.
  """
  if group not in groups:
    raise UserError(
      f"a lesion comes from group {group[:8]}, which is not of this dataset's training split: "
      "its bank was fitted to other data, or to held-out patients"
    )


def make(source: records.Records, *, workers: int = 1) -> Survey:
  """Looks at the images of the training split in so many threads.

  Raises:
    UserError: they are not of the training split, or have no lesions.
  """
  if source.split != "train":
    raise UserError(
      f"backgrounds and lesions are taken from the training split alone, not from "
      f"{source.split!r}: images made of a held-out patient would spoil every later test"
    )
  patches: list[LesionPatch] = []
  paddings: list[np.ndarray] = []
  groups: set[str] = set()
  skipped: Counter[str] = Counter()
  counts: list[int] = []

  def look(index: int) -> tuple[dict[str, Any], list[LesionPatch | str], np.ndarray]:
    item = source[index]
    return item, list(crops.crops_of(item)), crops.padding(item)

  def items() -> Iterator[dict[str, Any]]:
    with Progress(len(source), "looking at the lesions, once", unit="image") as progress:
      for item, lesions, padding in ordered_map(look, range(len(source)), workers=workers):
        patches.extend(lesion for lesion in lesions if not isinstance(lesion, str))
        skipped.update(lesion for lesion in lesions if isinstance(lesion, str))
        paddings.append(padding)
        groups.add(item["group"])
        counts.append(len(item["boxes"]))
        yield item
        progress.advance()

  places = atlas.fit(items())
  padding = np.concatenate(paddings)
  with_lesions = tuple(count for count in counts if count)
  return Survey(places, patches, padding, frozenset(groups), dict(skipped), with_lesions)


def load_or_make(dataset: records.Dataset, workdir: Path, *, workers: int = 1) -> Survey:
  """The survey of a dataset's training split, from the workdir where it is, else made and written.

  A damaged file is made anew.

  Raises:
    UserError: see `make`; nothing can be written there.
  """
  path, source = _path(workdir, dataset.card["fingerprint"]), records.source(dataset, "train")
  survey, is_older = _read(path)
  if survey is not None and not is_older:
    return survey
  if survey is None:
    survey = make(source, workers=workers)
  else:
    survey = survey._replace(counts=tuple(count for _, _, count in source.facts() if count))
  files.write_npz(path, _packed(survey))
  return survey


def load(workdir: Path, fingerprint: str) -> Survey:
  """The survey in a workdir, without its dataset.

  Raises:
    UserError: it is not there, or damaged.
  """
  path = _path(workdir, fingerprint)
  survey, _ = _read(path)
  if survey is None:
    state = "is damaged" if path.is_file() else "is not there"
    raise UserError(
      f"{path} {state}: run the same train command again, with its data, to have it made"
    )
  return survey


def _path(workdir: Path, fingerprint: str) -> Path:
  return workdir / f"survey-{_VERSION}-{fingerprint[:12]}.npz"


def _read(path: Path) -> tuple[Survey | None, bool]:
  """(the survey, None where there is no whole file; whether an older version wrote it)."""
  try:
    # By way of the bytes: of a damaged zip NumPy leaves the file open.
    with np.load(io.BytesIO(files.content(path, _MOST_BYTES)), allow_pickle=False) as arrays:
      return _unpacked(arrays), "counts" not in arrays
  except Exception:  # what a damaged archive raises is no closed list
    return None, False


def _packed(survey: Survey) -> dict[str, np.ndarray]:
  """As arrays: patches flattened and joined, what is no array as JSON."""
  facts = []
  for patch in survey.patches:
    plain = {key: value for key, value in patch._asdict().items() if key not in _IMAGES}
    facts.append(plain | {"shape": patch.values.shape})
  text = json.dumps({"patches": facts, "skipped": survey.skipped, "groups": sorted(survey.groups)})
  joined = {
    name: np.concatenate(
      [np.zeros(0, np.float32), *(getattr(patch, name).ravel() for patch in survey.patches)]
    )
    for name in _IMAGES
  }
  return {
    **joined,
    "about": np.frombuffer(text.encode(), np.uint8),
    "centres": survey.atlas.centres,
    "weights": survey.atlas.weights,
    "bandwidth": np.asarray(survey.atlas.bandwidth),
    "padding": survey.padding,
    "counts": np.asarray(survey.counts, np.int64),
  }


def _unpacked(arrays: Any) -> Survey:
  """The inverse of `_packed`."""
  about = json.loads(arrays["about"].tobytes().decode())
  joined, start = {name: arrays[name] for name in _IMAGES}, dict.fromkeys(_IMAGES, 0)
  patches = []
  for facts in about["patches"]:
    shape = tuple(facts.pop("shape"))
    images = {}
    for name in _IMAGES:
      size = shape if name != "alpha" else shape[:2]
      count = int(np.prod(size))
      images[name] = joined[name][start[name] : start[name] + count].reshape(size)
      start[name] += count
    for key in ("spacing_mm", "value_range"):
      facts[key] = tuple(facts[key])
    patches.append(LesionPatch(**images, **facts))
  row, column = arrays["bandwidth"]
  places = atlas.Atlas(arrays["centres"], arrays["weights"], (float(row), float(column)))
  groups = frozenset(about["groups"])
  usable = Counter(patch.donor for patch in patches).values()
  counts = tuple(map(int, arrays.get("counts", usable)))
  return Survey(places, patches, arrays["padding"], groups, about["skipped"], counts)
