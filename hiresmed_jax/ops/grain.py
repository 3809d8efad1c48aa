"""Where an image has grain like that around a hole: places whose fine detail may fill it.

A place is a shift by whole blocks of 8 pixels, so that the grain of an image that was stored as
JPEG, or resampled by 2 or 4, has the same phase in the hole. H rows, W columns; any units.
"""

from typing import NamedTuple

import cv2
import numpy as np

AROUND_PX = 5  # of a hole, where a place must be like it and all its pixels known
_BLOCK = 8  # rows and columns of a shift
_SIGMA = 1.5  # px; what a Gaussian of this width leaves over is grain
_FAINT = 1e-3  # of the image's standard deviation: less than this is no grain
_LIKE = 120  # places of like loudness and level that are compared pixel by pixel
_BEST = 6  # of which one is drawn
# What a unit of each counts: the loudness of the grain (ratio, log), the level (share of the
# image's standard deviation), the distance (share of the image), the difference of the smooth
# parts around the hole (log of 1 + ratio to the grain), what stands out in the place's middle
# (ratio to the grain).
_LOUDNESS, _LEVEL, _FAR, _STRUCTURE, _MIDDLE = 2.0, 1.5, 1.0, 3.0, 0.5
_MOST = (0.7, 4.0)  # loudness (log) and middle that are like, at most


class Search(NamedTuple):
  """What places are compared by, of a whole image.

  Attributes:
    tables: sums over all pixels above and to the left, [H + 1, W + 1] each: of known pixels,
      of their level, and of the log of their grain.
    smooth: f32[H, W], the image without its grain.
    scale: standard deviation of the image.
  """

  tables: list[np.ndarray]
  smooth: np.ndarray
  scale: float


def searched(canvas: np.ndarray, mask: np.ndarray) -> Search:
  """Prepares an image f32[H, W, C] whose holes are bool[H, W]; some pixel is known."""
  known = (~mask).astype(np.uint8)
  grey = canvas[..., 0] if canvas.shape[-1] == 1 else canvas.mean(axis=-1)
  (mean,), (scale,) = (v.ravel().tolist() for v in cv2.meanStdDev(grey, mask=known))
  grey = (grey - np.float32(mean)) * known
  smooth = _blurred(grey) / np.maximum(_blurred(known.astype(np.float32)), 1e-3)
  loudness = cv2.log(np.abs(grey - smooth) + np.float32(_FAINT * scale + 1e-12)) * known
  tables = [cv2.integral(known)] + [cv2.integral(f, sdepth=cv2.CV_64F) for f in (grey, loudness)]
  return Search(tables, smooth, scale + 1e-12)


def places(
  search: Search, mask: np.ndarray, box: tuple[slice, slice], window: tuple[slice, slice]
) -> np.ndarray:
  """Shifts from a hole to the places that are most like its surroundings, the best first.

  Alike are loudness of the grain, level and what is to be seen around the hole, such as an edge
  that runs through it. Nothing stands out in the place's middle that is not around it: no lesion.

  Args:
    search: of the image.
    mask: bool[H, W], its holes.
    box: of the hole.
    window: around it, which stays within the image when it is shifted.

  Returns:
    int[n, 2], rows and columns; none where no place is like it.
  """
  corner = [max(s.start - AROUND_PX, 0) for s in box]
  side = [min(s.stop + AROUND_PX, n) - c for s, n, c in zip(box, mask.shape, corner, strict=True)]
  steps = [
    np.arange(-(s.start // _BLOCK) * _BLOCK, size - s.stop + 1, _BLOCK)
    for s, size in zip(window, mask.shape, strict=True)
  ]
  shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
  starts = [c + s[0] for c, s in zip(corner, steps, strict=True)]
  count, level, loudness = _sums(search.tables, starts, side, [len(s) for s in steps])
  whole = count == side[0] * side[1]
  here_count, here_level, here_loudness = _sums(search.tables, corner, side, [1, 1])
  here_loudness = here_loudness / np.maximum(here_count, 1)
  louder = np.abs(loudness / np.maximum(count, 1) - here_loudness)
  shown = np.abs(level / np.maximum(count, 1) - here_level / np.maximum(here_count, 1))
  far = np.hypot(*shifts.T) / max(mask.shape)
  cost = _LOUDNESS * louder + _LEVEL * shown / search.scale + _FAR * far
  cost[~whole | (louder > _MOST[0])] = np.inf
  first = np.argsort(cost, kind="stable")[:_LIKE]
  first = first[np.isfinite(cost[first])]
  if not first.size:
    return np.zeros((0, 2), int)
  shifts, cost = shifts[first], cost[first]
  rows, columns = (shifts + corner).T
  there = np.lib.stride_tricks.sliding_window_view(search.smooth, side)[rows, columns]
  near = tuple(slice(c, c + n) for c, n in zip(corner, side, strict=True))
  hole = mask[near]
  around, middle = there[:, ~hole], there[:, hole]
  grain = np.exp(here_loudness[0])
  here = search.smooth[near][~hole]
  apart = np.std(around - here, axis=1) / grain
  # Beside what is around the hole, and not only around the place: a vessel ends in no spot.
  shift = around.mean(1) - here.mean()
  most = np.minimum(around.max(1), here.max() + shift)
  least = np.maximum(around.min(1), here.min() + shift)
  above = np.maximum(np.maximum(middle.max(1) - most, least - middle.min(1)), 0) / grain
  cost += _STRUCTURE * np.log1p(apart) + _MIDDLE * above
  cost[above > _MOST[1]] = np.inf
  best = np.argsort(cost, kind="stable")[:_BEST]
  return shifts[best[np.isfinite(cost[best])]]


def _blurred(image: np.ndarray) -> np.ndarray:
  return cv2.GaussianBlur(image, (9, 9), _SIGMA, borderType=cv2.BORDER_REFLECT)


def _sums(
  tables: list[np.ndarray], corner: list[int], side: list[int], many: list[int]
) -> list[np.ndarray]:
  """Sums over boxes of these sides, the first at `corner`, so many down and across, by blocks.

  Returns:
    [many[0] * many[1]] of each table.
  """
  first = [slice(c, c + n * _BLOCK, _BLOCK) for c, n in zip(corner, many, strict=True)]
  last = [slice(f.start + n, f.stop + n, _BLOCK) for f, n in zip(first, side, strict=True)]
  (top, left), (bottom, right) = first, last
  return [
    (t[bottom, right] - t[top, right] - t[bottom, left] + t[top, left]).ravel() for t in tables
  ]
