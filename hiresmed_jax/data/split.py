"""Which split a patient group belongs to. It follows from the raw name alone: all routes agree."""

import hashlib
from typing import Literal

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def split_of(group: str) -> Split:
  """Split of the patient group with this raw, unsalted name.

  The hash is not salted, so the same patients are held out in every project and on every machine.

  Args:
    group: raw name, as the groups file or the DICOM header spells it.

  Returns:
    "test" (held out, one group in five), "val" (one in five) or "train".
  """
  residue = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 5
  return "test" if residue == 0 else "val" if residue == 1 else "train"
