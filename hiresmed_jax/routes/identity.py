"""What makes a run this run, and no other."""

from collections.abc import Mapping
from typing import Any

from hiresmed_jax.data import records
from hiresmed_jax.runtime import config as configs


def identity(
  config: Any, route: str, dataset: records.Dataset, values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """What a finished or resumed run must agree on. Devices and reading speed may change under it.

  Args:
    config: of the run.
    route: whose part of the config counts.
    dataset: whose fingerprint counts.
    values: what counts beside the seed, by name; None: the route's part, and how images are read.

  Returns:
    {"config": nested values, "config_hash", "data": fingerprint}.
  """
  if values is None:
    data = config.data.to_dict()
    data.pop("workers")
    values = {"data": data, route: config[route].to_dict()}
  whole = {"seed": config.seed, **values}
  return {
    "config": whole,
    "config_hash": configs.hash_values(whole),
    "data": dataset.card["fingerprint"],
  }
