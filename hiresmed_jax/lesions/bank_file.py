"""A bank on disk: weights as safetensors, all else as JSON. It opens without the training data."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError

from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions.bank import Bank, Group, Member
from hiresmed_jax.lesions.sampling import Generators
from hiresmed_jax.ops.pyramid import Pyramid

WEIGHTS, FACTS = "bank.safetensors", "bank.json"
_VERSION = 1


def save(folder: Path, groups: Sequence[Group], *, start: int) -> None:
  """Writes a bank into a folder, the facts last: a bank without them is not one.

  Args:
    folder: made if need be; an older bank there is replaced.
    groups: see `Group`; arrays of the host or of devices.
    start: level from which on samples are new.
  """
  folder.mkdir(parents=True, exist_ok=True)
  (folder / FACTS).unlink(missing_ok=True)
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
  _replace(folder / WEIGHTS, safetensors.numpy.save(arrays))
  text = json.dumps({"version": _VERSION, "start": start, "groups": facts}, indent=1)
  _replace(folder / FACTS, (text + "\n").encode())


def load(folder: Path) -> Bank:
  """Opens the bank that `save` has written.

  Raises:
    UserError: there is none, it is damaged, or of another version.
  """
  folder = Path(folder)
  if not (folder / FACTS).is_file():
    raise UserError(f"no bank of lesions in {folder}: train the lesion route first")
  try:
    facts = json.loads((folder / FACTS).read_text())
    version = facts["version"]
    if version == _VERSION:
      arrays = safetensors.numpy.load_file(folder / WEIGHTS)
      groups = [_group(number, one, arrays) for number, one in enumerate(facts["groups"])]
      return Bank(groups, start=int(facts["start"]))
  except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
    raise UserError(f"the bank in {folder} is damaged: train the lesion route again") from error
  raise UserError(f"the bank in {folder} is of version {version}, this program reads {_VERSION}")


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
  # On the device once, not at every draw.
  generators = jax.device_put(Generators(ordered, tree["amplitudes"], tree["fixed"]))
  if not len(sizes) == len(ordered) == generators.amplitudes.shape[1]:
    raise ValueError("levels are missing")
  if len(members) != generators.amplitudes.shape[0]:
    raise ValueError("members are missing")
  return Group(members, generators, pyramid)


def _to_json(member: Member) -> dict[str, Any]:
  facts = member._asdict()
  facts["spacing_mm"] = [None if math.isnan(v) else v for v in member.spacing_mm]
  return facts


def _from_json(facts: dict[str, Any]) -> Member:
  row, column = (math.nan if v is None else float(v) for v in facts["spacing_mm"])
  low, high = (float(v) for v in facts["value_range"])
  least, most = (float(v) for v in facts["limits"])
  plain = {name: str(facts[name]) for name in ("donor", "donor_group", "physics")}
  return Member(
    **plain,
    diameter_px=float(facts["diameter_px"]),
    spacing_mm=(row, column),
    value_range=(low, high),
    limits=(least, most),
  )


def _replace(path: Path, content: bytes) -> None:
  """Writes a file so that it is there whole or not at all."""
  part = path.with_name(path.name + ".part")
  part.write_bytes(content)
  os.replace(part, path)
