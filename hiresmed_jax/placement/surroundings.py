"""What surrounds each place of an image: intensity, texture, position, and what lies around it.

An image is reduced until the body box has the same area in all, so that what is measured does not
depend on resolution. x points away from the midline in both halves of the body. h, w rows and
columns of the reduced image; H, W of the image; D features.
"""

import cv2
import numpy as np

from hiresmed_jax.placement import body

_SIDE = 160.0  # square root of the reduced body box' area, pixels; scales below are in them
_SMOOTH = (1.5, 3.0, 6.0, 12.0, 24.0)  # sigmas of mean intensities
_TEXTURE = (3.0, 6.0, 12.0)  # of local spreads and curvatures
_EDGES = (1.5, 3.0, 6.0)  # of gradients
_SHARES = (3.0, 8.0, 18.0)  # of the shares of tissue at each level
_AROUND = ((2.0, 7.0), (4.0, 14.0), (6.0, 26.0), (8.0, 42.0))  # (sigma, distance) of neighbours
_DIRECTIONS = 8
_FAR = 60.0  # distances are cut here
_GAS, _DENSE = 0.04, 0.75  # intensities below and above which there is gas or bone
_QUANTILES = (0.02, 0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 0.92, 0.98)  # of intensities: the levels
_APART = 0.02  # between two levels, at least


def grey_of(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
  """f32[H, W, C], dense bright, to intensities f32[H, W] in [0, 1] of the range that is shown."""
  low, high = value_range
  return np.clip((values.mean(-1) - low) / max(high - low, 1e-30), 0.0, 1.0).astype(np.float32)


def levels_of(greys: np.ndarray) -> np.ndarray:
  """Increasing levels f32[L] at which tissue is counted, from intensities f32[N] of bodies."""
  levels = np.quantile(greys, _QUANTILES)
  kept = [levels[0]]
  for level in levels[1:]:
    if level >= kept[-1] + _APART:
      kept.append(level)
  return np.array(kept if len(kept) > 1 else [kept[0], kept[0] + _APART], np.float32)


def body_side(content: np.ndarray) -> float:
  """Square root of the area of the box around bool[H, W] content, pixels."""
  frame = body.box(content)
  return float(np.sqrt((frame.x2 - frame.x1) * (frame.y2 - frame.y1)))


def features(grey: np.ndarray, content: np.ndarray, levels: np.ndarray) -> np.ndarray:
  """Describes every place of an image.

  Args:
    grey: f32[H, W] in [0, 1], dense bright; see `grey_of`.
    content: bool[H, W], the body; see `body.content`.
    levels: f32[L] of `levels_of`.

  Returns:
    f32[h, w, D]; D depends on L alone.
  """
  scale = _SIDE / body_side(content)
  size = tuple(max(1, round(length * scale)) for length in grey.shape[::-1])
  way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  grey = cv2.resize(grey, size, interpolation=way)
  content = cv2.resize(content.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
  places = _position(content)
  smooth = {sigma: _blurred(grey, sigma) for sigma in _SMOOTH}
  found = [*places, *smooth.values(), *_texture(grey, smooth), *_shares(grey, levels)]
  found += _distances(smooth[_SMOOTH[0]], content)
  is_right = places[0] >= 0.5
  for sigma, away in _AROUND:
    found += _neighbours(_blurred(grey, sigma), away, is_right)
  return np.stack(found, axis=-1).astype(np.float32)


def at(found: np.ndarray, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Of f32[h, w, D] of an image of `shape` (H, W), those at points f64[N, 2] (x, y): f32[N, D]."""
  height, width = found.shape[:2]
  columns = np.clip(points[:, 0] * width / shape[1], 0, width - 1).astype(int)
  rows = np.clip(points[:, 1] * height / shape[0], 0, height - 1).astype(int)
  return found[rows, columns]


def _position(content: np.ndarray) -> list[np.ndarray]:
  """u, v of the body box, and the distance from the midline."""
  (height, width), frame = content.shape, body.box(content)
  u = (np.arange(width) + 0.5 - frame.x1) / (frame.x2 - frame.x1)
  v = (np.arange(height) + 0.5 - frame.y1) / (frame.y2 - frame.y1)
  across, down = np.meshgrid(u, v)
  return [across, down, np.abs(across - 0.5)]


def _texture(grey: np.ndarray, smooth: dict[float, np.ndarray]) -> list[np.ndarray]:
  """Spreads, gradients and the two curvatures, free of scale."""
  found = []
  squares = grey * grey
  for sigma in _TEXTURE:
    mean = smooth[sigma]
    found.append(np.sqrt(np.maximum(_blurred(squares, sigma) - mean * mean, 0.0)))
  for sigma in sorted({*_EDGES, *_TEXTURE}):
    down, across = np.gradient(smooth[sigma])
    if sigma in _EDGES:
      found.append(sigma * np.hypot(across, down))
    if sigma in _TEXTURE:
      (yy, yx), xx = np.gradient(down), np.gradient(across, axis=1)
      middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, yx)
      found += [sigma**2 * (middle + half), sigma**2 * (middle - half)]
  return found


def _shares(grey: np.ndarray, levels: np.ndarray) -> list[np.ndarray]:
  """How much of the neighbourhood is near each level, at several distances."""
  found = []
  for number in range(len(levels)):
    near = np.interp(grey, levels, np.eye(len(levels))[number]).astype(np.float32)
    found += [_blurred(near, sigma) for sigma in _SHARES]
  return found


def _distances(grey: np.ndarray, content: np.ndarray) -> list[np.ndarray]:
  """From the body's edge, from gas in it, and from bone."""
  dense = cv2.morphologyEx((grey > _DENSE).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3)))
  return [_away_from(~content), _away_from((grey < _GAS) & content), _away_from(dense > 0)]


def _neighbours(grey: np.ndarray, away: float, is_right: np.ndarray) -> list[np.ndarray]:
  """Intensities at a distance in all directions, of which the first leads away from the midline."""
  found = []
  for angle in 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
    across, down = away * np.cos(angle), -away * np.sin(angle)
    found.append(np.where(is_right, _shifted(grey, across, down), _shifted(grey, -across, down)))
  return found


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
  return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _shifted(image: np.ndarray, across: float, down: float) -> np.ndarray:
  """What lies so many pixels to the right and below of each pixel; the border goes on beyond."""
  by = np.array([[1, 0, -across], [0, 1, -down]], np.float32)
  return cv2.warpAffine(image, by, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def _away_from(mask: np.ndarray) -> np.ndarray:
  """Distance of each pixel from the nearest one of bool[h, w]."""
  if not mask.any():
    return np.full(mask.shape, _FAR, np.float32)
  away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  # OpenCV's square roots depend on where the array lies in memory; of whole numbers these do not.
  return np.sqrt(np.rint(np.square(np.minimum(away, _FAR))))
