"""The few type names that every room of the house uses."""

from collections.abc import Mapping
from typing import Any

import jax

Array = jax.Array
Params = Mapping[str, Any]
Batch = dict[str, Array]
Metrics = dict[str, Array]
