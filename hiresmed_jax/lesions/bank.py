"""The bank: trained SinGANs, one for each lesion of the training split, that give new lesions.

The last channel of a sample is its soft mask. A sample is rejected, counted and drawn again when
its mask is empty, touches the window's border, differs too much in size from the donor's, or lies
elsewhere than the lesion that is seen. On disk a bank is a safetensors file and a JSON file; it
opens without the training data.
"""

import dataclasses
import json
import math
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError
from scipy import ndimage

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import outline, sampling
from hiresmed_jax.lesions.copying import scaled
from hiresmed_jax.lesions.crops import without
from hiresmed_jax.lesions.patch import (
  BELOW_MASK_LEVEL,
  LARGEST_SCALE,
  LEAST_PIXELS,
  MASK_LEVEL,
  MIDDLE_PX,
  SMALLEST_SCALE,
  LesionPatch,
  SourceEmpty,
  central_component,
  diameter,
  diameters,
  fitting,
  touches_border,
)
from hiresmed_jax.lesions.sampling import Generators
from hiresmed_jax.ops.pyramid import Pyramid

WEIGHTS, FACTS = "bank.safetensors", "bank.json"
_VERSION = 1  # of the files; older ones are read
_TRIES = 96  # at a sample that is a lesion
_ROUND = 6  # tries with one donor, before another is taken
_LEAST_OVERLAP = 0.6  # of a sample's mask with what is seen, as a share of the training lesion's
_AS_WELL = 0.9  # from this share on a sample's mask fits as well as the training lesion's
FITS = 0.5  # overlap of a training lesion from which its mask is where half maximum is


class Member(NamedTuple):
  """Facts of a lesion that a SinGAN was trained on; those of `LesionPatch`, and `limits`.

  A field that is added needs a default: members in older files do not have it.

  Attributes:
    limits: (lowest, highest) value of its training window, value units.
    accepted: share of its samples that are lesions, measured after training; NaN: not measured.
    overlap: of its mask with what is seen of it, see `seen_overlap`; 0: samples are not compared.
  """

  donor: str
  donor_group: str
  diameter_px: float
  spacing_mm: tuple[float, float]
  physics: str
  value_range: tuple[float, float]
  limits: tuple[float, float]
  accepted: float = math.nan
  overlap: float = 0.0


class Group(NamedTuple):
  """The lesions of one window size: members in the order of the generators' first axis."""

  members: tuple[Member, ...]
  generators: Generators
  pyramid: Pyramid


@dataclasses.dataclass(frozen=True)
class Bank:
  """Draws new lesions.

  Attributes:
    groups: one for each window size.
    start: the coarsest level with new noise; see `sampling.sample`.
    rejected: counts of rejected samples by reason, and of those "accepted".
  """

  groups: Sequence[Group]
  start: int = 0
  rejected: Counter[str] = dataclasses.field(default_factory=Counter)
  _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

  @property
  def members(self) -> list[Member]:
    """All members, group after group."""
    return [member for group in self.groups for member in group.members]

  @property
  def native_px(self) -> np.ndarray:
    """f32[N], diameters of the training lesions."""
    return diameters(self.members)

  def draw(self, rng: np.random.Generator, diameter_px: float | None = None) -> LesionPatch:
    """A new lesion: kind "singan". Several threads may call it.

    Args:
      rng: equal states give equal bytes.
      diameter_px: wanted; reached within 5 %, or half a pixel below 10 px; None keeps the sample's.

    Raises:
      NoLesion: none of that diameter within the limits of scale.
      SourceEmpty: all tries are rejected.
    """
    fits = fitting(diameters(self.members), diameter_px)
    tried: Counter[str] = Counter()
    for attempt in range(_TRIES):
      if attempt % _ROUND == 0:
        number = int(rng.choice(fits))
      made = self.sample(number, int(rng.integers(2**32)))
      if isinstance(made, LesionPatch) and diameter_px is not None:
        near = SMALLEST_SCALE <= diameter_px / made.diameter_px <= LARGEST_SCALE
        made = scaled(made, diameter_px) if near else "other size"
      if isinstance(made, LesionPatch):
        self._count("accepted")
        return made
      tried[made] += 1
      self._count(made)
    reasons = ", ".join(f"{reason} {count}" for reason, count in tried.most_common())
    raise SourceEmpty(
      f"the bank gave no lesion in {_TRIES} tries ({reasons})",
      "train it longer, or use --on-empty copy",
    )

  def sample(self, number: int, seed: int) -> LesionPatch | str:
    """One sample of a member at its native scale, or why it is rejected; see `as_patch`.

    Args:
      number: index of the member in `members`.
      seed: of the noise.
    """
    group, index = self._find(number)
    image = sampling.sample(
      group.generators,
      np.int32(index),
      jax.random.key(seed),
      pyramid=group.pyramid,
      widths=sampling.widths_of(group.generators.levels),
      start=self.start,
    )
    return as_patch(np.asarray(image), group.members[index])

  def samples(self, number: int, *, seed: int, count: int) -> list[LesionPatch | str]:
    """Samples of a member, as `sample` gives them; equal seeds give equal samples."""
    rng = np.random.default_rng([seed, number])
    return [self.sample(number, int(rng.integers(2**32))) for _ in range(count)]

  def _find(self, number: int) -> tuple[Group, int]:
    return [(group, i) for group in self.groups for i in range(len(group.members))][number]

  def _count(self, outcome: str) -> None:
    with self._lock:
      self.rejected[outcome] += 1


def training_image(patch: LesionPatch) -> np.ndarray:
  """The image a SinGAN is trained on: f32[S, S, C + 1], the last channel the soft mask.

  The donor's range of values is mapped to [-1, 1], without clipping; occupancy 0 to 1, too.
  """
  low, high = patch.value_range
  values = (patch.values - low) * (2.0 / (high - low)) - 1.0
  return np.concatenate([values, 2.0 * patch.alpha[..., None] - 1.0], axis=-1).astype(np.float32)


def member_of(patch: LesionPatch) -> Member:
  """The facts of a training lesion that a bank keeps."""
  return Member(
    donor=patch.donor,
    donor_group=patch.donor_group,
    diameter_px=patch.diameter_px,
    spacing_mm=patch.spacing_mm,
    physics=patch.physics,
    value_range=patch.value_range,
    limits=(float(patch.values.min()), float(patch.values.max())),
    overlap=seen_overlap(patch.values.mean(-1), patch.mask),
  )


def seen_overlap(grey: np.ndarray, body: np.ndarray) -> float:
  """How well a mask fits its lesion: intersection over union with what is above half maximum.

  f32[S, S] and bool[S, S] with pixels set -> 0 to 1. Only pixels that a lesion of this mask may
  change are looked at, since bone may lie beside it.
  """
  seen = _seen(grey, body, outline.REACH + 1)
  return float(np.count_nonzero(seen & body) / np.count_nonzero(seen | body))


def _seen(grey: np.ndarray, body: np.ndarray, reach: int) -> np.ndarray:
  """bool[S, S]: what is above half maximum, at most `reach` px from a lesion's mask."""
  found = outline.known(grey, body)
  return (
    (_away(body) <= reach)
    & (grey >= (found.background + found.peak) / 2)
    & (found.peak > found.background)
  )


def _away(body: np.ndarray) -> np.ndarray:
  """f64[S, S], pixels from a mask."""
  return np.asarray(ndimage.distance_transform_edt(~body))


def _misfit(body: np.ndarray, diameter_px: float) -> str:
  """Why a mask is none of a lesion of this diameter; "" where it can be."""
  if np.count_nonzero(body) < LEAST_PIXELS:
    return "empty"
  if touches_border(_away(body) <= outline.REACH + 1):
    return "at the border"
  if not central_component(body, reach=MIDDLE_PX).any():
    return "beside the middle"
  fits = SMALLEST_SCALE <= diameter(body) / diameter_px <= LARGEST_SCALE
  return "" if fits else "other size"


def _seen_piece(grey: np.ndarray, body: np.ndarray) -> np.ndarray:
  """The largest piece of what is seen of a lesion in the reach of its mask, holes filled."""
  seen = central_component(_seen(grey, body, outline.REACH), reach=len(body))
  return np.asarray(ndimage.binary_fill_holes(seen))


def as_patch(image: np.ndarray, member: Member) -> LesionPatch | str:
  """A sample as a lesion with the shape of its own mask, or why it is rejected.

  Args:
    image: f32[S, S, C + 1], as `training_image` makes them.
    member: the training lesion.

  Returns:
    The lesion, its `surround` estimated; or "empty", "at the border" or "beside the middle" of the
    window, "other size", "beside its mask".
  """
  low, high = member.value_range
  values = np.clip((image[..., :-1] + 1.0) * ((high - low) / 2.0) + low, *member.limits)
  soft = np.clip((image[..., -1] + 1.0) / 2.0, 0.0, 1.0)
  body = central_component(soft >= MASK_LEVEL, reach=0.25 * member.diameter_px)
  body = ndimage.binary_fill_holes(body)
  if misfit := _misfit(body, member.diameter_px):
    return misfit
  values = values.astype(np.float32)
  grey = values.mean(-1)
  overlap = seen_overlap(grey, body)
  if overlap < _LEAST_OVERLAP * member.overlap:
    return "beside its mask"
  if member.overlap >= FITS and overlap < _AS_WELL * member.overlap:
    body = _seen_piece(grey, body)
    if misfit := _misfit(body, member.diameter_px):
      return misfit
  alpha = np.where(body, np.maximum(soft, MASK_LEVEL), np.minimum(soft, BELOW_MASK_LEVEL))
  return LesionPatch(
    values=values,
    surround=without(values, body),
    alpha=np.where(_away(body) <= outline.REACH, alpha, 0.0).astype(np.float32),
    diameter_px=diameter(body),
    spacing_mm=member.spacing_mm,
    physics=member.physics,
    donor=member.donor,
    donor_group=member.donor_group,
    kind="singan",
    value_range=member.value_range,
  )


def save(
  folder: Path, groups: Sequence[Group], *, start: int, left_out: Sequence[Member] = ()
) -> None:
  """Writes a bank into a folder, which is made; an older bank there is replaced.

  The JSON file is removed first and written after the weights, so that an incomplete bank has
  none.

  Args:
    folder: of the two files and their digests.
    groups: arrays of the host or of devices.
    start: see `Bank`.
    left_out: facts of lesions whose SinGANs were dropped, for a reader of the JSON file.
  """
  for name in (FACTS, files.DIGESTS):
    (folder / name).unlink(missing_ok=True)
  arrays: dict[str, np.ndarray] = {}
  facts: list[dict[str, Any]] = []
  for number, group in enumerate(groups):
    tree = {
      "levels": {str(n): level for n, level in enumerate(group.generators.levels)},
      "amplitudes": group.generators.amplitudes,
      "fixed": group.generators.fixed,
    }
    for name, array in traverse_util.flatten_dict(tree, sep="/").items():
      arrays[f"{number}/{name}"] = np.ascontiguousarray(np.asarray(array, np.float32))
    facts.append(
      {
        "pyramid": group.pyramid._asdict(),
        "members": [_to_json(member) for member in group.members],
      }
    )
  files.write(folder / WEIGHTS, safetensors.numpy.save(arrays))
  content = {"version": _VERSION, "start": start, "groups": facts}
  content["left_out"] = [_to_json(member) for member in left_out]
  files.write_json(folder / FACTS, content, indent=1)
  files.write_digests(folder, (WEIGHTS, FACTS))


def load(folder: Path) -> Bank:
  """Opens a bank that this or an older version has written.

  Raises:
    UserError: there is none, it is damaged, or a newer version has written it.
  """
  if not (folder / FACTS).is_file():
    raise UserError(f"no bank of lesions in {folder}: train the lesion route first")
  try:
    facts = json.loads(files.content(folder / FACTS))
    version = int(facts["version"])
    if version <= _VERSION:
      files.check_digests(folder, "train the lesion route again")
      arrays = safetensors.numpy.load_file(folder / WEIGHTS)
      groups = [_group(number, one, arrays) for number, one in enumerate(facts["groups"])]
      return Bank(groups, start=int(facts["start"]))
  except (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError,
  ) as error:  # fmt: skip
    raise UserError(f"the bank in {folder} is damaged: train the lesion route again") from error
  raise UserError(
    f"a newer version of this program has written the bank in {folder} (format {version}, this one "
    f"reads up to {_VERSION}): use the newer version, or train the lesion route again"
  )


def _group(number: int, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Group:
  prefix = f"{number}/"
  own = {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
  tree = traverse_util.unflatten_dict(own, sep="/")
  levels = tree["levels"]
  shape = facts["pyramid"]
  sizes = tuple((int(h), int(w)) for h, w in shape["sizes"])
  pyramid = Pyramid(sizes, float(shape["ratio"]), float(shape["image_scale"]))
  ordered = tuple(levels[str(n)] for n in range(len(levels)))
  members = tuple(_from_json(member) for member in facts["members"])
  # Moved to the device once, not at every draw.
  generators = jax.device_put(Generators(ordered, tree["amplitudes"], tree["fixed"]))
  if not len(sizes) == len(ordered) == generators.amplitudes.shape[1]:
    raise ValueError("levels are missing")
  if len(members) != generators.amplitudes.shape[0]:
    raise ValueError("members are missing")
  return Group(members, generators, pyramid)


def _to_json(member: Member) -> dict[str, Any]:
  facts = member._asdict()
  facts["spacing_mm"] = [None if math.isnan(v) else v for v in member.spacing_mm]
  facts["accepted"] = None if math.isnan(member.accepted) else member.accepted
  return facts


def _from_json(facts: dict[str, Any]) -> Member:
  """Fields that are not in the file have their defaults; without one, TypeError."""
  found = {name: facts[name] for name in Member._fields if name in facts}
  for name, value in found.items():
    if value is None:
      found[name] = math.nan
    elif isinstance(value, list):
      found[name] = tuple(math.nan if number is None else float(number) for number in value)
  return Member(**found)
