"""Task-aligned assignment in plain loops, float64: arXiv 2108.07755, section 3.2."""

import math

import numpy as np


def ciou(a, b):
  """Of two boxes; arXiv 1911.08287."""
  width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
  height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
  areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
  iou = width * height / (sum(areas) - width * height)
  dx, dy = ((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1))
  wide, high = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
  slopes = [math.atan((c[2] - c[0]) / (c[3] - c[1])) for c in (a, b)]
  v = 4 / math.pi**2 * (slopes[0] - slopes[1]) ** 2
  weight = v / (1 - iou + v) if v else 0.0
  return iou - (dx * dx + dy * dy) / (wide * wide + high * high) - weight * v


def assign(logits, boxes, centres, real, labels, *, top=10, alpha=0.5, beta=6.0, least_side=16.0):
  """Of one image without padding -> (index [A], -1 where none; scores [A, K])."""
  positions, classes = logits.shape
  goodness = np.zeros((len(real), positions))
  overlap = np.zeros((len(real), positions))
  inside = np.zeros((len(real), positions), bool)
  for m, (x1, y1, x2, y2) in enumerate(real.astype(np.float64)):
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    half_w, half_h = max(x2 - x1, least_side) / 2, max(y2 - y1, least_side) / 2
    for a, (x, y) in enumerate(centres):
      inside[m, a] = cx - half_w <= x < cx + half_w and cy - half_h <= y < cy + half_h
      if inside[m, a]:
        overlap[m, a] = max(0.0, ciou((x1, y1, x2, y2), boxes[a].astype(np.float64)))
        score = 1 / (1 + math.exp(-float(logits[a, labels[m]])))
        goodness[m, a] = score**alpha * overlap[m, a] ** beta
  claims = [set() for _ in range(positions)]
  for m in range(len(real)):
    for a in np.argsort(-goodness[m], kind="stable")[:top]:
      if inside[m, a]:
        claims[a].add(m)
  index = np.full(positions, -1)
  for a, claim in enumerate(claims):
    if len(claim) == 1:
      index[a] = claim.pop()
    elif claim:
      index[a] = int(np.argmax(overlap[:, a]))
  scores = np.zeros((positions, classes))
  for m in range(len(real)):
    own = np.flatnonzero(index == m)
    if own.size:
      share = goodness[m, own] * overlap[m, own].max() / (goodness[m, own].max() + 1e-9)
      scores[own, labels[m]] = share
  return index, scores
