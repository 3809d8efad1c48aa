"""The format of a prepared dataset: one record, read and written without names, and the card."""

import collections
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from hiresmed_jax.data import stored
from hiresmed_jax.data.audit import augmentation, findings, polarity, summary
from hiresmed_jax.data.identity import SPLITS, Identity, Split, split_of
from hiresmed_jax.data.sample import Sample

CARD = "card.json"
SCHEMA_VERSION = 2  # 2: labelled, host_mask
# What records and cards of lower versions lack, with the values that mean "as it was".
FIELDS_AS_THEY_WERE: dict[str, Any] = {"labelled": True, "host_mask": b""}
CARD_AS_IT_WAS: dict[str, Any] = {"unknown": 0, "left_out": {}, "notes": {}, "source": {}}
# What every card has.
CARD_KINDS: dict[str, Any] = dict.fromkeys(("images", "groups", "boxes", "channels", "bits"), int)
CARD_KINDS |= {"name": str, "fingerprint": str}
CARD_KINDS |= {"splits": dict.fromkeys(SPLITS, int), "audit": {
  "images": {"count": int, "forbidden_masks": int},
  "groups": {"splits": {split: {"boxes": int} for split in SPLITS}},
}}  # fmt: skip
# tfds copies every image once more than decoding it needs.
AS_BYTES = {"image": tfds.decode.SkipDecoding()}


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A sample as a record, and its part of the card and of the private table.

  Attributes:
    record: the stored values, see `features`.
    split: of its group.
    bits: 8 or 16.
    channels: 1 or 3.
    digest: hash of the record without its ids, so that it does not depend on the salt.
    facts: for the audit.
    names: (image_id, source, group_id, group, split) for the private table.
    labelled: as in the record.
    notes: of the sample.
  """

  record: dict[str, Any]
  split: Split
  bits: int
  channels: int
  digest: str
  facts: summary.ImageFacts
  names: tuple[str, str, str, str, str]
  labelled: bool
  notes: tuple[str, ...]


def encode(sample: Sample, identity: Identity) -> Encoded:
  """Encodes a sample; its raw names are in `names` alone."""
  split = cast(Split, sample.split) if sample.split else split_of(sample.group)
  labelled = sample.labelled or len(sample.boxes) > 0
  image_id, group_id = identity.image_id(sample.source), identity.group_id(sample.group)
  record = {
    "image": stored.encode_png(sample.image),
    "lesion_mask": stored.encode_png(sample.lesion_mask),
    "forbidden_mask": stored.encode_png(sample.forbidden_mask),
    "host_mask": stored.encode_png(sample.host_mask),
    "labelled": labelled,
    "boxes": sample.boxes,
    "image_id": image_id,
    "group": group_id,
    "rescale_slope": sample.rescale_slope,
    "rescale_intercept": sample.rescale_intercept,
    "value_range": np.asarray(sample.value_range, np.float32),
    "photometric": sample.photometric,
    "physics": sample.physics,
    "spacing_mm": np.asarray(sample.spacing_mm, np.float32),
  }
  return Encoded(
    record=record,
    split=split,
    bits=8 * sample.image.dtype.itemsize,
    channels=sample.image.shape[-1],
    digest=_digest(sample, split),
    facts=summary.image_facts(sample, group=group_id, split=split),
    names=(image_id, sample.source, group_id, sample.group, split),
    labelled=labelled,
    notes=sample.notes,
  )


def decode(
  item: dict[str, Any],
  image: tfds.features.Image,
  *,
  masks: bool = True,
  ranges: Mapping[tuple[float, float], np.ndarray] | None = None,
) -> dict[str, Any]:
  """An item of `records.Records`: an example read with `AS_BYTES`, text as str, images as arrays.

  Args:
    item: one example.
    image: its feature, with the bits and channels of the dataset.
    masks: False gives (0, 0): decoding them takes about as long as the image.
    ranges: of `ranges_in_use`.
  """
  item = FIELDS_AS_THEY_WERE | item
  item["value_range"] = (ranges or {}).get(tuple(item["value_range"]), item["value_range"])
  item["image"] = stored.decode_image(item["image"], dtype=image.np_dtype, channels=image.shape[-1])
  for name in ("image_id", "group", "photometric", "physics"):
    item[name] = item[name].decode()
  item["labelled"] = bool(item["labelled"])
  kinds: dict[str, type[np.generic]] = {"lesion_mask": np.uint16}
  kinds |= {"forbidden_mask": np.uint8, "host_mask": np.uint8}
  for name, dtype in kinds.items():
    item[name] = stored.decode_mask(item[name] if masks else b"", dtype)
  return item


def ranges_in_use(card: Mapping[str, Any]) -> dict[tuple[float, float], np.ndarray]:
  """f32[2] to show by the f32 range that a record declares, where a set uses fewer bits."""
  found = {}
  for pair in card["audit"]["images"].get("ranges", []):
    declared = np.asarray(pair["declared"], np.float32)
    found[tuple(declared)] = np.asarray(pair["in_use"], np.float32)
  return found


def features(bits: int, channels: int) -> tfds.features.FeaturesDict:
  """Features of a dataset of so many bits and channels.

  An image of fewer is widened when it is read: the same values, grey repeated to RGB.
  """
  dtype = np.uint16 if bits == 16 else np.uint8
  image = tfds.features.Image(shape=(None, None, channels), dtype=dtype, encoding_format="png")
  return tfds.features.FeaturesDict(
    {
      "image": image,
      # PNG bytes or none, since an Image feature cannot be absent.
      "lesion_mask": tfds.features.Text(),
      "forbidden_mask": tfds.features.Text(),
      "host_mask": tfds.features.Text(),
      "labelled": tfds.features.Scalar(np.bool_),
      "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
      "image_id": tfds.features.Text(),
      "group": tfds.features.Text(),
      "rescale_slope": tfds.features.Scalar(np.float32),
      "rescale_intercept": tfds.features.Scalar(np.float32),
      "value_range": tfds.features.Tensor(shape=(2,), dtype=np.float32),
      "photometric": tfds.features.Text(),
      "physics": tfds.features.Text(),
      "spacing_mm": tfds.features.Tensor(shape=(2,), dtype=np.float32),
    }
  )


def dataset_info(folder: Path) -> tfds.core.DatasetInfo:
  """The description of the dataset in `folder` for tfds, with features for any image."""
  identity = tfds.core.dataset_info.DatasetIdentity(
    name="images",
    version=tfds.core.Version(f"{SCHEMA_VERSION}.0.0"),
    data_dir=str(folder),
    module_name="hiresmed_jax",
  )
  return tfds.core.DatasetInfo(
    builder=identity,
    features=features(16, 1),
    description="Images prepared by hiresmed_jax; see card.json.",
  )


def _digest(sample: Sample, split: Split) -> str:
  digest = hashlib.sha256()
  for array in (sample.image, sample.boxes, sample.lesion_mask, sample.forbidden_mask):
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
  plain = (
    float(sample.rescale_slope),
    float(sample.rescale_intercept),
    tuple(float(v) for v in sample.value_range),
    sample.photometric,
    sample.physics,
    tuple(None if math.isnan(s) else float(s) for s in sample.spacing_mm),
    split,
  )
  digest.update(repr(plain).encode())
  # Only where they are new, so that data of earlier versions keep their fingerprint.
  if not (sample.labelled or len(sample.boxes)):
    digest.update(b"unknown")
  if sample.host_mask.size:
    digest.update(sample.host_mask.tobytes())
  return digest.hexdigest()


@dataclasses.dataclass
class SourceReport:
  """What the readers note while the samples stream by.

  Attributes:
    skipped: (path, reason) of files that cannot be used, or not wholly. Reasons hold no names.
    left_out: (path, reason) of files that are no images of the set.
    odd: (path, reason) of images to look at, filled when the card is made.
    source: what was found in the source folder and what was used, for the card.
    jpeg_qualities: number of files of each JPEG quality (1 to 100).
  """

  skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  left_out: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  odd: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  source: dict[str, Any] = dataclasses.field(default_factory=dict)
  jpeg_qualities: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)


def make_card(
  encoded: Sequence[Encoded], *, name: str, kind: str, report: SourceReport
) -> dict[str, Any]:
  """The card of a dataset with at least one image.

  Args:
    encoded: the images, in any order.
    name: of the dataset.
    kind: of its source.
    report: of the readers.

  Returns:
    A tree for JSON: schema_version, name, kind, images, groups, boxes, channels, bits, splits
    (images by split), unknown (images that nobody has labelled), skipped and left_out (files by
    reason), notes (images by note), source (of the report), fingerprint (sha256 of all records
    without their ids, independent of salt and order), audit.
  """
  facts = [e.facts for e in encoded]
  twins = augmentation.near_duplicates([f.signature for f in facts])
  audit = summary.summarise(facts, twins, jpeg_qualities=report.jpeg_qualities)
  labelled = sum(e.labelled for e in encoded)
  left_out = _counted(reason for _, reason in report.left_out)
  audit["warnings"] += findings.source_warnings(
    report.source, labelled, audit["lesions"]["boxes"], left_out
  )
  negatives = polarity.negatives([f.thumbnail for f in facts])
  report.odd += [(encoded[n].names[1], "looks like a negative of the others") for n in negatives]
  report.odd += [
    (encoded[i].names[1], f"is the same image as {encoded[j].names[1]}, of another group")
    for i, j in twins.pairs
    if facts[i].group != facts[j].group
  ]
  digests = "".join(sorted(e.digest for e in encoded))
  return {
    "schema_version": SCHEMA_VERSION,
    "name": name,
    "kind": kind,
    "images": len(encoded),
    "groups": len({f.group for f in facts}),
    "boxes": sum(len(f.box_sizes) for f in facts),
    "channels": max(e.channels for e in encoded),
    "bits": max(e.bits for e in encoded),
    "splits": {split: sum(e.split == split for e in encoded) for split in SPLITS},
    "unknown": sum(not e.labelled for e in encoded),
    "skipped": _counted(reason for _, reason in report.skipped),
    "left_out": left_out,
    "notes": _counted(note for e in encoded for note in e.notes),
    "source": report.source,
    "fingerprint": hashlib.sha256(digests.encode()).hexdigest(),
    "audit": audit,
  }


def _counted(texts: Iterable[str]) -> dict[str, int]:
  return dict(sorted(collections.Counter(texts).items()))
