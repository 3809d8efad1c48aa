"""Sets of images to evaluate: folders, output of `synthesize`, reconstructions by a workdir."""

import collections
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.data.matching import stem_of
from hiresmed_jax.data.readers import images
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation.pictures import (
  Entry,
  Picture,
  beside,
  read,
  scale_of,
  show_sample,
  shown,
)
from hiresmed_jax.evaluation.real import Place, Real, depth, folder_files, longest_side
from hiresmed_jax.inference import canvas, workdir
from hiresmed_jax.inference.workdir import Model

MANIFEST = "manifest.jsonl"
_NUMBERED = re.compile(r"(.+)_(\d+)")


class ImageSet(NamedTuple):
  """Images of one method."""

  name: str  # of the method
  kind: str  # in a few words, for the report
  entries: tuple[Entry, ...]  # its images
  same_lesions: bool  # whether an image shows the lesions of its reference, which it was made from
  notes: tuple[str, ...] = ()  # for the report, without names of files
  facts: tuple[Mapping[str, Any], ...] = ()  # of each trained run in it; () for folders
  longest: int = 0  # side of its largest image, pixels
  caution: str = ""  # what the comparison with real images, one by one, does not mean


def open_set(name: str, path: Path, real: Real, *, option: str) -> ImageSet:
  """The set of a folder of images, with a manifest or without.

  Raises:
    UserError: no images, another depth than the real images, or held-out patients in them.
  """
  if (path / MANIFEST).is_file():
    return synthesis_set(name, path, real)
  return folder_set(name, path, real, option=option)


def folder_set(name: str, path: Path, real: Real, *, option: str) -> ImageSet:
  """Images that belong to the real image of their name: STEM, or STEM_<k> for several of one.

  Raises:
    UserError: no images, or of 16 bits where the real ones have 8.
  """
  files = folder_files(path, option)
  bits = depth(files[0], option)
  if bits > real.bits and files[0].suffix.lower() != ".dcm":
    raise UserError(
      f"{option} {path} has {bits}-bit images and --real {real.bits}-bit ones: which grey is which "
      "is not known; write both in the same depth"
    )
  known = set(real.files) | set(real.places)
  counts: collections.Counter[str] = collections.Counter()
  entries, paired = [], 0
  for file in files:
    stem = stem_of(file.name)
    parts = _NUMBERED.fullmatch(stem)
    key = parts[1] if parts and stem not in known and parts[1] in known else stem
    paired += key in known
    load = functools.partial(_load_file, file, key, real)
    entries.append(Entry(key, real.group_of(key), counts[key], (), load))
    counts[key] += 1
  notes = []
  if paired < len(files):
    notes.append(
      f"{len(files) - paired} of {len(files)} images have the name of no real image: they count "
      "for distributions only"
    )
  if paired and (unseen := len(set(real.files) - set(counts))):
    notes.append(f"{unseen} real images have no image in it")
  sides = longest_side(files)
  return ImageSet(name, "folder", tuple(entries), paired > 0, tuple(notes), longest=sides)


def synthesis_set(name: str, path: Path, real: Real) -> ImageSet:
  """An output folder of `synthesize`: each image belongs to the image of its background.

  Raises:
    UserError: a damaged manifest, or a background or donor of a held-out group.
  """
  try:
    lines = [json.loads(line) for line in files.content(path / MANIFEST).splitlines() if line]
    facts = [(line, line["background"]["image"], line["background"]["group"]) for line in lines]
    groups = {group for _, _, group in facts} | {
      lesion["donor_group"]
      for line in lines
      for lesion in line["lesions"]
      if lesion.get("donor_group")
    }
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
    raise UserError(f"{path / MANIFEST} is damaged, or no file of this program") from error
  if not lines:
    raise UserError(f"{path} has no images yet: {MANIFEST} is empty")
  notes = refuse_held_out(path, groups, real)
  counts: collections.Counter[str] = collections.Counter()
  entries = []
  for line, image, group in facts:
    donors = [lesion["donor"] for lesion in line["lesions"] if lesion.get("donor")]
    load = functools.partial(_load_synthetic, path, line, real)
    entries.append(Entry(image, group, counts[image], tuple(dict.fromkeys(donors)), load))
    counts[image] += 1
  kinds = " and ".join(sorted({line["background"]["kind"] for line in lines}))
  copied = sum(line["background"]["kind"] == "real" for line in lines)
  caution = (
    f"the backgrounds of {copied} of {len(lines)} images are real images, whose pixels they have "
    "but for the lesions: their PSNR, SSIM and LPIPS say how small the lesions are, and nothing of "
    "a model"
  )
  longest = max(max(int(line["height"]), int(line["width"])) for line in lines)
  return ImageSet(
    name, f"synthetic, backgrounds: {kinds}", tuple(entries), False, notes, longest=longest,
    caution=caution if copied else "",
  )  # fmt: skip


def refuse_held_out(path: Path, groups: set[str], real: Real) -> tuple[str, ...]:
  """Refuses images with a background or lesion of a held-out patient.

  Returns:
    Notes on what could not be checked.

  Raises:
    UserError: a group is held out.
  """
  if real.dataset is None:
    return ("whether held-out patients are in it was not checked: --real is a folder",)
  splits = {place.group: place.split for place in real.places.values()}
  if held_out := sum(splits.get(group) == "test" for group in groups):
    raise UserError(
      f"{path}: backgrounds or lesions of {held_out} groups are of the test split of "
      f"{real.dataset.root}: every number would be spoilt; make images from training patients"
    )
  strange = sum(group not in splits for group in groups)
  if strange:
    return (
      f"{strange} of {len(groups)} groups of its backgrounds and lesions are not of this dataset: "
      "whether they are held out cannot be told",
    )
  return ()


def as_method(sets: Sequence[ImageSet]) -> ImageSet:
  """Several sets of one name as one method; the samplings (or seeds) of all are kept."""
  first = sets[0]
  if len(sets) == 1:
    return first
  counts: collections.Counter[str] = collections.Counter()
  entries = []
  for one in sets:
    for entry in one.entries:
      entries.append(entry._replace(sampling=counts[entry.key]))
      counts[entry.key] += 1
  kinds = " and ".join(dict.fromkeys(one.kind for one in sets))
  notes = tuple(dict.fromkeys(note for one in sets for note in one.notes))
  facts = tuple(fact for one in sets for fact in one.facts)
  same = all(one.same_lesions for one in sets)
  longest = max(one.longest for one in sets)
  caution = "; ".join(dict.fromkeys(one.caution for one in sets if one.caution))
  return ImageSet(first.name, kinds, tuple(entries), same, notes, facts, longest, caution)


def equal_samplings(method: ImageSet, most: int | None) -> ImageSet:
  """Keeps the same number of samplings of each key, so that means are over equal sets.

  Keys with fewer are left out, and so are further samplings; both are noted. Where that would leave
  one sampling, all images count as one. `most` None: as many as keep the most images.

  Raises:
    UserError: no key has so many.
  """
  counts = collections.Counter(entry.key for entry in method.entries)
  possible = range(1, max(counts.values()) + 1)
  sizes = {k: k * sum(count >= k for count in counts.values()) for k in possible}
  number = most or max(sizes, key=lambda k: (sizes[k], k))
  if number == 1 and most is None:
    if max(counts.values()) == 1:
      return method
    note = "its real images have unequal numbers of images: all of them count as one sampling"
    alike = tuple(entry._replace(sampling=0) for entry in method.entries)
    return method._replace(entries=alike, notes=(*method.notes, note))
  kept = tuple(e for e in method.entries if counts[e.key] >= number and e.sampling < number)
  if not kept:
    raise UserError(f"{method.name}: no real image has {number} samplings: use --samplings 1")
  left_out = len(method.entries) - len(kept)
  if not left_out:
    return method
  note = (
    f"{left_out} of {len(method.entries)} images are left out: {len(kept) // number} real images "
    f"with {number} samplings each are compared, and these have fewer or more"
  )
  return method._replace(entries=kept, notes=(*method.notes, note))


def _load_file(path: Path, key: str, real: Real) -> Picture:
  sample = read(path)
  scale = None
  item = real.item(key)
  if sample.image.dtype == np.uint16 and path.suffix.lower() != ".dcm" and real.dataset:
    scale = real.common_scale() if item is None else scale_of(item, real.window)
  image = show_sample(sample, scale)
  made = _paired(image, real.picture(key))
  if item is not None and made.reference is not None and item["image"].shape[:2] == image.shape[:2]:
    return made._replace(boxes=item["boxes"], lesion_mask=item["lesion_mask"])
  return made


def _load_synthetic(path: Path, line: Mapping[str, Any], real: Real) -> Picture:
  item = real.item(line["background"]["image"])
  scale = None if item is None else scale_of(item, real.window)
  written, pixels = scale, line.get("pixels")
  if scale is not None and pixels:  # grey levels: the record's own slope is of stored values
    written = scale._replace(slope=pixels["slope"], intercept=pixels["intercept"])
  image = show_sample(read(path / line["image"]), written)
  try:
    mask = images.plain(path / line["mask"]).max(axis=-1).astype(np.uint16)
  except Unreadable as error:
    raise Unreadable(f"its mask {error}") from error
  boxes = np.asarray([lesion["tight_box"] for lesion in line["lesions"]], np.float32)
  reference = None if item is None or scale is None else shown(item["image"], scale)
  made = _paired(image, reference)
  return made._replace(boxes=boxes.reshape(-1, 4), lesion_mask=mask)


def _paired(image: np.ndarray, reference: np.ndarray | None) -> Picture:
  if reference is None:
    return Picture(image, no_reference="no real image has its name")
  found = beside(reference, image.shape)
  return Picture(image, no_reference=found) if isinstance(found, str) else Picture(image, found)


_REPORTED = ("train", "held_out", "floors", "gap_psnr")  # of a run's own results


def window_of(folder: Path) -> Any:
  """The window through which the model of a workdir sees records.

  Raises:
    UserError: it is not trained.
  """
  run = workdir.finished(folder, "background", workdir.fingerprint_of(folder))
  return run.config["data"]["window"]


def model_set(
  name: str, folder: Path, real: Real, *, devices: Sequence[jax.Device], other: bool = False
) -> ImageSet:
  """The held-out images through encoder, codebook and decoder, without the padding of the view.

  One image at a time, as `synthesize` does it, so that the number of devices changes nothing.

  Args:
    name: of the method.
    folder: the workdir.
    real: the images.
    devices: to run on.
    other: they may be of another dataset than that of the run.

  Raises:
    UserError: the workdir is not trained, on other data, or sees them through another window.
  """
  if real.dataset is None:
    raise UserError(f"--workdir {folder} needs its prepared dataset as --real or --data")
  fingerprint = workdir.fingerprint_of(folder)
  own = real.dataset.card["fingerprint"] == fingerprint
  if not (own or other):
    raise UserError(
      f"{real.dataset.root} is not the dataset that {folder} was trained on: --data, without "
      "--real, measures a run on another dataset"
    )
  window = window_of(folder)
  if window != real.window:
    raise UserError(
      f"{folder} sees images through the window {window} and another method through "
      f"{real.window}: evaluate them one by one"
    )
  model = workdir.background_of(folder, fingerprint)
  source, entries = real.sources["test"], []
  for key, place in real.places.items():
    if place.split == "test":
      device = devices[place.number % len(devices)]
      load = functools.partial(_load, source, place, model, device)
      entries.append(Entry(key, place.group, 0, (), load))
  seed = workdir.finished(folder, "background", fingerprint).config["seed"]
  reported = {name: model.results[name] for name in _REPORTED if name in model.results}
  kind = "reconstructions of held-out images"
  facts = {"step": model.step, "seed": seed, **reported}
  notes = () if own else ("trained on another dataset than that of these images",)
  return ImageSet(name, kind, tuple(entries), True, notes, (facts,), max(model.view.shape))


def _load(source: records.Records, place: Place, model: Model, device: jax.Device) -> Picture:
  example, output_m11 = canvas.without_padding(
    source[place.number], model.view, lambda image: model.network(image, device)
  )
  before, after = ((np.clip(x, -1, 1) + 1.0) / 2.0 for x in (example["images_m11"], output_m11))
  return Picture(
    image=after.astype(np.float32),
    reference=before.astype(np.float32),
    boxes=example["boxes"],
    lesion_mask=example["lesion_mask"],
  )
