"""Hand-made features of small patches around lesions, for the judges of `realism.py`.

Each is measured on pixels as they are exported: whole grey values of 0 to 255. N patches of S x S
pixels, the lesion in their middle, bright. Rings about the centre are scaled by the lesion's
diameter; bands follow the edge of a disc of that diameter in pixels.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

_RINGS = (0.0, 0.35, 0.7, 1.0, 1.3, 1.7, 2.2, 3.0)  # of the distance to the centre, in radii
_BANDS = {"inside": (-np.inf, -1.5), "edge": (-1.5, 1.5), "near": (1.5, 4.0), "far": (4.0, 10.0)}
_BRIGHTEST = (1, 2, 3, 4, 6, 9, 12, 16, 25)  # the k-th brightest pixels of a lesion
_STEP_PX = 0.5  # of the profile in which the edge's rise is measured
_CLIPPED = 250  # grey; what is above is at the end of the range


def features(pixels: np.ndarray, diameters: np.ndarray) -> dict[str, np.ndarray]:
  """Features by family.

  Args:
    pixels: u8[N, S, S].
    diameters: f32[N], of the lesions, in pixels.

  Returns:
    {family: f32[N, F]}; the families are profile, gradient, laplacian, noise, plateau, edge.
  """
  grey = pixels.astype(np.float32)
  away = _away(pixels.shape[1])[None]
  radii = np.maximum(np.asarray(diameters, np.float32), 3.0)[:, None, None] / 2
  rings = [(away >= a * radii) & (away < b * radii) for a, b in itertools.pairwise(_RINGS)]
  edge = away - radii
  bands = {name: (edge >= a) & (edge < b) for name, (a, b) in _BANDS.items()}
  level = _median(grey, bands["far"])
  families = {
    "profile": _profile(grey, rings, bands, level),
    "gradient": _gradient(grey, rings, bands),
    "laplacian": _laplacian(grey, rings, bands),
    "noise": _noise(grey, bands),
    "plateau": _plateau(grey, away <= 1.3 * radii, bands, level),
    "edge": _edge(grey, radii[:, 0, 0], level),
  }
  return {
    name: np.nan_to_num(np.stack(list(columns), 1)).astype(np.float32)
    for name, columns in families.items()
  }


def measured_diameters(pixels: np.ndarray, expected: np.ndarray) -> np.ndarray:
  """Diameters f32[N] of the bright spots in the middle, at half of their height, in pixels.

  Real and made lesions are measured alike, on the pixels as exported. What is farther from the
  centre than three quarters of the expected diameter f32[N] plus 3 px belongs to something else.
  """
  away, found = _away(pixels.shape[1]), []
  for grey, size in zip(pixels.astype(np.float32), expected):
    far = (away > size / 2 + 4) & (away < size / 2 + 10)
    peak = np.sort(grey[away <= size / 2 + 1])[-2]
    above = (grey >= (np.median(grey[far]) + peak) / 2) & (away <= 0.75 * size + 3)
    parts, _ = ndimage.label(above)
    nearest = parts[np.unravel_index(np.argmin(np.where(above, away, np.inf)), above.shape)]
    found.append(2 * np.sqrt((parts == nearest).sum() / np.pi) if nearest else size)
  return np.array(found, np.float32)


def share_clipped(pixels: np.ndarray, diameters: np.ndarray, rank: int = 6) -> np.ndarray:
  """bool[N]: whether the `rank`-th brightest pixel of a lesion is at the end of the range."""
  inside = _away(pixels.shape[1])[None] <= 0.65 * np.asarray(diameters)[:, None, None]
  return _brightest(pixels.astype(np.float32), inside, rank) >= _CLIPPED


def seam(before: np.ndarray, after: np.ndarray, diameters: np.ndarray) -> dict[str, np.ndarray]:
  """What an insertion leaves 2 to 4 px from a lesion's edge: f32[N] of u8[N, S, S] patches.

  Returns:
    {"gradient": mean length of the gradient; "noise": mean absolute departure from a median of 3 x
    3 pixels; "change": mean absolute difference of both patches}, in grey levels.
  """
  grey, was = after.astype(np.float32), before.astype(np.float32)
  edge = _away(after.shape[1])[None] - np.asarray(diameters, np.float32)[:, None, None] / 2
  band = (edge >= 2.0) & (edge < 4.0)
  down, right = (ndimage.sobel(grey, axis) / 8 for axis in (1, 2))
  fine = grey - ndimage.median_filter(grey, (1, 3, 3), mode="nearest")
  return {
    "gradient": _mean(np.hypot(down, right), band),
    "noise": _mean(np.abs(fine), band),
    "change": _mean(np.abs(grey - was), band),
  }


def _away(side: int) -> np.ndarray:
  """f32[S, S], distance to the middle pixel's centre."""
  offsets = np.arange(side) - side // 2
  return np.hypot(offsets[:, None], offsets[None]).astype(np.float32)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
  return (values * where).sum((1, 2)) / np.maximum(where.sum((1, 2)), 1)


def _deviation(values: np.ndarray, where: np.ndarray) -> np.ndarray:
  middle = _mean(values, where)[:, None, None]
  return np.sqrt(_mean(np.square(values - middle), where))


def _median(values: np.ndarray, where: np.ndarray) -> np.ndarray:
  return np.array([np.median(v[w]) if w.any() else np.nan for v, w in zip(values, where)])


def _extremes(values: np.ndarray, where: np.ndarray) -> Iterator[np.ndarray]:
  yield np.where(where, values, np.inf).min((1, 2), initial=255.0)
  yield np.where(where, values, -np.inf).max((1, 2), initial=0.0)


def _profile(
  grey: np.ndarray, rings: list[np.ndarray], bands: dict[str, np.ndarray], level: np.ndarray
) -> Iterator[np.ndarray]:
  for ring in rings:
    mean = _mean(grey, ring)
    yield mean
    yield mean - level
    yield _deviation(grey, ring)
  for name in ("near", "far"):
    for extreme in _extremes(grey, bands[name]):
      yield extreme
      yield extreme - level
  yield _mean(grey, bands["near"]) - _mean(grey, bands["far"])
  yield _median(grey, bands["near"]) - level
  # A rim: the darkest and brightest of the means on eight sides.
  for values in _sides(grey, bands["near"]):
    yield values - level


def _sides(grey: np.ndarray, where: np.ndarray) -> Iterator[np.ndarray]:
  """Smallest and largest mean of eight sectors of a band."""
  offsets = np.arange(grey.shape[1]) - grey.shape[1] // 2
  sector = ((np.arctan2(offsets[:, None], offsets[None]) + np.pi) / (2 * np.pi) * 8).astype(int) % 8
  means = np.stack([_mean(grey, where & (sector == k)) for k in range(8)])
  yield means.min(0)
  yield means.max(0)


def _gradient(
  grey: np.ndarray, rings: list[np.ndarray], bands: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
  down, right = (ndimage.sobel(grey, axis) / 8 for axis in (1, 2))
  size = np.hypot(down, right)
  offsets = np.arange(grey.shape[1], dtype=np.float32) - grey.shape[1] // 2
  away = np.maximum(_away(grey.shape[1]), 1e-3)
  outward = (down * offsets[:, None] + right * offsets[None]) / away
  for ring in rings:
    yield _mean(size, ring)
    yield _mean(outward, ring)
  for band in bands.values():
    yield _deviation(size, band)
    yield np.where(band, size, 0).max((1, 2))
  yield np.where(bands["edge"], size, 0).max((1, 2)) / np.maximum(np.ptp(grey, axis=(1, 2)), 1)


def _laplacian(
  grey: np.ndarray, rings: list[np.ndarray], bands: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
  bent = np.stack([ndimage.laplace(image, mode="nearest") for image in grey])
  for ring in rings:
    yield _mean(bent, ring)
    yield _mean(np.abs(bent), ring)
  for band in bands.values():
    yield from _extremes(bent, band)


def _noise(grey: np.ndarray, bands: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
  """Level, tails and correlation of what smoothing leaves over."""
  levels = []
  for fine in (
    grey - ndimage.gaussian_filter(grey, (0, 1, 1), mode="nearest"),
    grey - ndimage.median_filter(grey, (1, 3, 3), mode="nearest"),
  ):
    for band in bands.values():
      spread = _deviation(fine, band)
      levels.append(spread)
      yield spread
      size = _mean(np.abs(fine), band)
      yield size
      yield size / np.maximum(spread, 1e-3)
      for shift in ((0, 1), (1, 0), (1, 1)):
        neighbour = np.roll(fine, shift, (1, 2))
        yield _mean(fine * neighbour, band) / np.maximum(np.square(spread), 1e-3)
  count = len(bands)
  for start in (0, count):
    for index in range(count - 1):
      yield levels[start + index] / np.maximum(levels[start + count - 1], 0.5)
  for band in bands.values():
    same = (grey == np.roll(grey, 1, 1)) + 1.0 * (grey == np.roll(grey, 1, 2))
    yield _mean(same, band)
  # Local standard deviations: the quietest and the loudest places of a band.
  mean = ndimage.uniform_filter(grey, (0, 3, 3), mode="nearest")
  local = ndimage.uniform_filter(np.square(grey), (0, 3, 3), mode="nearest") - np.square(mean)
  local = np.sqrt(np.maximum(local, 0))
  for band in bands.values():
    yield from _extremes(local, band)


def _brightest(grey: np.ndarray, where: np.ndarray, rank: int) -> np.ndarray:
  """The rank-th brightest value of each patch."""
  ordered = np.sort(np.where(where, grey, -1).reshape(len(grey), -1), axis=1)
  return np.maximum(ordered[:, -min(rank, ordered.shape[1])], 0)


def _plateau(
  grey: np.ndarray, inside: np.ndarray, bands: dict[str, np.ndarray], level: np.ndarray
) -> Iterator[np.ndarray]:
  for rank in _BRIGHTEST:
    value = _brightest(grey, inside, rank)
    yield value
    yield value - level
  for bound in (_CLIPPED, 254, 255):
    yield (inside & (grey >= bound)).sum((1, 2)).astype(np.float32)
    yield _mean((grey >= bound).astype(np.float32), inside)
    yield _mean((grey >= bound).astype(np.float32), bands["near"])
  yield _mean((grey <= 5).astype(np.float32), bands["near"])
  yield _deviation(grey, bands["inside"])
  # Area above half of the way from the surroundings to the peak, beside the disc's.
  half = (level + _brightest(grey, inside, 2))[:, None, None] / 2
  yield _mean((grey >= half).astype(np.float32), inside)
  yield _mean((grey >= half).astype(np.float32), bands["edge"])
  yield _mean((grey >= half).astype(np.float32), bands["near"])


def _edge(grey: np.ndarray, radii: np.ndarray, level: np.ndarray) -> Iterator[np.ndarray]:
  """Rise of the mean profile and of the four sides' profiles, from the outside to the plateau."""
  middle = grey.shape[1] // 2
  profiles = _profiles(grey, middle)  # [N, angles, steps]
  for values in (profiles.mean(1), *(profiles[:, side::4].mean(1) for side in range(4))):
    peak = values[:, :4].max(1)
    share = (values - level[:, None]) / np.maximum(np.abs(peak - level), 1.0)[:, None]
    first = [np.argmax(share < bound, axis=1) * _STEP_PX for bound in (0.9, 0.75, 0.5, 0.25, 0.1)]
    yield first[4] - first[0]
    yield first[3] - first[1]
    yield first[2] / radii
    yield -np.diff(share, axis=1).min(1)
    yield share[:, 4:].min(1)
  # How much the sides differ.
  yield _spread_at(profiles, radii)
  yield _spread_at(profiles, radii + 2)


def _spread_at(profiles: np.ndarray, radii: np.ndarray) -> np.ndarray:
  step = np.clip(np.round(radii / _STEP_PX).astype(int), 0, profiles.shape[2] - 1)
  return profiles[np.arange(len(profiles)), :, step].std(1)


def _profiles(grey: np.ndarray, middle: int) -> np.ndarray:
  """f32[N, 16, steps], along 16 rays from the centre."""
  reach = np.arange(0, middle - 1, _STEP_PX)
  angle = np.arange(16) * (2 * np.pi / 16)
  rows = middle + np.sin(angle)[:, None] * reach
  columns = middle + np.cos(angle)[:, None] * reach
  sampled = [ndimage.map_coordinates(image, (rows, columns), order=1) for image in grey]
  return np.stack(sampled)
