"""Placement as in the paper: candidate points (Eq. 14), a mask (Eq. 15), their test (Eq. 16).

H, W: image; points are (x, y) pixels, pixel i covers [i, i + 1).
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.placement.candidates import Site
from hiresmed_jax.placement.footprint import Footprint, clear_of, fits


def locate(score: np.ndarray, count: int, *, apart_px: int = 9) -> np.ndarray:
  """C_loc of Eq. 14 from a dense score f32[H, W], >= 0: its highest peaks, `count` (k) at most.

  A peak is the highest score in a square of the odd side `apart_px` around it.

  Returns:
    f64[n, 2], n <= count, centres (x, y) of pixels, highest first; one point for each plateau.
  """
  highest = cv2.dilate(score.astype(np.float32), np.ones((apart_px, apart_px), np.uint8))
  peaks = ((score >= highest) & (score > 0)).astype(np.uint8)
  number, labels = cv2.connectedComponents(peaks, connectivity=8)
  _, first = np.unique(labels, return_index=True)
  first = first[labels.flat[first] > 0] if number > 1 else first[:0]
  order = np.argsort(-score.flat[first], kind="stable")[:count]
  rows, columns = np.unravel_index(first[order], score.shape)
  return np.stack([columns, rows], axis=1) + 0.5


def danger(forbidden: np.ndarray) -> np.ndarray:
  """M_danger of Eq. 15: uint8[H, W], 0 on forbidden tissue, 1 where a lesion may be."""
  return (forbidden == 0).astype(np.uint8)


def final(points: np.ndarray, m_danger: np.ndarray) -> np.ndarray:
  """C_final of Eq. 16: the points [n, 2] inside the image at which M_danger [H, W] is 1."""
  points = np.asarray(points, np.float64).reshape(-1, 2)
  columns, rows = np.floor(points).astype(np.int64).T
  height, width = m_danger.shape
  inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
  kept = np.zeros(len(points), bool)
  kept[inside] = m_danger[rows[inside], columns[inside]] == 1
  return points[kept]


def place_paper(
  rng: np.random.Generator,
  c_loc: np.ndarray,
  m_danger: np.ndarray,
  footprints: Sequence[np.ndarray],
  *,
  at: Sequence[tuple[float, float]] | None = None,
) -> list[Site]:
  """The paper's placement: at the user's points, and at random points of C_final.

  Only the centre of a lesion is tested. Lesions do not overlap and lie in the image, which the
  paper does not mention: otherwise their number and size would differ from the request.

  Args:
    rng: draws the points.
    c_loc: f64[k, 2] of Eq. 14, from `locate` or a detector.
    m_danger: uint8[H, W] of Eq. 15.
    footprints: bool[h, w] each.
    at: (x, y) for the first footprints.

  Returns:
    One Site per footprint. Its prior is "paper" or "user"; its log-probability is that of the draw
    among the points of C_final with room, NaN for a point of the user.

  Raises:
    UserError: C_final has too few points with room, or a point of the user has none.
  """
  shapes = [Footprint.of(one) for one in footprints]
  asked = np.asarray(at or (), np.float64).reshape(-1, 2)
  if len(asked) > len(shapes):
    raise UserError(f"{len(asked)} points are given for {len(shapes)} lesions")
  for x, y in asked:
    if not len(final(np.array([x, y]), m_danger)):
      raise UserError(f"the point {x:g},{y:g} is outside the image or on forbidden tissue")
  points = final(c_loc, m_danger)
  everywhere = np.ones(m_danger.shape, bool)
  placed: list[tuple[Footprint, tuple[int, int]]] = []
  sites: list[Site] = []
  for index, shape in enumerate(shapes):
    room = clear_of(fits(everywhere, shape), shape, placed, 1.0)
    mine = index < len(asked)
    pixels = [shape.pixel_for((x, y)) for x, y in (asked[index : index + 1] if mine else points)]
    free = [p for p in pixels if shape.inside(p, room.shape) and room[p]]
    if not free and mine:
      x, y = asked[index]
      raise UserError(f"a lesion at {x:g},{y:g} would reach beyond the image or over another one")
    if not free:
      raise UserError(
        f"the location model gives {len(points)} points off the forbidden tissue, too few with "
        f"room for {len(shapes)} lesions"
      )
    origin = shape.origin_at(free[rng.integers(len(free))])
    placed.append((shape, origin))
    chance = math.nan if mine else -math.log(len(free))
    sites.append(Site(shape.centre_at(origin), origin, chance, "user" if mine else "paper"))
  return sites
