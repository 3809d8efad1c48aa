"""Nothing of a held-out patient enters a synthetic image."""

from collections.abc import Collection

from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError


def training_only(source: Records) -> Records:
  """The same records, if they are of the training split.

  Raises:
    UserError: they are not.
  """
  if source.split != "train":
    raise UserError(
      f"backgrounds and lesions are taken from the training split alone, not from "
      f"{source.split!r}: images made of a held-out patient would spoil every later test"
    )
  return source


def training_donor(group: str, groups: Collection[str]) -> None:
  """Lets a lesion pass whose donor's group is one of the training split's.

  Args:
    group: hash of the donor's group.
    groups: hashes of those of the training split.

  Raises:
    UserError: it is not one of them.
  """
  if group not in groups:
    raise UserError(
      f"a lesion comes from group {group[:8]}, which is not of this dataset's training split: "
      "its bank was fitted to other data, or to held-out patients"
    )
