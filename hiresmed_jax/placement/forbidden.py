"""Rules that find tissue in which no lesion of a kind can be, for images without drawn masks.

A rule is right most of the time. Its masks train the network of the route `danger`, which averages
out the errors of single images, and they are a start for correction by hand. benchmarks/danger.py
compares those of `abdomen` with corrected masks. H rows, W columns; lengths are shares of the
longer side, so that a rule holds at any resolution.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from hiresmed_jax import files
from hiresmed_jax.data import records, stored
from hiresmed_jax.placement.body import disc

_SOFT = (0.2, 0.7)  # shares of the shown range between which soft tissue lies
_STRAY = 0.008  # radius: thinner parts are a table, a cable, a letter
_GAP = 0.05  # of the height: gaps in the wall of the chest
_CUT = 0.02  # of the width: a body nearer to the border than this continues beyond it
_LEAN = 0.08  # of the width: how far the chest of a leaning body lies behind the waist
_REACH = 0.025  # distance of a rib from lung, at most
_WALL = 0.1  # of the width: depth of ribs in the side of the body, at most
_CLOSE = 0.013  # gaps of marrow inside bone
_LUNG = 0.008  # of the area: smaller parts are gas in bowel
_BLACK = 0.015  # of the range: lung is darker than this, fat is not
_TOP = 0.3  # of the height: lung of an abdominal view reaches above this
# Least areas of bone, shares of the image: a rib or a part at the border, and a part of the spine.
_RIB_AREA, _SPINE_AREA = 0.0002, 0.0004
_LOW, _PELVIS_AREA = 0.75, 0.004  # below this share of the height such parts are no stones
_BONE_AREA = 0.02  # larger than any stone


def abdomen(grey: np.ndarray) -> np.ndarray:
  """Bone and lung of a coronal CT slice of the abdomen, for stones.

  Bone is bright and large; stones are bright and small, or inside a kidney. A bright part is bone
  when it is larger than any stone, touches the border, lies beside lung or in the body's side (a
  rib), or belongs to the spine in the middle. Lung is black, large, reaches into the upper part and
  has tissue between itself and the border. It ends at half of the tissue's level and includes its
  vessels.

  Args:
    grey: f32[H, W] in [0, 1], an abdominal window, dense tissue bright.

  Returns:
    uint8[H, W], 1 where no stone can be.
  """
  soft = _soft_level(grey)
  tissue = grey > soft / 2
  left, right = _sides(tissue)
  lung = _lung(grey, tissue, left, right)
  return (_bone(grey, soft, lung, left, right) | lung).astype(np.uint8)


def _soft_level(grey: np.ndarray) -> float:
  """Grey of soft tissue: the most frequent one between fat and bone."""
  counts, edges = np.histogram(grey, bins=128, range=(0.0, 1.0))
  middle = (edges[:-1] + edges[1:]) / 2
  counts[(middle < _SOFT[0]) | (middle > _SOFT[1])] = 0
  return float(middle[counts.argmax()]) if counts.any() else sum(_SOFT) / 2


def _sides(tissue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distances of the body from the left and from the right border, pixels: f64[H] each."""
  solid = cv2.morphologyEx(tissue.astype(np.uint8), cv2.MORPH_OPEN, _disc(_STRAY, tissue)) > 0
  height, width = tissue.shape
  window = 2 * round(_GAP * height) + 1
  # Where the wall has a gap, the next organ is found instead: neighbouring rows correct it.
  left, right = (
    ndimage.minimum_filter1d(np.where(side.any(1), side.argmax(1), width), window).astype(float)
    for side in (solid, solid[:, ::-1])
  )
  # Lung that the border cuts open looks like air beside the body; the waist limits it.
  for beside in (left, right):
    waist = float(np.median(beside[round(0.4 * height) : round(0.6 * height)]))
    limit = waist + _LEAN * width if waist > _CUT * width else 0.0
    np.minimum(beside, limit, out=beside)
  return left, right


def _lung(grey: np.ndarray, tissue: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """bool[H, W]: lung with its vessels."""
  side, columns = max(grey.shape), np.arange(grey.shape[1])
  outside = (columns < left[:, None]) | (columns[::-1] < right[:, None])
  smooth = cv2.GaussianBlur(grey, (0, 0), max(0.5, 0.005 * side))
  dark = ((smooth < _BLACK) & ~outside).astype(np.uint8)
  # A thin layer of fat must not join lung and dark parts below it.
  black = cv2.morphologyEx(dark, cv2.MORPH_OPEN, _disc(0.01, grey))
  found = np.zeros(grey.shape, np.uint8)
  for part, area, (_, top, _, _) in _parts(black):
    if area >= _LUNG * grey.size and top <= _TOP * grey.shape[0]:
      found[part] = 1
  # Up to half of the tissue's level, but not into fat.
  grown = cv2.dilate(found, _disc(0.014, grey)) > 0
  lung = (found > 0) | (grown & ~tissue & ~outside)
  return lung | _islands(lung, 0.02 * lung.sum())


def _islands(mask: np.ndarray, limit: float) -> np.ndarray:
  """bool[H, W]: parts of less than `limit` pixels that the mask surrounds: vessels, marrow."""
  found = np.zeros(mask.shape, bool)
  for part, area, (left, top, right, bottom) in _parts((~mask).astype(np.uint8)):
    inner = left > 0 and top > 0 and right < mask.shape[1] and bottom < mask.shape[0]
    if inner and area < limit:
      found |= part
  return found


def _bone(
  grey: np.ndarray, soft: float, lung: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
  """bool[H, W]: bone with its marrow."""
  bright = (cv2.GaussianBlur(grey, (0, 0), 0.7) > (soft + 1.0) / 2).astype(np.uint8)
  joined = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, _disc(_CLOSE, grey))
  middle = _spine(joined)
  beside = cv2.dilate(lung.astype(np.uint8), _disc(_REACH, grey)) > 0
  height, width = grey.shape
  bone = np.zeros(grey.shape, bool)
  for part, area, (x1, y1, x2, y2) in _parts(joined):
    share, row = area / grey.size, (y1 + y2) // 2
    at_border = x1 <= 1 or y1 <= 1 or x2 >= width - 1 or y2 >= height - 1
    depth = min((x1 + x2) / 2 - left[row], width - (x1 + x2) / 2 - right[row])
    rib = depth < _WALL * width or (part & beside).sum() > 0.3 * area
    spine = (part & middle).any() and share > _SPINE_AREA
    pelvis = y1 > _LOW * height and share > _PELVIS_AREA
    if share > _BONE_AREA or ((at_border or rib) and share > _RIB_AREA) or spine or pelvis:
      bone |= part
  return bone | _islands(bone, 0.01 * bone.size)


def _spine(joined: np.ndarray) -> np.ndarray:
  """bool[H, W]: the spine and its sides: the largest part in the middle, discs closed."""
  height, width = joined.shape
  tall = np.ones((max(3, round(0.09 * height)) | 1, 3), np.uint8)
  closed = cv2.morphologyEx(np.pad(joined, 50), cv2.MORPH_CLOSE, tall)[50:-50, 50:-50]
  best, spine = 0.0, np.zeros(joined.shape, bool)
  for part, area, (left, top, right, bottom) in _parts(np.ascontiguousarray(closed)):
    middle = abs((left + right) / 2 - width / 2) < 0.2 * width
    if middle and bottom - top > 0.2 * height and area > best:
      best, spine = float(area), part
  across = np.ones((3, max(3, round(0.03 * width)) | 1), np.uint8)
  return cv2.dilate(spine.astype(np.uint8), across) > 0


def _parts(mask: np.ndarray) -> list[tuple[np.ndarray, int, tuple[int, int, int, int]]]:
  """Connected parts of uint8[H, W]: (bool[H, W], pixels, (left, top, right, bottom))."""
  count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
  found = []
  for i in range(1, count):
    x, y, w, h, area = (int(v) for v in stats[i])
    found.append((labels == i, area, (x, y, x + w, y + h)))
  return found


def _disc(share: float, image: np.ndarray) -> np.ndarray:
  return disc(max(1, round(share * max(image.shape))))


RULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"abdomen": abdomen}


def grey_of(item: Mapping[str, Any]) -> np.ndarray:
  """f32[H, W] in [0, 1] of an item of `records.Records`: the shown range, dense tissue bright."""
  low, high = (float(value) for value in item["value_range"])
  values = item["image"].mean(-1, dtype=np.float32)
  values = (item["rescale_slope"] * values + item["rescale_intercept"] - low) / (high - low)
  values = np.clip(values, 0.0, 1.0).astype(np.float32)
  return 1.0 - values if item["photometric"] == "MONOCHROME1" else values


def write(
  source: records.Source,
  folder: Path,
  rule: str,
  *,
  advance: Callable[[], None] = lambda: None,
) -> None:
  """Writes a rule's mask of every record that has none to `records.png_path`, one PNG an image.

  Files that exist are kept, so that a second call continues the first. `rule` is one of `RULES`;
  `advance` is called after every record.
  """
  for number in range(len(source)):
    item = source[number]
    path = records.png_path(folder, item["image_id"])
    if not item["forbidden_mask"].size and not path.is_file():
      files.write(path, stored.encode_png(RULES[rule](grey_of(item))))
    advance()
