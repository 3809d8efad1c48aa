"""Where an image lands in a view of another size, and all that lies on it with it."""

import dataclasses

import cv2
import numpy as np

FITS = ("stretch", "pad", "crop")

_LEAST_SHARE = 0.1  # of a box that must be left for it to count


@dataclasses.dataclass(frozen=True)
class Placement:
  """The image is resized to `inner` and its corner put at `corner` of the output.

  Attributes:
    outer: (rows, columns) of the output.
    inner: (rows, columns) of the resized image.
    corner: (row, column) in the output, negative where the image overhangs.
    scale: f64[2], output pixels per input pixel, (row, column).
  """

  outer: tuple[int, int]
  inner: tuple[int, int]
  corner: tuple[int, int]
  scale: np.ndarray

  def resize(self, image: np.ndarray) -> np.ndarray:
    """Resizes f32[H, W, C]: the area's mean on an axis that shrinks, linear on others."""
    rows, columns = self.inner
    channels = image.shape[-1]
    small = (min(rows, image.shape[0]), min(columns, image.shape[1]))
    if small != image.shape[:2]:
      image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    if small != self.inner:
      image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return image.reshape(rows, columns, channels)

  def resize_labels(self, mask: np.ndarray) -> np.ndarray:
    """Resizes labels [H, W]: each output pixel has the label under its centre."""
    if mask.shape == self.inner:
      return mask
    return cv2.resize(mask, self.inner[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

  def paste(self, image: np.ndarray, *, fill: float) -> np.ndarray:
    """Puts [*inner, C] into the output [*outer, C], `fill` elsewhere."""
    if self.inner == self.outer:
      return image
    out = np.full((*self.outer, image.shape[-1]), fill, image.dtype)
    to, of = zip(*(_overlap(c, i, o) for c, i, o in zip(self.corner, self.inner, self.outer)))
    out[to] = image[of]
    return out

  def boxes(self, boxes: np.ndarray) -> np.ndarray:
    """Boxes f32[N, 4] of the input in output pixels, not clipped."""
    scale = np.tile(self.scale[::-1], 2)
    shift = np.tile(np.asarray(self.corner, np.float64)[::-1], 2)
    return (boxes * scale + shift).astype(np.float32)


def place(shape: tuple[int, int], outer: tuple[int, int], fit: str) -> Placement:
  """Places an image of `shape` (rows, columns) in an output of `outer`; `fit` as in `View`."""
  ratios = (outer[0] / shape[0], outer[1] / shape[1])
  if fit == "stretch":
    inner = outer
  elif fit == "pad":
    ratio = min(*ratios, 1.0)
    inner = (_at_most(shape[0] * ratio, outer[0]), _at_most(shape[1] * ratio, outer[1]))
  else:
    ratio = max(ratios)
    inner = (max(round(shape[0] * ratio), outer[0]), max(round(shape[1] * ratio), outer[1]))
  return Placement(
    outer=outer,
    inner=inner,
    corner=((outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2),
    scale=np.array([inner[0] / shape[0], inner[1] / shape[1]]),
  )


def keep_inside(
  boxes: np.ndarray, lesion_mask: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Clips boxes to the image and drops those of which less than a tenth is left.

  Args:
    boxes: f32[N, 4] xyxy pixels.
    lesion_mask: uint16 [H, W] with id = box index + 1, or (0, 0).
    shape: (rows, columns) of the image.

  Returns:
    (boxes f32[M, 4], the mask with the ids of the boxes that are left).
  """
  limits = np.array([shape[1], shape[0]] * 2, np.float32)
  clipped = np.clip(boxes, 0, limits)
  kept = _areas(clipped) > _LEAST_SHARE * _areas(boxes)
  if not kept.all() and lesion_mask.size:
    ids = np.zeros(max(len(boxes), int(lesion_mask.max())) + 1, np.uint16)
    ids[1 : len(boxes) + 1][kept] = np.arange(1, kept.sum() + 1)
    lesion_mask = ids[lesion_mask]
  return clipped[kept], lesion_mask


def _areas(boxes: np.ndarray) -> np.ndarray:
  return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _at_most(side: float, limit: int) -> int:
  return max(1, min(round(side), limit))


def _overlap(corner: int, inner: int, outer: int) -> tuple[slice, slice]:
  """(where in the output, where in the image) on one axis."""
  first, last = max(corner, 0), min(corner + inner, outer)
  return slice(first, last), slice(first - corner, last - corner)
