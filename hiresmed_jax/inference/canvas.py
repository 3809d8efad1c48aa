"""The image that lesions are inserted into: its values, and the masks and boxes that belong to it.

H, W rows and columns of the canvas; C channels (1 grey, 3 RGB). Dense tissue is bright.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.data import transforms
from hiresmed_jax.placement import body


class Canvas(NamedTuple):
  """A canvas."""

  values: np.ndarray  # f32[H, W, C], value units, dense is bright
  value_range: tuple[float, float]  # (low, high) that is shown
  spacing_mm: tuple[float, float]  # (row, column); NaN when unknown
  scale: tuple[float, float]  # (row, column), canvas pixels per pixel of the record
  boxes: np.ndarray  # f32[N, 4], the record's own lesions in canvas pixels
  lesion_mask: np.ndarray  # uint16[H, W], id = box index + 1, or (0, 0)
  forbidden_mask: np.ndarray  # uint8[H, W] or (0, 0)
  host_mask: np.ndarray  # uint8[H, W], nonzero where lesions may live, or (0, 0)
  content: np.ndarray  # bool[H, W], where there is a body

  @property
  def shape(self) -> tuple[int, int]:
    """(rows, columns)."""
    return self.values.shape[0], self.values.shape[1]

  @property
  def mean_scale(self) -> float:
    """Canvas pixels per pixel of the record, for areas."""
    return float(np.sqrt(self.scale[0] * self.scale[1]))

  @property
  def mean_spacing_mm(self) -> float:
    """Side of a square pixel of the same area; NaN when unknown."""
    return float(np.sqrt(self.spacing_mm[0] * self.spacing_mm[1]))


def real(item: Mapping[str, Any]) -> Canvas:
  """The pixels of a record, at their resolution."""
  values, value_range = transforms.values_of(item)
  return Canvas(
    values=values,
    value_range=value_range,
    spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
    scale=(1.0, 1.0),
    boxes=item["boxes"],
    lesion_mask=item["lesion_mask"],
    forbidden_mask=item["forbidden_mask"],
    host_mask=item["host_mask"],
    content=body.content(values, value_range=value_range),
  )


def viewed(
  item: Mapping[str, Any],
  view: transforms.View,
  network: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Canvas:
  """What a network makes of a record, in the geometry of its view without the padding.

  Args:
    item: a record of `records.Records`.
    view: how the network sees it.
    network: images_m11 f32[S, T, C] -> the same of its output; None: the view itself.
  """
  example, output_m11 = without_padding(item, view, network)
  low, high = (float(v) for v in item["value_range"])
  values = _values(output_m11, item, view)
  placed = transforms.place(item["image"].shape[:2], view.shape, view.fit)
  return Canvas(
    values=values,
    value_range=(low, high),
    spacing_mm=(float(example["spacing_mm"][0]), float(example["spacing_mm"][1])),
    scale=(float(placed.scale[0]), float(placed.scale[1])),
    boxes=example["boxes"],
    lesion_mask=example["lesion_mask"],
    forbidden_mask=example["forbidden_mask"],
    host_mask=example["host_mask"],
    content=body.content(values, value_range=(low, high)),
  )


def without_padding(
  item: Mapping[str, Any],
  view: transforms.View,
  network: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[transforms.Example, np.ndarray]:
  """A record as a network sees it, and the network's output; padding is cut from both.

  Args:
    item: a record of `records.Records`.
    view: how the network sees it.
    network: images_m11 f32[S, T, C] -> the same of its output; None: the view itself.

  Returns:
    (images_m11, boxes, masks and spacing of `transforms.load`, and host_mask; output f32[H, W, C]).
  """
  example = transforms.load(item, view)
  placement = transforms.place(item["image"].shape[:2], view.shape, view.fit)
  rows, columns = placement.filled
  example["host_mask"] = transforms.placed(item["host_mask"], placement)
  image_m11 = example["images_m11"]
  output_m11 = image_m11 if network is None else network(image_m11)
  cut = {
    name: example[name][rows, columns] if example[name].size else example[name]
    for name in ("images_m11", "lesion_mask", "forbidden_mask", "host_mask")
  }
  shift = np.array([columns.start, rows.start] * 2, np.float32)
  output_m11 = transforms.with_channels(output_m11[rows, columns], image_m11.shape[-1])
  return {**example, **cut, "boxes": example["boxes"] - shift}, output_m11


def record_of(
  image: np.ndarray,
  value_range: tuple[float, float],
  *,
  photometric: str = "MONOCHROME2",
  rescale_slope: float = 1.0,
  rescale_intercept: float = 0.0,
  spacing_mm: tuple[float, float] = (float("nan"), float("nan")),
) -> dict[str, Any]:
  """An image without lesions or masks as an item of `records.Records`; see there."""
  unknown = np.zeros((0, 0), np.uint16)
  return {
    "image": image,
    "rescale_slope": rescale_slope,
    "rescale_intercept": rescale_intercept,
    "value_range": np.asarray(value_range, np.float32),
    "photometric": photometric,
    "boxes": np.zeros((0, 4), np.float32),
    "lesion_mask": unknown,
    "forbidden_mask": unknown,
    "host_mask": unknown,
    "spacing_mm": np.asarray(spacing_mm, np.float32),
    "group": "",
    "image_id": "",
  }


def _values(images_m11: np.ndarray, item: Mapping[str, Any], view: transforms.View) -> np.ndarray:
  """Network output to value units, dense bright: the inverse of `transforms.load`."""
  low, high = transforms.window_of(item, view.window)
  shown = np.clip(images_m11, -1.0, 1.0)
  if item["photometric"] != "MONOCHROME1":
    return ((shown + 1.0) * ((high - low) / 2.0) + low).astype(np.float32)
  first, last = (float(v) for v in item["value_range"])
  values = (1.0 - shown) * ((high - low) / 2.0) + low
  return (np.float32(first + last) - values).astype(np.float32)


def stored(values: np.ndarray, item: Mapping[str, Any]) -> np.ndarray:
  """Canvas values in the record's dtype and polarity, clipped to what the record holds or shows."""
  low, high = (float(v) for v in item["value_range"])
  if item["photometric"] == "MONOCHROME1":
    values = np.float32(low + high) - values
  slope, intercept = float(item["rescale_slope"]), float(item["rescale_intercept"])
  image = item["image"]
  ends = sorted(((low - intercept) / slope, (high - intercept) / slope))
  most = float(np.iinfo(image.dtype).max)
  least = max(0.0, min(ends[0], float(image.min())))
  levels = np.rint((values - np.float32(intercept)) / np.float32(slope))
  top = min(most, max(ends[1], float(image.max())))
  return np.clip(levels, np.ceil(least), np.floor(top)).astype(image.dtype)


def is_hounsfield(item: Mapping[str, Any]) -> bool:
  """Whether the values of a record are HU."""
  return item["physics"] == "ct" and not np.isclose(item["rescale_intercept"], 0.0)


def shown(image: np.ndarray, item_range: tuple[float, float], *, slope: float, intercept: float,
          inverted: bool) -> np.ndarray:  # fmt: skip
  """A stored image as a viewer shows it: f32[H, W, C] in [0, 1]."""
  low, high = item_range
  values = (image.astype(np.float32) * slope + intercept - low) / max(high - low, 1e-6)
  return np.clip(1.0 - values if inverted else values, 0.0, 1.0)
