"""Places for lesions: drawn from a score over what is allowed, or put where the user says.

H, W: image; h, w: a lesion's footprint, a mask of the pixels that it covers. Its centroid is its
place; points are (x, y) pixels, pixel i covers [i, i + 1). All candidates lie on the pixel grid, so
that the very footprint that was tested is what is put in.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.placement.footprint import Footprint, clear_of, erode, fits

Test = Literal["footprint", "centre"]

_TRIES = 8  # the first lesion may lie where no room is left for the second


class Site(NamedTuple):
  """Where a lesion is.

  Attributes:
    centre: (x, y) of the footprint's centroid.
    origin: (row, column) of the footprint array's first element; negative where the array's empty
      rim overhangs the image. `image[row : row + h, column : column + w]` is under the footprint.
    log_probability: natural logarithm of the chance that this pixel had among all candidates, given
      the lesions placed before it; for a place of the user's, what the chance would have been.
    prior: what chose it: the name of the score, "uniform", or "user".
  """

  centre: tuple[float, float]
  origin: tuple[int, int]
  log_probability: float
  prior: str


def allowed(forbidden: np.ndarray | None, valid: np.ndarray, margin_px: float) -> np.ndarray:
  """Pixels that a lesion may cover.

  Args:
    forbidden: uint8 or bool [H, W], nonzero where no lesion can be; None or (0, 0) when unknown.
    valid: bool[H, W], False where the image shows no body: padding, wedges, air (`body.content`).
    margin_px: what is allowed keeps more than this distance, between pixel centres, from both.

  Returns:
    bool[H, W].

  Raises:
    ValueError: masks of two sizes, or a negative margin.
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


def log_probabilities(score: np.ndarray, candidates: np.ndarray, floor: float) -> np.ndarray:
  """Logarithm of each candidate's chance: a share `floor` is uniform, the rest follows the score.

  Args:
    score: f32[H, W], >= 0.
    candidates: bool[H, W].
    floor: in [0, 1].

  Returns:
    f64[H, W], -inf elsewhere; the exponentials sum to 1.
  """
  weights = _Weights(score, candidates, floor)
  chances = np.where(candidates, weights.chance(score), 0.0)
  with np.errstate(divide="ignore"):
    return np.log(chances)


def place(
  rng: np.random.Generator,
  score: np.ndarray,
  allowed: np.ndarray,
  footprints: Sequence[np.ndarray],
  *,
  at: Sequence[tuple[float, float]] | None = None,
  floor: float = 0.3,
  min_gap_px: float,
  test: Test = "footprint",
  prior: str = "atlas",
) -> list[Site]:
  """Finds a place for each footprint.

  The user's places come first, then the others from large to small. A pixel is a candidate when the
  footprint around it lies in the image, covers allowed pixels only and keeps its distance from the
  lesions before it. Where those leave no room for a later lesion, all are drawn anew, a few times.

  Args:
    rng: draws the places; equal states give equal places.
    score: f32[H, W], >= 0, any scale: how likely a lesion is there.
    allowed: bool[H, W], see `allowed`.
    footprints: bool[h, w] each, with at least one pixel set.
    at: (x, y) for the first footprints, in order; a footprint's centroid comes within 0.71 px of
      it, as near as whole pixels allow. The others are drawn.
    floor: share of places that are drawn uniformly; 1 where the score is 0 on all candidates.
    min_gap_px: least distance between the pixel centres of two footprints; they never overlap.
    test: "footprint" as said; "centre" asks `allowed` of the centroid's pixel alone.
    prior: name of the score, for `Site.prior`.

  Returns:
    One Site per footprint, in their order.

  Raises:
    UserError: no room; a point outside the image, on what is forbidden, or too near another one;
      more points than footprints. Nothing is ever moved.
    ValueError: arrays that do not fit together, an empty footprint, a floor outside [0, 1].
  """
  _check(score, allowed, floor, min_gap_px, test)
  shapes = [Footprint.of(one) for one in footprints]
  points = list(at or ())
  if len(points) > len(shapes):
    raise UserError(f"{len(points)} points are given for {_lesions(len(shapes))}")
  if not shapes:
    return []
  gap = max(1.0, min_gap_px)
  rooms: dict[int, np.ndarray] = {}

  def room(index: int) -> np.ndarray:
    if index not in rooms:
      rooms[index] = fits(allowed, shapes[index], centre_only=test == "centre")
    return rooms[index]

  def left(index: int, placed: dict[int, Site]) -> np.ndarray:
    others = [(shapes[other], site.origin) for other, site in placed.items()]
    return clear_of(room(index), shapes[index], others, gap)

  sites: dict[int, Site] = {}
  for index, point in enumerate(points):
    free = left(index, sites)
    sites[index] = _asked(point, score, free, room(index), shapes[index], floor)
  rest = sorted(range(len(points), len(shapes)), key=lambda i: -shapes[i].area)
  for _ in range(_TRIES):
    drawn = dict(sites)
    for index in rest:
      free = left(index, drawn)
      site = _drawn(rng, score, free, shapes[index], floor, prior)
      if site is None:
        break
      drawn[index] = site
    if len(drawn) == len(shapes):
      return [drawn[index] for index in range(len(shapes))]
    if not room(index).any():
      break
  raise UserError(_no_room(shapes[index], room(index), allowed, len(shapes)))


def _check(score: np.ndarray, allowed: np.ndarray, floor: float, gap: float, test: str) -> None:
  if score.shape != allowed.shape or allowed.dtype != bool:
    raise ValueError(f"score {score.shape}, allowed {allowed.dtype} {allowed.shape}")
  if not (np.isfinite(score.min()) and np.isfinite(score.max()) and score.min() >= 0):
    raise ValueError("a score that is negative or not finite")
  if not 0 <= floor <= 1 or not gap >= 0 or test not in ("footprint", "centre"):
    raise ValueError(f"floor {floor}, min_gap_px {gap}, test {test!r}")


class _Weights:
  """Sums that turn scores into chances."""

  def __init__(self, score: np.ndarray, free: np.ndarray, floor: float):
    self.masked = score.astype(np.float32, copy=False) * free
    # OpenCV sums rows in a third of NumPy's time.
    self.rows = cv2.reduce(self.masked, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F)[:, 0]
    self.counts = cv2.reduce(free.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    self.total, self.count = float(self.rows.sum()), int(self.counts.sum())
    self.floor = floor if self.total > 0 else 1.0

  def chance(self, score: np.ndarray) -> np.ndarray:
    """Chance of candidates with these scores."""
    follows = (1 - self.floor) * np.asarray(score, np.float64) / (self.total or 1.0)
    return follows + self.floor / max(self.count, 1)


def _drawn(
  rng: np.random.Generator,
  score: np.ndarray,
  free: np.ndarray,
  shape: Footprint,
  floor: float,
  prior: str,
) -> Site | None:
  weights = _Weights(score, free, floor)
  if not weights.count:
    return None
  uniform = rng.random() < weights.floor
  # First the row, then the place in it: one cumulative sum of H numbers and one of W.
  row = _pick(rng, weights.counts if uniform else weights.rows)
  column = _pick(rng, free[row] if uniform else weights.masked[row])
  return _site((row, column), shape, weights, score, "uniform" if uniform else prior)


def _pick(rng: np.random.Generator, weights: np.ndarray) -> int:
  """Index drawn in proportion to the weights, never one of weight 0."""
  sums = np.cumsum(weights, dtype=np.float64)
  # Rounding may bring the product up to the total itself.
  mark = min(rng.random() * sums[-1], np.nextafter(sums[-1], 0.0))
  return int(np.searchsorted(sums, mark, side="right"))


def _site(
  pixel: tuple[int, int], shape: Footprint, weights: _Weights, score: np.ndarray, prior: str
) -> Site:
  origin = shape.origin_at(pixel)
  chance = float(weights.chance(score[pixel]))
  return Site(shape.centre_at(origin), origin, math.log(chance) if chance else -math.inf, prior)


def _asked(
  point: tuple[float, float],
  score: np.ndarray,
  free: np.ndarray,
  room: np.ndarray,
  shape: Footprint,
  floor: float,
) -> Site:
  """The user's place, if the lesion fits there."""
  x, y = (float(value) for value in point)
  where = f"the point {x:g},{y:g}"
  height, width = free.shape
  if not (0 <= x < width and 0 <= y < height):
    raise UserError(f"{where} lies outside the image of {width} x {height} pixels")
  pixel = shape.pixel_for((x, y))
  inside = all(0 <= i < n for i, n in zip(pixel, free.shape))
  lesion = f"a lesion of {shape.diameter_px:.0f} px"
  if not inside or not shape.inside(pixel, free.shape):
    raise UserError(f"{lesion} at {where} would reach beyond the image")
  if not room[pixel]:
    raise UserError(
      f"{lesion} at {where} would lie on what is forbidden: masked tissue, its margin, or no body"
    )
  if not free[pixel]:
    raise UserError(f"{lesion} at {where} would lie too near another one")
  return _site(pixel, shape, _Weights(score, free, floor), score, "user")


def _no_room(shape: Footprint, room: np.ndarray, allowed: np.ndarray, count: int) -> str:
  share = f"{100 * np.count_nonzero(allowed) / allowed.size:.0f} % of this image is allowed"
  if room.any():
    return f"no room for {_lesions(count)} beside each other ({share}): ask for fewer or smaller"
  return f"no room for a lesion of {shape.diameter_px:.0f} px ({share}): ask for a smaller one"


def _lesions(count: int) -> str:
  return "1 lesion" if count == 1 else f"{count} lesions"
