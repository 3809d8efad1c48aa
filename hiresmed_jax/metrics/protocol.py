"""The line that every distance between sets of images needs: network, resize, numbers, seed.

Two FIDs with different protocols cannot be compared.
"""

from collections.abc import Callable
from typing import NamedTuple

from hiresmed_jax.types import Array, Params


class FeatureNet(NamedTuple):
  """A frozen network that turns images into the vectors whose distributions are compared.

  `features(weights, images [N,H,W,1 or 3], intensities 0 .. 255 of any type) -> f32[N, tap]`, pure,
  to be jitted; it resizes and scales by itself. A grey channel is repeated.
  """

  name: str
  tap: int
  resize: str
  features: Callable[[Params, Array], Array]
  weights: Params


def label(metric: str, net: str, tap: int) -> str:
  """The metric's name as it may be printed: "FID" only where it is that of the literature.

  Any other tap of the Inception network is named ("FID@768"), and any other network ("FID
  (RadImageNet ResNet-50)").
  """
  if not net.startswith("inception"):
    return f"{metric} ({net})"
  return metric if tap == 2048 else f"{metric}@{tap}"


def protocol(
  metric: str,
  *,
  net: str,
  tap: int,
  resize: str,
  count_real: int,
  count_other: int,
  seed: int | None = None,
  details: str = "",
) -> str:
  """One line, for beside the number.

  Args:
    metric: "FID", "KID", ..
    net: FeatureNet.name, and
    tap: FeatureNet.tap, and
    resize: FeatureNet.resize.
    count_real: images of the reference set.
    count_other: images of the set that is compared with it.
    seed: of whatever was drawn; None: nothing was.
    details: what else the metric depends on, such as "k 5" or "100 subsets of 50".
  """
  parts = [f"{label(metric, net, tap)}: {net}, {tap} features", resize]
  parts.append(f"N {count_real} against {count_other}")
  parts += [details] if details else []
  parts += [] if seed is None else [f"seed {seed}"]
  return ", ".join([*parts, "float64"])
