"""`manifest.jsonl`: how each image was made, one line of JSON an image."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def lines(records: Iterable[Mapping[str, Any]]) -> bytes:
  """The file of some records, in the order given."""
  return b"".join(line(record) for record in records)


def line(record: Mapping[str, Any]) -> bytes:
  """One line: keys sorted, numbers that are not finite as null."""
  return (json.dumps(_finite(record), sort_keys=True, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(one) for one in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
