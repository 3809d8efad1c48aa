"""Places for lesions: drawn from a score over the allowed pixels, or given by the user.

H, W: image; h, w: footprint, the mask of the pixels that a lesion covers. The place of a lesion is
the centroid of its footprint. Points are (x, y) pixels, pixel i covers [i, i + 1). Candidates lie
on the pixel grid, so that exactly the tested footprint is inserted.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.placement.footprint import Footprint, clear_of, erode, fits

_TRIES = 8  # the first lesion may leave no room for the second


class Site(NamedTuple):
  """Where a lesion is."""

  centre: tuple[float, float]  # (x, y) of the footprint's centroid
  # (row, column) of the footprint array's first element; negative where the array's empty rim
  # reaches beyond the image. `image[row : row + h, column : column + w]` is below it.
  origin: tuple[int, int]
  # Natural logarithm of this pixel's probability among all candidates, given the lesions placed
  # before it; for a point of the user, what it would have been.
  log_probability: float
  prior: str  # what the place was drawn from: the name of the score, "uniform", or "user"


def allowed_pixels(forbidden: np.ndarray | None, valid: np.ndarray, margin_px: float) -> np.ndarray:
  """Pixels that a lesion may cover.

  Args:
    forbidden: uint8 or bool [H, W], nonzero where no lesion can be; None or (0, 0) when unknown.
    valid: bool[H, W], False where the image shows no body: padding, wedges, air (`body.content`).
    margin_px: allowed pixels are farther than this, between pixel centres, from both.

  Returns:
    bool[H, W].

  Raises:
    ValueError: masks of different sizes, or a negative margin.
  """
  free = valid.astype(bool)
  if forbidden is not None and forbidden.size:
    if forbidden.shape != valid.shape:
      raise ValueError(f"forbidden {forbidden.shape}, valid {valid.shape}")
    free &= forbidden == 0
  if not margin_px >= 0:
    raise ValueError(f"margin_px {margin_px}")
  if margin_px == 0 or free.all():
    return free
  reach = int(margin_px)
  rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
  disc = (rows**2 + columns**2 <= margin_px**2).astype(np.uint8)
  return erode(free, disc, (reach, reach), beyond=True)


def log_probabilities(
  score: np.ndarray, candidates: np.ndarray, floor: float, likely: np.ndarray | None = None
) -> np.ndarray:
  """Log-probability of each candidate: a share `floor` is uniform, the rest follows the score.

  f32[H, W] score, >= 0, bool[H, W] candidates, and bool[H, W] of which alone the uniform share is
  (None: of all) -> f64[H, W], natural logarithms whose exponentials sum to 1; -inf elsewhere.
  """
  weights = _Weights(score, candidates, floor, likely)
  with np.errstate(divide="ignore"):
    return np.log(np.where(candidates, weights.probability(score, weights.even), 0.0))


def place(
  rng: np.random.Generator,
  score: np.ndarray | Sequence[np.ndarray],
  allowed: np.ndarray,
  footprints: Sequence[np.ndarray],
  *,
  likely: np.ndarray | None = None,
  at: Sequence[tuple[float, float]] | None = None,
  floor: float = 0.3,
  min_gap_px: float,
  prior: str = "atlas",
) -> list[Site]:
  """Finds a place for each footprint.

  The user's points come first, then the others from large to small. A pixel is a candidate when the
  footprint at it lies in the image, covers only allowed pixels and keeps the distance from the
  lesions placed before. Where a later lesion has no room, all are drawn again, a few times.

  Args:
    rng: draws the places; equal states give equal places.
    score: f32[H, W], >= 0, any scale: how likely a lesion is there; or one for each footprint.
    allowed: bool[H, W], see `allowed_pixels`.
    footprints: bool[h, w] each, with at least one pixel set.
    likely: bool[H, W], the pixels to which uniform places are limited; None: they are not.
    at: (x, y) for the first footprints, in order; the centroid lies within 0.71 px of it, as near
      as whole pixels allow. The others are drawn.
    floor: share of places that are drawn uniformly; 1 where the score is 0 on all candidates, 0
      where no candidate is likely.
    min_gap_px: least distance between the pixel centres of two footprints; they never overlap.
    prior: name of the score, for `Site.prior`.

  Returns:
    One Site per footprint, in their order.

  Raises:
    UserError: no room; a point outside the image, on forbidden pixels, or too near another one;
      more points than footprints.
    ValueError: arrays that do not match, an empty footprint, a floor outside [0, 1].
  """
  scores = [score] * len(footprints) if isinstance(score, np.ndarray) else list(score)
  _check(scores, allowed, floor, min_gap_px, len(footprints))
  shapes = [Footprint.of(one) for one in footprints]
  points = list(at or ())
  if len(points) > len(shapes):
    raise UserError(f"{len(points)} points are given for {_lesions(len(shapes))}")
  if not shapes:
    return []
  gap = max(1.0, min_gap_px)
  rooms = [fits(allowed, shape) for shape in shapes]

  def free_of(index: int, placed: dict[int, Site]) -> np.ndarray:
    others = [(shapes[other], site.origin) for other, site in placed.items()]
    return clear_of(rooms[index], shapes[index], others, gap)

  sites: dict[int, Site] = {}
  for index, point in enumerate(points):
    weights = _Weights(scores[index], free_of(index, sites), floor, likely)
    sites[index] = _users_site(point, weights, rooms[index], shapes[index])
  rest = sorted(range(len(points), len(shapes)), key=lambda i: -shapes[i].area)
  for _ in range(_TRIES):
    drawn = dict(sites)
    for index in rest:
      weights = _Weights(scores[index], free_of(index, drawn), floor, likely)
      site = _drawn_site(rng, weights, shapes[index], prior)
      if site is None:
        break
      drawn[index] = site
    if len(drawn) == len(shapes):
      return [drawn[index] for index in range(len(shapes))]
    if not rooms[index].any():
      break
  raise UserError(_no_room(shapes[index], rooms[index], allowed, likely, len(shapes)))


def _check(
  scores: Sequence[np.ndarray], allowed: np.ndarray, floor: float, gap: float, count: int
) -> None:
  if len(scores) != count:
    raise ValueError(f"{len(scores)} scores for {count} footprints")
  for score in {id(score): score for score in scores}.values():
    if score.shape != allowed.shape or allowed.dtype != bool:
      raise ValueError(f"score {score.shape}, allowed {allowed.dtype} {allowed.shape}")
    if not (np.isfinite(score.min()) and np.isfinite(score.max()) and score.min() >= 0):
      raise ValueError("a score that is negative or not finite")
  if not 0 <= floor <= 1 or not gap >= 0:
    raise ValueError(f"floor {floor}, min_gap_px {gap}")


class _Weights:
  """The free pixels with their scores, and the sums by which these become probabilities."""

  def __init__(
    self, score: np.ndarray, free: np.ndarray, floor: float, likely: np.ndarray | None = None
  ):
    self.score, self.free = score, free
    self.even = free if likely is None else free & likely  # of which the uniform share is
    self.masked = score.astype(np.float32, copy=False) * free
    # OpenCV takes a third of NumPy's time.
    self.rows = cv2.reduce(self.masked, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F)[:, 0]
    self.counts = cv2.reduce(self.even.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    self.total, self.count = float(self.rows.sum()), int(self.counts.sum())
    self.floor = (floor if self.count else 0.0) if self.total > 0 else 1.0

  def probability(self, score: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Probabilities of candidates with these scores, which are in the uniform share or not."""
    by_score = (1 - self.floor) * np.asarray(score, np.float64) / (self.total or 1.0)
    return by_score + even * (self.floor / max(self.count, 1))


def _drawn_site(
  rng: np.random.Generator, weights: _Weights, shape: Footprint, prior: str
) -> Site | None:
  if not (weights.count or weights.total):
    return None
  uniform = rng.random() < weights.floor
  # First the row, then the column: two short cumulative sums instead of one over all pixels.
  row = _pick(rng, weights.counts if uniform else weights.rows)
  column = _pick(rng, weights.even[row] if uniform else weights.masked[row])
  return _site((row, column), weights, shape, "uniform" if uniform else prior)


def _pick(rng: np.random.Generator, weights: np.ndarray) -> int:
  """Index drawn in proportion to the weights; never one of weight 0."""
  sums = np.cumsum(weights, dtype=np.float64)
  # The product may be rounded up to the total itself.
  mark = min(rng.random() * sums[-1], np.nextafter(sums[-1], 0.0))
  return int(np.searchsorted(sums, mark, side="right"))


def _site(pixel: tuple[int, int], weights: _Weights, shape: Footprint, prior: str) -> Site:
  origin = shape.origin_at(pixel)
  probability = float(weights.probability(weights.score[pixel], weights.even[pixel]))
  logarithm = math.log(probability) if probability else -math.inf
  return Site(shape.centre_at(origin), origin, logarithm, prior)


def _users_site(
  point: tuple[float, float], weights: _Weights, room: np.ndarray, shape: Footprint
) -> Site:
  """The place at the user's point, if the lesion fits there."""
  x, y = (float(value) for value in point)
  where = f"the point {x:g},{y:g}"
  height, width = room.shape
  if not (0 <= x < width and 0 <= y < height):
    raise UserError(f"{where} lies outside the image of {width} x {height} pixels")
  pixel = shape.pixel_for((x, y))
  lesion = f"a lesion of {shape.diameter_px:.0f} px"
  if not shape.inside(pixel, room.shape):
    raise UserError(f"{lesion} at {where} would reach beyond the image")
  if not room[pixel]:
    raise UserError(
      f"{lesion} at {where} would lie on what is forbidden: masked tissue, its margin, or no body"
    )
  if not weights.free[pixel]:
    raise UserError(f"{lesion} at {where} would lie too near another one")
  return _site(pixel, weights, shape, "user")


def _no_room(
  shape: Footprint, room: np.ndarray, allowed: np.ndarray, likely: np.ndarray | None, count: int
) -> str:
  share = f"{100 * np.count_nonzero(allowed) / allowed.size:.0f} % of this image is allowed"
  if likely is not None:
    share += f", {100 * np.count_nonzero(allowed & likely) / allowed.size:.0f} % also likely"
  if room.any():
    return f"no room for {_lesions(count)} beside each other ({share}): ask for fewer or smaller"
  return f"no room for a lesion of {shape.diameter_px:.0f} px ({share}): ask for a smaller one"


def _lesions(count: int) -> str:
  return "1 lesion" if count == 1 else f"{count} lesions"
