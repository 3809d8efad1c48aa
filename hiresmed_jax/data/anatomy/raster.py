"""Shapes on pixels: how much of each pixel they cover, how deep inside it lies, random textures.

Legend: a *window* is a pair of slices of the image; *chord* is the length of a ray in a body, mm.
"""

import cv2
import numpy as np

from hiresmed_jax.data.anatomy.shapes import Grid, Window

_SHIFT = 4  # fillPoly takes fixed-point corners: 1/16 pixel


def cover(grid: Grid, *outlines: np.ndarray) -> tuple[Window, np.ndarray] | None:
  """Window, and f32 share of each pixel inside the outlines (mm, even-odd); None off the image.

  OpenCV lays the soft edge around an outline, so shapes are up to half a pixel larger all round.
  """
  window = grid.window(np.concatenate(outlines))
  if window is None:
    return None
  return window, _fill(grid, window, outlines).astype(np.float32) / 255


def depth(
  grid: Grid, *outlines: np.ndarray, margin: float = 0.0
) -> tuple[Window, np.ndarray] | None:
  """Window and f32 distance in mm from each pixel inside the outlines to their edge, 0 outside.

  The image's own edge does not count as an edge of the shape. `margin` mm around it are kept.
  """
  window = grid.window(np.concatenate(outlines), margin)
  if window is None:
    return None
  return window, _inwards(grid, _fill(grid, window, outlines))


def tunnel(
  grid: Grid, path: np.ndarray, radius: np.ndarray, margin: float = 0.0
) -> tuple[Window, np.ndarray] | None:
  """As `depth`, of all discs around `path` [N, 2] with `radius` [N] together."""
  window = grid.window(path, float(radius.max()) + margin)
  if window is None:
    return None
  rows, columns = window
  canvas = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
  centers = np.round((grid.px(path) - (columns.start + 0.5, rows.start + 0.5)) * (1 << _SHIFT))
  sizes = np.round(radius / grid.spacing * (1 << _SHIFT))
  for (x, y), size in zip(centers.astype(int).tolist(), sizes.astype(int).tolist(), strict=True):
    cv2.circle(canvas, (x, y), size, 255, -1, cv2.LINE_AA, _SHIFT)
  return window, _inwards(grid, canvas)


def _inwards(grid: Grid, canvas: np.ndarray) -> np.ndarray:
  inside = (canvas > 127).astype(np.uint8)
  distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
  return np.maximum(distance - 0.5, 0) * grid.spacing * inside


def _fill(
  grid: Grid,
  window: Window,
  outlines: tuple[np.ndarray, ...],
  canvas: np.ndarray | None = None,
  value: int = 255,
) -> np.ndarray:
  rows, columns = window
  if canvas is None:
    canvas = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
  origin = (columns.start + 0.5, rows.start + 0.5)
  corners = [
    np.round((grid.px(outline) - origin) * (1 << _SHIFT)).astype(np.int32) for outline in outlines
  ]
  return cv2.fillPoly(canvas, corners, value, cv2.LINE_AA, _SHIFT)


def strokes(
  grid: Grid, around: np.ndarray, shapes: list[tuple[np.ndarray, float]]
) -> tuple[Window, np.ndarray] | None:
  """Draws (outline, value in 0 .. 1) one over another: the window of `around`, f32 values in it."""
  window = grid.window(around)
  if window is None:
    return None
  rows, columns = window
  canvas = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
  for outline, value in shapes:
    _fill(grid, window, (outline,), canvas, round(255 * value))
  return window, canvas.astype(np.float32) / 255


def round_chord(distance: np.ndarray, radius: float) -> np.ndarray:
  """Chord through a body with rounded flanks: 0 at its edge, 2 `radius` from that depth inwards."""
  inward = np.minimum(distance, radius)
  return 2 * np.sqrt(inward * (2 * radius - inward))


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """f32 image to (rows, columns): area means when shrinking, bicubic when growing."""
  if image.shape == shape:
    return image
  shrinks = shape[0] < image.shape[0]
  return cv2.resize(
    image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
  )


def fractal(
  rng: np.random.Generator, grid: Grid, coarse: float, octaves: int, falloff: float = 0.6
) -> np.ndarray:
  """Smooth random field f32[H, W] of unit variance, its largest features `coarse` mm.

  Its shape follows millimetres, not pixels: a patient looks the same at every size.
  """
  total = np.zeros(grid.shape, np.float32)
  power, weight = 0.0, 1.0
  seed = int(rng.integers(2**63))  # `rng` moves by one draw whatever the size
  extent = max(grid.shape) * grid.spacing
  for octave in range(octaves):
    cell = coarse / 2**octave
    cells = int(np.ceil(extent / cell)) + 3
    noise = np.random.default_rng([seed, octave]).standard_normal((cells, cells), np.float32)
    rows = max(2, round(grid.height * grid.spacing / cell) + 1)
    columns = max(2, round(grid.width * grid.spacing / cell) + 1)
    layer = cv2.resize(
      noise[:rows, :columns], (grid.width, grid.height), interpolation=cv2.INTER_CUBIC
    )
    total += np.float32(weight) * layer
    power += 0.45 * weight**2  # what bicubic growing leaves of the variance
    weight *= falloff
  return total / np.float32(np.sqrt(power))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian blur, `sigma` in pixels, mirrored at the border; wide ones on a smaller copy."""
  factor = int(sigma // 6)
  if factor > 1 and min(image.shape) >= 8 * factor:
    small = resize(image, (image.shape[0] // factor, image.shape[1] // factor))
    return cv2.resize(
      cv2.GaussianBlur(small, (0, 0), sigma / factor),
      image.shape[::-1],
      interpolation=cv2.INTER_CUBIC,
    )
  return cv2.GaussianBlur(image, (0, 0), max(sigma, 1e-3))
