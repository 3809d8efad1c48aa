"""Outlines in millimetres, their place in an image, and the share of each pixel they cover."""

import dataclasses

import cv2
import numpy as np

Window = tuple[slice, slice]


@dataclasses.dataclass(frozen=True)
class Grid:
  """Pixels of an image laid over the patient.

  Attributes:
    height: rows.
    width: columns.
    spacing: mm per pixel, the same in both directions.
    center: (x, y) in mm of the patient at the middle of the image.
    angle: turn of the patient, radians, clockwise on the image.
  """

  height: int
  width: int
  spacing: float
  center: tuple[float, float] = (0.0, 0.0)
  angle: float = 0.0

  @property
  def shape(self) -> tuple[int, int]:
    """(rows, columns)."""
    return self.height, self.width

  def refined(self, factor: int) -> "Grid":
    """The same field on `factor` times as many rows and columns."""
    return dataclasses.replace(
      self,
      height=self.height * factor,
      width=self.width * factor,
      spacing=self.spacing / factor,
    )

  def coarsened(self, spacing: float) -> "Grid":
    """The same field with pixels of about `spacing` mm, never finer than this grid's."""
    height = max(1, min(self.height, round(self.height * self.spacing / spacing)))
    return dataclasses.replace(
      self,
      height=height,
      width=max(1, round(self.width * height / self.height)),
      spacing=self.spacing * self.height / height,
    )

  def px(self, points: np.ndarray) -> np.ndarray:
    """mm [..., 2] -> pixels [..., 2] (column, row), pixel i covering [i, i + 1)."""
    offset = (np.asarray(points, np.float64) - self.center) / self.spacing
    cos, sin = np.cos(self.angle), np.sin(self.angle)
    x, y = offset[..., 0], offset[..., 1]
    return np.stack(
      [cos * x - sin * y + self.width / 2, sin * x + cos * y + self.height / 2], axis=-1
    )

  def window(self, points: np.ndarray, margin: float = 0.0) -> Window:
    """The part of the image within `margin` mm of `points` (mm [N, 2]); it may be empty."""
    pixels = self.px(points)
    reach = margin / self.spacing + 2
    low = np.clip(np.floor(pixels.min(0) - reach), 0, None).astype(int)
    high = np.minimum(np.ceil(pixels.max(0) + reach), (self.width, self.height)).astype(int)
    if (high <= low).any():
      return slice(0, 0), slice(0, 0)
    return slice(low[1], high[1]), slice(low[0], high[0])

  def local(
    self, window: Window, at: tuple[float, float] = (0.0, 0.0), turn: float = 0.0
  ) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) f32[h, w] in mm of the window's pixel centres, from `at`, in axes turned by `turn`."""
    rows, columns = window
    x0, y0 = self.px(np.asarray(at, np.float64))
    x = (np.arange(columns.start, columns.stop) + 0.5 - x0)[None, :] * self.spacing
    y = (np.arange(rows.start, rows.stop) + 0.5 - y0)[:, None] * self.spacing
    cos, sin = np.cos(self.angle + turn), np.sin(self.angle + turn)
    return (cos * x + sin * y).astype(np.float32), (cos * y - sin * x).astype(np.float32)


def spline(points: np.ndarray, steps: int = 12, closed: bool = True) -> np.ndarray:
  """Catmull-Rom curve through `points` [N, D]: [N * steps, D], open [(N - 1) * steps + 1, D]."""
  knots = np.asarray(points, np.float64)
  if closed:
    padded = np.concatenate([knots[-1:], knots, knots[:2]])
  else:
    first, last = 2 * knots[:1] - knots[1:2], 2 * knots[-1:] - knots[-2:-1]
    padded = np.concatenate([first, knots, last])
  before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
  t = (np.arange(steps) / steps)[None, :, None]
  linear, square = end - before, 2 * before - 5 * start + 4 * end - after
  cube = 3 * start - before - 3 * end + after
  curve = start[:, None] + 0.5 * (
    linear[:, None] * t + square[:, None] * t**2 + cube[:, None] * t**3
  )
  curve = curve.reshape(-1, knots.shape[1])
  return curve if closed else np.concatenate([curve, knots[-1:]])


def blob(
  rng: np.random.Generator, center: tuple[float, float], radii: tuple[float, float], rough: float
) -> np.ndarray:
  """A closed smooth random outline [72, 2]; `rough` is the relative swing of its radius."""
  angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
  order = np.arange(2, 7)
  phase = rng.uniform(0, 2 * np.pi, order.size)
  weight = rng.normal(size=order.size) / order
  swing = (weight * np.cos(angle[:, None] * order + phase)).sum(1)
  radius = 1 + rough * swing
  return np.stack(
    [center[0] + radii[0] * radius * np.cos(angle), center[1] + radii[1] * radius * np.sin(angle)],
    axis=1,
  )


def oval(center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
  """An ellipse [72, 2] with axes along x and y."""
  angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
  return np.stack(
    [center[0] + radii[0] * np.cos(angle), center[1] + radii[1] * np.sin(angle)], axis=1
  )


def ribbon(path: np.ndarray, radius: np.ndarray) -> np.ndarray:
  """Outline of a band around `path` [N, 2] with half-widths `radius` [N] and round ends, all mm."""
  slope = np.gradient(path, axis=0)
  along = slope / (np.linalg.norm(slope, axis=1, keepdims=True) + 1e-9)
  normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
  radius = np.asarray(radius, float)
  offset = normal * radius[:, None]
  turn = np.linspace(np.pi / 2, -np.pi / 2, 7)[1:-1, None]
  end = path[-1] + radius[-1] * (np.cos(turn) * along[-1] + np.sin(turn) * normal[-1])
  start = path[0] - radius[0] * (np.cos(turn) * along[0] + np.sin(turn) * normal[0])
  return np.concatenate([path + offset, end, (path - offset)[::-1], start])


_SHIFT = 4  # fillPoly takes fixed-point corners: 1/16 pixel


def cover(grid: Grid, *outlines: np.ndarray) -> tuple[Window, np.ndarray]:
  """Window, and f32 share of each of its pixels inside the outlines (mm, even-odd).

  OpenCV lays the soft edge around an outline, so shapes are up to half a pixel larger all round.
  """
  window = grid.window(np.concatenate(outlines))
  return window, _fill(grid, window, outlines, _empty(window)).astype(np.float32) / 255


def depth(grid: Grid, *outlines: np.ndarray, margin: float = 0.0) -> tuple[Window, np.ndarray]:
  """Window and f32 distance in mm from each pixel inside the outlines to their edge, 0 outside.

  The edge of the image is no edge of the shape. The window has `margin` mm around the outlines.
  """
  window = grid.window(np.concatenate(outlines), margin)
  return window, _inwards(grid, _fill(grid, window, outlines, _empty(window)))


def tunnel(
  grid: Grid, path: np.ndarray, radius: np.ndarray, margin: float = 0.0
) -> tuple[Window, np.ndarray]:
  """As `depth`, of all discs around `path` [N, 2] with `radius` [N] together."""
  window = grid.window(path, float(radius.max()) + margin)
  rows, columns = window
  canvas = _empty(window)
  centers = np.round((grid.px(path) - (columns.start + 0.5, rows.start + 0.5)) * (1 << _SHIFT))
  sizes = np.round(radius / grid.spacing * (1 << _SHIFT))
  for (x, y), size in zip(centers.astype(int).tolist(), sizes.astype(int).tolist(), strict=True):
    cv2.circle(canvas, (x, y), size, 255, -1, cv2.LINE_AA, _SHIFT)
  return window, _inwards(grid, canvas)


def _empty(window: Window) -> np.ndarray:
  rows, columns = window
  return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)


def _inwards(grid: Grid, canvas: np.ndarray) -> np.ndarray:
  if not canvas.size:
    return canvas.astype(np.float32)
  inside = (canvas > 127).astype(np.uint8)
  distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
  return np.maximum(distance - 0.5, 0) * grid.spacing * inside


def _fill(
  grid: Grid,
  window: Window,
  outlines: tuple[np.ndarray, ...],
  canvas: np.ndarray,
  value: int = 255,
) -> np.ndarray:
  if not canvas.size:
    return canvas
  rows, columns = window
  origin = (columns.start + 0.5, rows.start + 0.5)
  corners = [
    np.round((grid.px(outline) - origin) * (1 << _SHIFT)).astype(np.int32) for outline in outlines
  ]
  return cv2.fillPoly(canvas, corners, value, cv2.LINE_AA, _SHIFT)


def strokes(
  grid: Grid, around: np.ndarray, shapes: list[tuple[np.ndarray, float]]
) -> tuple[Window, np.ndarray]:
  """Draws (outline, value in 0 .. 1) one over another: the window of `around`, f32 values in it."""
  window = grid.window(around)
  canvas = _empty(window)
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
  if not image.size:
    return image
  factor = int(sigma // 6)
  if factor > 1 and min(image.shape) >= 8 * factor:
    small = resize(image, (image.shape[0] // factor, image.shape[1] // factor))
    return cv2.resize(
      cv2.GaussianBlur(small, (0, 0), sigma / factor),
      image.shape[::-1],
      interpolation=cv2.INTER_CUBIC,
    )
  return cv2.GaussianBlur(image, (0, 0), max(sigma, 1e-3))
