"""Signs that a set was augmented before it was published: wedges, mirror images, near-duplicates.

Images are display images uint8 [H, W]; the cost does not grow with their size.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

# Polar signature: radii, angles, and the angular frequencies that are kept (99.3 % of the energy).
_RADII, _ANGLES, _FREQUENCIES = 24, 160, 56
_FINE, _COARSE = 1.0, 4.0  # pixels of 96 across: structures between these sizes are compared
_SMALL_ROTATION = 20.0  # degrees; published sets are rotated by less
# Measured on coronal CT: rotated, mirrored, recompressed copies score .98 to .99, slices of two
# patients at most .58; phantoms of one recipe at most .87.
_SAME_IMAGE = 0.95
_SAME_MAGNITUDES = 0.96  # copies: .99 or more
_ALIKE, _CLEARLY_MORE_ALIKE = 0.65, 0.15
_MAX_PER_GROUP = 24
_MAX_COMPARED = 12_000

_WEDGE_SIDE = 512  # wedges are sought in an image of at most this side
_WEDGE_BLACK = 12  # of 255: a JPEG rings around black
_WEDGE_DEGREES = np.concatenate([np.arange(-25, -1.4, 0.5), np.arange(1.5, 25.1, 0.5)])
_WEDGE_LENGTH = 0.15  # of an edge: a straight border at least this long
_WEDGE_LEAVES = 0.3  # of an edge: how far from its middle the border may leave the frame


def wedge_degrees(grey: np.ndarray) -> float:
  """Angle of the black corner triangles that a rotation leaves, 0 when there are none.

  A rotation leaves straight borders of one angle at several edges of the frame. A flank or a rib
  can be straight at one edge, so at least two edges must show the same angle.

  Args:
    grey: uint8 [H, W].

  Returns:
    Degrees, |angle| in [1.5, 25], or 0.
  """
  shrink = min(1.0, _WEDGE_SIDE / max(grey.shape))
  if min(grey.shape) * shrink < 31.5:
    return 0.0
  if shrink < 1.0:
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
  edges = np.array([_straight_border(np.rot90(grey, k)) for k in range(4)])
  share, angle = edges[:, 0], edges[:, 1]
  best, found = 0.0, 0.0
  for edge in np.flatnonzero(share > 0):
    agree = (np.abs(angle - angle[edge]) <= 1.0) & (share > 0)
    if agree.sum() >= 2 and share[agree].sum() > best:
      best, found = share[agree].sum(), float(np.median(angle[agree]))
  return found


def _straight_border(grey: np.ndarray) -> tuple[float, float]:
  """(share of the top edge under a straight slanted black border, its angle), (0, 0) for none."""
  bright = grey > _WEDGE_BLACK
  depth = np.where(bright.any(0), bright.argmax(0), grey.shape[0])
  columns = np.flatnonzero((depth >= 1) & (depth < grey.shape[0] // 3))
  if len(columns) < _WEDGE_LENGTH * grey.shape[1]:
    return 0.0, 0.0
  # A Hough vote: for each angle, the columns that share one offset (two bins of one pixel).
  offsets = np.round(depth[columns] - np.tan(np.deg2rad(_WEDGE_DEGREES))[:, None] * columns)
  offsets = (offsets - offsets.min(1, keepdims=True)).astype(np.int64)
  bins = int(offsets.max()) + 2
  flat = offsets + bins * np.arange(len(_WEDGE_DEGREES))[:, None]
  votes = np.bincount(flat.ravel(), minlength=bins * len(_WEDGE_DEGREES)).reshape(-1, bins)
  votes = votes[:, :-1] + votes[:, 1:]
  best, offset = np.unravel_index(votes.argmax(), votes.shape)
  inside = columns[(offsets[best] == offset) | (offsets[best] == offset + 1)]
  share = len(inside) / grey.shape[1]
  if share < _WEDGE_LENGTH or np.ptp(depth[inside]) < 3:
    return 0.0, 0.0
  # After a rotation about the middle the border leaves the frame near the middle of the edge. The
  # outline of a body in air does not.
  slope = np.tan(np.deg2rad(_WEDGE_DEGREES[best]))
  leaves = np.median(inside - depth[inside] / slope) / grey.shape[1]
  if abs(leaves - 0.5) > _WEDGE_LEAVES:
    return 0.0, 0.0
  return share, float(_WEDGE_DEGREES[best])


def wedge_depth(degrees: float, height: int, width: int) -> float:
  """Depth of the wedge of a rotation at the frame's corner, as a share of the shorter side."""
  return float(np.tan(np.deg2rad(abs(degrees))) * max(height, width) / (2 * min(height, width)))


def signature(grey: np.ndarray) -> np.ndarray:
  """Angular spectrum of the inscribed disc, mean 0, norm 1: f16[frequencies, radii, 2], 5 kB.

  A rotation multiplies frequency k by a phase k * angle, a mirroring conjugates it.

  Args:
    grey: uint8 [H, W].
  """
  reach = 4 * min(grey.shape)  # from the middle; a strip would become as long as its scale
  grey = grey[tuple(slice(max(n // 2 - reach, 0), n // 2 + reach) for n in grey.shape)]
  scale = 4 * _RADII / min(grey.shape)
  size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
  how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  small = cv2.resize(grey, size, interpolation=how).astype(np.float32)
  # Coarse structures are the same in all patients; fine ones do not survive a rotation.
  small = cv2.GaussianBlur(small, (0, 0), _FINE) - cv2.GaussianBlur(small, (0, 0), _COARSE)
  centre = ((size[0] - 1) / 2, (size[1] - 1) / 2)
  polar = cv2.warpPolar(
    small, (2 * _RADII, _ANGLES), centre, 0.5 * min(size), cv2.INTER_LINEAR + cv2.WARP_POLAR_LINEAR
  )
  polar = polar.reshape(_ANGLES, _RADII, 2).mean(-1)
  weight = np.arange(_RADII) + 0.5  # the length of a ring
  weight /= weight.sum()
  polar = (polar - polar.mean(0) @ weight) * np.sqrt(weight)
  polar /= np.linalg.norm(polar) + 1e-6
  spectrum = np.fft.rfft(polar, axis=0)[:_FREQUENCIES]
  return np.stack([spectrum.real, spectrum.imag], axis=-1).astype(np.float16)


def _spectra(signatures: Sequence[np.ndarray]) -> np.ndarray:
  """complex64[N, frequencies, radii] of N signatures."""
  return np.stack(signatures).astype(np.float32).view(np.complex64)[..., 0]


def _best_correlation(
  one: np.ndarray, other: np.ndarray, max_degrees: float = 180.0
) -> tuple[np.ndarray, np.ndarray]:
  """Best correlation over rotations, (as it is, mirrored): f32[P] each of P pairs of spectra."""
  steps = 2 * _ANGLES  # between the angles of the signature: its frequencies are all known
  turns = np.arange(steps)
  lags = np.minimum(turns, steps - turns) * 360 / steps <= max_degrees
  mirror = np.exp(1j * np.pi * np.arange(_FREQUENCIES))[:, None]
  direct = 2 * np.fft.irfft((one * other.conj()).sum(-1), n=steps, axis=-1)
  mirrored = 2 * np.fft.irfft((one * other * mirror).sum(-1), n=steps, axis=-1)
  return direct[:, lags].max(-1), mirrored[:, lags].max(-1)


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
  """Pairs of images that differ by a rotation, a mirroring or recompression alone.

  Attributes:
    compared: images that were compared, an even sample of a large set.
    pairs: index pairs, int[P, 2].
  """

  compared: int
  pairs: np.ndarray


def near_duplicates(signatures: Sequence[np.ndarray]) -> NearDuplicates:
  """Finds near-duplicates under any rotation about the centre and either mirroring."""
  step = -(-len(signatures) // _MAX_COMPARED) if signatures else 1
  picked = np.arange(0, len(signatures), step)
  if len(picked) < 2:
    return NearDuplicates(len(picked), np.zeros((0, 2), np.int64))
  stack = _spectra(signatures[::step])
  # Magnitudes do not change under rotation and mirroring: a fast first test, block by block.
  magnitudes = np.abs(stack).reshape(len(stack), -1)
  magnitudes /= np.linalg.norm(magnitudes, axis=1, keepdims=True) + 1e-12
  found = []
  for start in range(0, len(stack), 512):
    alike = np.argwhere(magnitudes[start : start + 512] @ magnitudes.T > _SAME_MAGNITUDES)
    alike[:, 0] += start
    alike = alike[alike[:, 0] < alike[:, 1]]
    for pairs in np.array_split(alike, len(alike) // 4096 + 1):
      score = np.maximum(*_best_correlation(stack[pairs[:, 0]], stack[pairs[:, 1]]))
      found.append(pairs[score > _SAME_IMAGE])
  return NearDuplicates(len(picked), picked[np.concatenate(found)])


@dataclasses.dataclass(frozen=True)
class Orientations:
  """How many groups were compared (two images or more), and how many show both orientations."""

  compared: int
  both: int


def orientations(signatures: Sequence[np.ndarray], groups: Sequence[str]) -> Orientations:
  """Counts groups in which an image is clearly more like the mirror image of another."""
  members: dict[str, list[int]] = {}
  for i, group in enumerate(groups):
    members.setdefault(group, []).append(i)
  compared = both = 0
  for indices in members.values():
    if len(indices) < 2:
      continue
    compared += 1
    stack = _spectra([signatures[i] for i in indices[:: -(-len(indices) // _MAX_PER_GROUP)]])
    one, other = np.triu_indices(len(stack), 1)
    direct, mirrored = _best_correlation(stack[one], stack[other], _SMALL_ROTATION)
    both += bool(((mirrored > direct + _CLEARLY_MORE_ALIKE) & (mirrored > _ALIKE)).any())
  return Orientations(compared, both)
