"""What can be trained: one folder a route, each with settings, task, train, report and explain."""

import importlib
from typing import Any

ROUTES = ("background", "lesion", "location", "danger")  # in the order of training
# What the paper compares with, in `baselines`; each is trained only by name.
BASELINES = ("ddm", "styleswin", "singan")


def known() -> tuple[str, ...]:
  """The names of all that can be trained."""
  return (*ROUTES, *BASELINES)


def module(route: str, name: str) -> Any:
  """A module of a route's folder, such as its "settings"."""
  folder = f"baselines.{route}" if route in BASELINES else route
  return importlib.import_module(f"{__name__}.{folder}.{name}")
