"""The body of a record, for the tests of this room."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.placement import body


def content_of(item: Mapping[str, Any]) -> np.ndarray:
  """bool[H, W] content of an item of `records.Records`."""
  values, value_range = transforms.values_of(item)
  return body.content(values, value_range=value_range)
