"""Lumpy ellipsoids: lesions from a formula, the baseline for those that are learned.

Five measures of the training lesions are used: diameter, elongation, contrast, edge blur and
unevenness. The outline is star-shaped, r(angle) = 1 + a sum of waves, and has a given area. In a
projection the contrast of a pixel follows the chord of a body with that outline, otherwise the
share of the pixel inside the outline.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

from hiresmed_jax.lesions.patch import (
  BELOW_MASK_LEVEL,
  MASK_LEVEL,
  LesionPatch,
  central_component,
  diameter,
  diameters,
  fitting,
)

_SUBPIXELS = 6  # along a pixel's side, in which an outline is drawn
_ORDERS = np.arange(2, 9)  # waves along the outline
_LUMPS = (0.04, 0.16)  # range of the relative amplitude of the waves
_SHARPEST, _BLURRIEST = 0.45, 2.0  # pixels, Gaussian sigma of an edge
_CLIPPED_GAIN = (1.0, 2.5)  # range of true over visible contrast where the values are clipped
_TRIES = 10  # at reaching a diameter


@dataclasses.dataclass(frozen=True)
class Lumps:
  """Draws lumpy ellipsoids in the surroundings of real lesions.

  Attributes:
    patches: the lesions of the training split (`inference.survey`); each gives a contrast, an
      elongation, and its context without the lesion.
    blur_px: Gaussian sigma of an edge, pixels.
    uneven: standard deviation of the values inside, relative to the contrast.
  """

  patches: Sequence[LesionPatch]
  blur_px: float
  uneven: float

  @classmethod
  def fit(cls, patches: Sequence[LesionPatch]) -> "Lumps":
    """Measures blur and unevenness on the lesions of the training split."""
    blurs = [b for p in patches if (b := edge_blur(p)) is not None]
    unevennesses = [u for p in patches if (u := _unevenness(p)) is not None]
    blur = np.clip(np.median(blurs) if blurs else 0.8, _SHARPEST, _BLURRIEST)
    uneven = np.clip(np.median(unevennesses) if unevennesses else 0.05, 0.0, 0.2)
    return cls(patches, float(blur), float(uneven))

  @property
  def native_px(self) -> np.ndarray:
    """f32[N], diameters of the lesions that are drawn from."""
    return diameters(self.patches)

  def draw(self, rng: np.random.Generator, diameter_px: float | None = None) -> LesionPatch:
    """A lumpy ellipsoid: kind "parametric".

    Args:
      rng: equal states give equal bytes.
      diameter_px: wanted; reached within 5 %, or half a pixel below 10 px; None draws one near that
        of a training lesion.

    Raises:
      UserError: no training lesion of that diameter within the limits of scale.
    """
    donor = self.patches[int(rng.choice(fitting(diameters(self.patches), diameter_px)))]
    # All diameters between those of the donors occur.
    near = donor.diameter_px * float(np.exp(rng.uniform(-0.1, 0.1)))
    wanted = near if diameter_px is None else float(diameter_px)
    outline = _outline(rng, _elongation(donor.mask))
    projection = donor.physics == "projection"
    side = donor.alpha.shape[0]  # three times the donor's long side: enough for 1.4 times its size
    size, best, best_error = wanted, None, np.inf
    for _ in range(_TRIES):
      # A small disc on a pixel's corner covers 4 or 12 pixels: other centres allow other areas.
      filled, chord = _drawn(outline, size, side, rng.uniform(-0.5, 0.5, 2))
      alpha = _occupancy(filled, self.blur_px)
      found = diameter(alpha >= MASK_LEVEL)
      if abs(found - wanted) < best_error:
        best, best_error = (alpha, chord if projection else filled), abs(found - wanted)
      if best_error < 0.01 * wanted:
        break
      size *= (wanted / max(found, 1.0)) ** 0.7
    assert best is not None
    alpha, thickness = best
    texture = _texture(rng, side, wanted, self.uneven)
    gain = wanted / donor.diameter_px if projection else 1.0
    added = _profile(rng, donor, thickness * texture, self.blur_px) * np.float32(gain)
    values = donor.surround + added[..., None]
    if _clipped(donor):  # so is its copy
      values = np.minimum(values, np.maximum(np.float32(donor.value_range[1]), donor.surround))
    return donor._replace(
      values=values.astype(np.float32),
      alpha=alpha,
      diameter_px=diameter(alpha >= MASK_LEVEL),
      kind="parametric",
    )


def edge_blur(patch: LesionPatch) -> float | None:
  """Gaussian sigma of a lesion's edge, in pixels; None where it is too small to have a plateau.

  A step of height c blurred by sigma has the slope c / (sqrt(2 pi) sigma). Sigma includes the
  width of the pixel itself.
  """
  if patch.diameter_px < 6:
    return None
  added = (patch.values - patch.surround).mean(axis=-1)
  contrast = float(np.percentile(added[patch.mask], 90))
  rows, columns = np.gradient(added)
  rim = ndimage.binary_dilation(patch.mask) & ~ndimage.binary_erosion(patch.mask)
  steep = float(np.percentile(np.hypot(rows, columns)[rim], 75))
  if contrast <= 0 or steep <= 0:
    return None
  # Central differences widen a Gaussian edge by the variance of two steps.
  return float(np.sqrt(max((contrast / (np.sqrt(2 * np.pi) * steep)) ** 2 - 1 / 3, 0.1)))


def _unevenness(patch: LesionPatch) -> float | None:
  """Standard deviation over mean of the contrast inside; None where it cannot be measured."""
  core = ndimage.binary_erosion(patch.mask, iterations=2)
  if np.count_nonzero(core) < 12 or _clipped(patch):
    return None
  added = (patch.values - patch.surround).mean(axis=-1)[core]
  return float(added.std() / max(added.mean(), 1e-6))


def _clipped(patch: LesionPatch) -> bool:
  """Whether the lesion reaches the end of the range of values, which clips its contrast."""
  low, high = patch.value_range
  return bool(patch.values[patch.mask].max() >= high - 0.005 * (high - low))


def _elongation(mask: np.ndarray) -> float:
  """Ratio of the axes of the ellipse with the second moments of a mask, 1 or more."""
  points = np.stack(np.nonzero(mask)).astype(np.float64)
  spread = np.cov(points) + np.eye(2) / 12  # a pixel is not a point
  low, high = np.linalg.eigvalsh(spread)
  return float(np.clip(np.sqrt(high / low), 1.0, 3.0))


def _outline(rng: np.random.Generator, elongation: float) -> np.ndarray:
  """f64[128, 2] (y, x): a lumpy ellipse around its centroid; area of a disc of diameter 1."""
  angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
  weights = rng.standard_normal(_ORDERS.size) / _ORDERS
  phases = rng.uniform(0, 2 * np.pi, _ORDERS.size)
  waves = 1.6 * rng.uniform(*_LUMPS) * (weights * np.cos(angle[:, None] * _ORDERS + phases)).sum(1)
  radius = np.clip(1 + waves, 0.5, 1.6)
  x, y = np.sqrt(elongation) * radius * np.cos(angle), radius * np.sin(angle) / np.sqrt(elongation)
  turn = rng.uniform(0, np.pi)
  points = np.stack(
    [np.sin(turn) * x + np.cos(turn) * y, np.cos(turn) * x - np.sin(turn) * y], axis=1
  )
  cross = points[:, 1] * np.roll(points[:, 0], -1) - points[:, 0] * np.roll(points[:, 1], -1)
  centre = ((points + np.roll(points, -1, 0)) * cross[:, None]).sum(0) / (3 * cross.sum())
  return (points - centre) * np.sqrt(np.pi / 4 / abs(cross.sum() / 2))


def _drawn(
  outline: np.ndarray, size: float, side: int, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(share of each pixel inside an outline, chord of the body there, at most 1), f32[S, S] each."""
  angles = np.arctan2(outline[:, 0], outline[:, 1])
  order = np.argsort(angles)
  radii = np.hypot(*outline.T)[order] * size
  offsets = (np.arange(side * _SUBPIXELS) + 0.5) / _SUBPIXELS - side / 2
  y, x = np.meshgrid(offsets - centre[0], offsets - centre[1], indexing="ij")
  edge = np.interp(np.arctan2(y, x), angles[order], radii, period=2 * np.pi)
  share = np.hypot(x, y) / edge
  inside = (share < 1).astype(np.float32)
  chord = np.sqrt(np.maximum(1 - share**2, 0)).astype(np.float32)
  return tuple(cv2.resize(a, (side, side), interpolation=cv2.INTER_AREA) for a in (inside, chord))


def _occupancy(filled: np.ndarray, blur: float) -> np.ndarray:
  """f32[S, S]: blurred, 1 at its highest, one component. It widens lesions as small as the blur."""
  soft = ndimage.gaussian_filter(filled, blur, mode="constant")
  soft /= max(float(soft.max()), 1e-6)
  mask = soft >= MASK_LEVEL
  body = central_component(mask, reach=2.0)
  beyond = ndimage.distance_transform_edt(~body) > 2
  return np.where(beyond, 0, np.where(mask & ~body, BELOW_MASK_LEVEL, soft)).astype(np.float32)


def _profile(
  rng: np.random.Generator, donor: LesionPatch, thickness: np.ndarray, blur: float
) -> np.ndarray:
  """f32[S, S]: what the lesion adds to its surround; after blur as high as the donor's contrast."""
  added = (donor.values - donor.surround).mean(axis=-1)[donor.mask]
  contrast = float(np.percentile(added, 95)) * float(rng.uniform(0.9, 1.1))
  if _clipped(donor):
    contrast *= float(rng.uniform(*_CLIPPED_GAIN))
  soft = ndimage.gaussian_filter(thickness, blur, mode="constant")
  return (contrast * soft / max(float(soft.max()), 1e-6)).astype(np.float32)


def _texture(rng: np.random.Generator, side: int, size: float, uneven: float) -> np.ndarray:
  """f32[S, S] around 1: relative thickness, which varies within real lesions."""
  field = ndimage.gaussian_filter(rng.standard_normal((side, side)), max(size / 6, 0.8))
  return np.clip(1 + uneven * field / max(float(field.std()), 1e-6), 0.5, 1.5).astype(np.float32)
