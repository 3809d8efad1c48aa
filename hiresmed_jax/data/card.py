"""The dataset card: what a prepared dataset is, in `card.json`, without a single name."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from hiresmed_jax.data.audit import summary
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.data.record_format import SCHEMA_VERSION, Encoded

CARD = "card.json"


@dataclasses.dataclass
class SourceReport:
  """What the reading side saw, filled while the samples stream by and put on the card at the end.

  Attributes:
    skipped: how many files gave nothing, by reason. Reasons hold no names.
    jpeg_qualities: how many files there are of each JPEG quality (1 to 100).
  """

  skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  jpeg_qualities: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)


def make_card(
  encoded: Sequence[Encoded], *, name: str, kind: str, report: SourceReport
) -> dict[str, Any]:
  """The card of a dataset with at least one image.

  Args:
    encoded: the images, in any order.
    name: what the user calls the dataset.
    kind: kind of its source.
    report: what was skipped, and the JPEG qualities.

  Returns:
    A tree for JSON: schema_version, name, kind, images, groups, boxes, channels, bits, splits
    (images by split), skipped (files by reason), fingerprint (sha256 of all that is stored but the
    ids: the same images give the same one under any salt and in any order), audit.
  """
  facts = [e.facts for e in encoded]
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
    "skipped": dict(sorted(report.skipped.items())),
    "fingerprint": hashlib.sha256(digests.encode()).hexdigest(),
    "audit": summary.summarise(facts, jpeg_qualities=report.jpeg_qualities),
  }
