"""Outlines in millimetres, and where they lie on the film.

Legend: x grows to the right of the image, y downwards, both in mm. A *window* is a pair of slices
of the image.
"""

import dataclasses

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

  def window(self, points: np.ndarray, margin: float = 0.0) -> Window | None:
    """The part of the image that `points` (mm [N, 2]) reach, `margin` mm around; None if off it."""
    pixels = self.px(points)
    reach = margin / self.spacing + 2
    low = np.clip(np.floor(pixels.min(0) - reach), 0, None).astype(int)
    high = np.minimum(np.ceil(pixels.max(0) + reach), (self.width, self.height)).astype(int)
    if (high <= low).any():
      return None
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
