"""The atlas: a kernel density of the lesions' centres in coordinates of the body box."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.placement import body

_FACTORS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)  # bandwidths tried, in spreads of the centres
_LEAST_SPREAD = 0.02  # of the body: the accuracy of its box
_GRID = 256  # nodes of the density on each axis, at most; interpolated between them
_COMPARED = 2000  # centres from which the bandwidth is chosen, at most


class Atlas(NamedTuple):
  """A density of lesion centres, in (u, v) of the body box."""

  centres: np.ndarray  # f64[N, 2] (u, v)
  weights: np.ndarray  # f64[N], sum 1; every group has the same share
  bandwidth: tuple[float, float]  # standard deviations (u, v) of the Gaussian kernel


def fit(items: Iterable[Mapping[str, Any]]) -> Atlas:
  """Fits the density to the lesions of prepared images of the training split, never of another.

  The bandwidth maximises the likelihood of each group's lesions given those of all other groups.

  Raises:
    UserError: they have no lesions.
  """
  centres, groups = [], []
  for item in items:
    found = centres_of(item)
    if len(found):
      values, value_range = transforms.values_of(item)
      frame = body.box(body.content(values, value_range=value_range))
      centres.append(body.normalised(found, frame))
      groups += [item["group"]] * len(found)
  if not centres:
    raise UserError("the training images have no lesions: where lesions occur cannot be learned")
  points = np.concatenate(centres)
  _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
  weights = 1.0 / (sizes[group] * len(sizes))
  return Atlas(points, weights, _bandwidth(points, group, weights))


def centres_of(item: Mapping[str, Any]) -> np.ndarray:
  """Centres (x, y) of the lesions of one record, f64[N, 2]: centroids of masks, else of boxes."""
  boxes, mask = np.asarray(item["boxes"], np.float64), item["lesion_mask"]
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  if mask.size:
    rows, columns = np.nonzero(mask)
    ids = mask[rows, columns].astype(np.int64) - 1
    area = np.bincount(ids, minlength=len(boxes))[: len(boxes)]
    for axis, at in enumerate((columns, rows)):
      total = np.bincount(ids, at + 0.5, minlength=len(boxes))[: len(boxes)]
      centres[area > 0, axis] = total[area > 0] / area[area > 0]
  return centres


def _bandwidth(points: np.ndarray, group: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
  spread = np.maximum(np.sqrt(np.cov(points.T, aweights=weights, ddof=0).diagonal()), _LEAST_SPREAD)
  factor = _FACTORS[-1]  # of a single group, which cannot be compared with others
  if group.max() > 0:
    keep = np.linspace(0, len(points) - 1, min(len(points), _COMPARED)).round().astype(int)
    scaled, group, weights = points[keep] / spread, group[keep], weights[keep]
    squares = ((scaled[:, None] - scaled[None]) ** 2).sum(-1)
    others = weights * (group[:, None] != group[None])
    others /= others.sum(1, keepdims=True)
    scores = []
    for one in _FACTORS:
      density = (others * np.exp(-squares / (2 * one**2))).sum(1) / one**2
      scores.append(weights @ np.log(density + 1e-12))
    factor = _FACTORS[int(np.argmax(scores))]
  u, v = np.maximum(factor * spread, _LEAST_SPREAD)
  return float(u), float(v)


def score_map(atlas: Atlas, content: np.ndarray) -> np.ndarray:
  """The density in an image whose body is bool[H, W] `content`, see `body.content`.

  Returns:
    f32[H, W], >= 0, sum 1 over the image; it is not limited to the content.

  Raises:
    UserError: the density vanishes everywhere in the image.
  """
  height, width = content.shape
  frame = body.box(content)
  kernels = []
  for axis, length in ((1, height), (0, width)):
    nodes = min(length, _GRID)
    at = np.zeros((nodes, 2))
    at[:, axis] = (np.arange(nodes) + 0.5) * length / nodes
    offset = body.normalised(at, frame)[:, axis, None] - atlas.centres[None, :, axis]
    kernels.append(np.exp(-((offset / atlas.bandwidth[axis]) ** 2) / 2))
  by_row, by_column = kernels
  density = (by_row * atlas.weights) @ by_column.T
  total = density.sum()
  if not total > 0.0:
    raise UserError("all known lesions lie outside of what this image shows: is it another view?")
  density = (density / total).astype(np.float32)
  if density.shape != content.shape:
    density = cv2.resize(density, (width, height), interpolation=cv2.INTER_LINEAR)
    density /= density.sum(dtype=np.float64)
  return density
