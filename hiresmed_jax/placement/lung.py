"""The lungs on an axial CT slice of the chest: where nodules may live, by a rule.

Lengths are shares of the side of the body box, so that the rule holds at any resolution. H rows, W
columns.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from hiresmed_jax.placement import surroundings
from hiresmed_jax.placement.body import disc

_AIRY = 0.4  # of the range -1,000 to 400 HU: -440 HU, between lung and soft tissue
_LEAST = 0.004  # of the body box' area: smaller parts are gas elsewhere
_AIRWAY, _GAS = 0.02, 0.75  # a part smaller than this and darker than so much of the largest is gas
_THIN = 0.006  # bridges between lung and what is outside
# Radius of a ball that rolls along the lung: what it cannot enter is nodule or vessel.
_BALL = 0.035


def lung(grey: np.ndarray, content: np.ndarray) -> np.ndarray:
  """Finds the lungs, with vessels and with nodules at their edge.

  Lung is air inside the body; a small part that is blacker than the largest one is trachea or
  bowel. A ball that rolls around it closes what is narrow: vessels, and nodules at the wall.

  Args:
    grey: f32[H, W] in [0, 1], a lung window, dense tissue bright.
    content: bool[H, W], the body.

  Returns:
    bool[H, W]; nowhere true where there is no lung.
  """
  side = surroundings.body_side(content)
  smooth = cv2.GaussianBlur(grey, (0, 0), max(0.5, 0.003 * side))
  airy = ((smooth < _AIRY) & content).astype(np.uint8)
  opened = cv2.morphologyEx(airy, cv2.MORPH_OPEN, disc(max(1, round(_THIN * side))))
  count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
  # Air between the body and a table is not surrounded by the body.
  at_edge = cv2.dilate((~content).astype(np.uint8), disc(max(1, round(_THIN * side)))) > 0
  areas = stats[:, cv2.CC_STAT_AREA] / side**2
  areas[[0, *np.unique(labels[at_edge])]] = 0.0
  kept = np.zeros(count, bool)
  levels = {int(i): float(np.median(grey[labels == i])) for i in np.flatnonzero(areas >= _LEAST)}
  for number, level in levels.items():
    kept[number] = areas[number] >= _AIRWAY or level >= _GAS * levels[int(np.argmax(areas))]
  found = kept[labels].astype(np.uint8)
  radius = max(1, round(_BALL * side))
  padded = np.pad(found, 2 * radius)
  closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc(radius))
  inner = closed[2 * radius : -2 * radius, 2 * radius : -2 * radius] > 0
  return np.asarray((inner & content) | (found > 0))


# Rules of where lesions may live, for images without a mask that says so.
RULES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"lung": lung}
