"""The networks whose weights lie in the cache folder: by name, where, from what, and whether whole.

Three serve LPIPS (features.py); "inception" is FID's (inception.py), "radimagenet" the ResNet-50
that was trained on radiographs, CT, MRI and ultrasound (resnet.py).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiresmed_jax.convert import arrays, features, inception, resnet
from hiresmed_jax.errors import UserError

NAMES = (*features.TRUNKS, "inception", "radimagenet")


def cache_path(net: str, folder: Path | None = None) -> Path:
  """The file of a network of NAMES, in `folder` or the cache folder."""
  if net == "inception":
    return inception.cache_path(folder)
  if net == "radimagenet":
    return resnet.cache_path(folder)
  return features.cache_path(net, folder)


def convert(paths: Sequence[Path], net: str) -> dict[str, np.ndarray]:
  """What the cache's file of a network holds, from downloaded files.

  Raises:
    UserError: files that cannot be read or do not fit.
  """
  if net == "inception":
    return inception.convert(paths)
  if net == "radimagenet":
    return resnet.convert(paths)
  return features.convert(paths, net)


def state(net: str) -> str:
  """Of the cache's file: "yes", "to 768 features only", "no", or "damaged: .." with the reason."""
  path = cache_path(net)
  if not path.is_file():
    return "no"
  try:
    if net == "inception":
      reached = inception.reach(path)
      return "yes" if reached == 2048 else f"to {reached} features only"
    found = arrays.read_arrays(path)
    problem = resnet.difference(found) if net == "radimagenet" else features.difference(found, net)
  except UserError as error:
    problem = str(error)
  return f"damaged: {problem}" if problem else "yes"
