"""Readers of box labels: YOLO text, COCO JSON and Pascal VOC XML, all to f32[N, 4] xyxy pixels.

Pixel i covers [i, i + 1) and boxes are half-open, so a box around the whole image is (0, 0, W, H).
A label file with one wrong box is refused as a whole: its other boxes are usually in wrong units,
too. Only an overhang of up to one pixel, which rounding and counting from 1 make, is clipped.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from scipy import ndimage

OVERHANG = 1.0  # pixels
MAX_FILE_BYTES = 1 << 30


class BadBoxes(ValueError):
  """Labels that are refused. The message is the reason, for a user; it names no file."""


def read_yolo(path: Path, width: int, height: int) -> np.ndarray:
  """Boxes f32[N, 4] of a YOLO text file, in its order; an empty file has no lesions.

  A line is `class cx cy w h [confidence]`, in shares of the image.

  Args:
    path: the label file.
    width: of the image, pixels.
    height: of the image, pixels.

  Raises:
    BadBoxes: with the number of the line.
  """
  boxes = []
  for number, line in enumerate(_text(path).splitlines(), start=1):
    fields = line.split()
    if not fields:
      continue
    where = f"line {number}"
    if len(fields) not in (5, 6):
      raise BadBoxes(f"{where} has {len(fields)} values; a YOLO box has 5: class cx cy w h")
    label, cx, cy, w, h = (_number(field, where) for field in fields[:5])
    if label < 0 or label != int(label):
      raise BadBoxes(f"{where} has the class {label:g}, which is not a whole number from 0")
    if max(abs(cx), abs(cy), abs(w), abs(h)) > 2.0:
      raise BadBoxes(f"{where} is not in shares of the image (0 to 1); are these pixels?")
    corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    box = [corner * size for corner, size in zip(corners, (width, height) * 2)]
    boxes.append(_inside(box, width, height, where))
  return _array(boxes)


def read_coco(path: Path) -> dict[str, np.ndarray]:
  """Boxes f32[N, 4] of a COCO file, by the `file_name` of the image; N = 0 without annotations.

  Args:
    path: the JSON file, with `images`, `annotations` and, for named classes, `categories`.

  Raises:
    BadBoxes: with the position of the annotation or image in its list.
  """
  text = _text(path)
  try:
    content = json.loads(text)
    images, annotations = list(content["images"]), list(content["annotations"])
    categories = {item["id"] for item in content.get("categories", [])}
    names = {item["id"]: str(item["file_name"]) for item in images}
    sizes = {item["id"]: (item["width"], item["height"]) for item in images}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise BadBoxes("is not COCO JSON with images (id, file_name, width, height) and "
                   "annotations") from None  # fmt: skip
  if len(names) < len(images) or len(set(names.values())) < len(images):
    raise BadBoxes("has two images of one id or one file name")
  whole = {key: (_size(w, "width"), _size(h, "height")) for key, (w, h) in sizes.items()}
  found: dict[Any, list[np.ndarray]] = {key: [] for key in names}
  for position, item in enumerate(annotations):
    where = f"annotation {position}"
    image, category = _ids(item)
    if image not in found:
      raise BadBoxes(f"{where} belongs to no image of the file")
    if categories and category not in categories:
      raise BadBoxes(f"{where} has an unknown category")
    if item.get("iscrowd"):
      raise BadBoxes(f"{where} is a crowd, not one lesion")
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
      raise BadBoxes(f"{where} has no bbox of four numbers")
    x, y, w, h = (_number(value, where) for value in box)
    found[image].append(_inside((x, y, x + w, y + h), *whole[image], where))
  return {name: _array(found[key]) for key, name in names.items()}


def _ids(annotation: object) -> tuple[Any, Any]:
  """(image id, category id) of an annotation; None for what cannot be an id."""
  if not isinstance(annotation, dict):
    return None, None
  found = (annotation.get("image_id"), annotation.get("category_id"))
  image, category = (key if isinstance(key, (str, int, float)) else None for key in found)
  return image, category


def read_voc(path: Path) -> np.ndarray:
  """Boxes f32[N, 4] of a Pascal VOC file with `size` and `object/bndbox`, in its order.

  Its pixels are counted from 1, the last one included, so (xmin, xmax) becomes [xmin - 1, xmax).
  The boxes of tools that count from 0 become one pixel larger to the left and top.

  Raises:
    BadBoxes: with the number of the object.
  """
  root = parse_xml(_text(path).encode())
  width = _size(root.findtext("size/width"), "width")
  height = _size(root.findtext("size/height"), "height")
  boxes = []
  for number, item in enumerate(root.findall("object"), start=1):
    where = f"object {number}"
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    xmin, ymin, xmax, ymax = (_number(corner, where) for corner in corners)
    boxes.append(_inside((xmin - 1, ymin - 1, xmax, ymax), width, height, where))
  return _array(boxes)


def check_boxes(
  boxes: Sequence[Sequence[float]] | np.ndarray, width: int, height: int
) -> np.ndarray:
  """Boxes f32[N, 4] in an image of `width` x `height`, an overhang of `OVERHANG` pixels clipped.

  Raises:
    BadBoxes: NaN, no area, inverted corners, or further outside than that.
  """
  corners = np.asarray(boxes, np.float64).reshape(-1, 4)
  inside = [_inside(box, width, height, f"box {n}") for n, box in enumerate(corners, start=1)]
  return _array(inside)


def tight_boxes(mask: np.ndarray) -> np.ndarray:
  """Boxes f32[N, 4] around the ids 1 to N of a mask [H, W]."""
  found = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(mask)]
  return np.array(found, np.float32).reshape(-1, 4)


def _array(boxes: list[np.ndarray]) -> np.ndarray:
  return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)


def _inside(box: Sequence[float] | np.ndarray, width: int, height: int, where: str) -> np.ndarray:
  """One box f32[4], clipped to its image."""
  corners = np.asarray(box, np.float64)
  limits = np.array([width, height, width, height], np.float64)
  if not np.isfinite(corners).all():
    raise BadBoxes(f"{where} is not finite")
  if corners[0] >= corners[2] or corners[1] >= corners[3]:
    raise BadBoxes(f"{where} has no area, or its corners are the wrong way round")
  if (corners < -OVERHANG).any() or (corners > limits + OVERHANG).any():
    raise BadBoxes(f"{where} lies outside the image of {width} x {height} pixels")
  clipped = np.clip(corners, 0.0, limits).astype(np.float32)
  if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
    raise BadBoxes(f"{where} has no area inside the image")
  return clipped


def parse_xml(data: bytes) -> ElementTree.Element:
  """The root of an XML document without a document type, and so without entities to expand.

  Raises:
    BadBoxes: not XML, or a document type declaration.
  """

  def refuse(*_: object) -> None:
    raise BadBoxes("is XML with a document type declaration, which is not read")

  parser = expat.ParserCreate()
  parser.StartDoctypeDeclHandler = refuse
  try:
    parser.Parse(data, True)
    return ElementTree.fromstring(data)
  except (expat.ExpatError, ElementTree.ParseError, ValueError, RecursionError) as error:
    if isinstance(error, BadBoxes):
      raise
    raise BadBoxes("is not well-formed XML") from None


def _text(path: Path) -> str:
  try:
    if path.stat().st_size > MAX_FILE_BYTES:
      raise BadBoxes(f"is larger than {MAX_FILE_BYTES >> 30} GB")
    return path.read_bytes().decode("utf-8-sig")
  except (OSError, UnicodeDecodeError):
    raise BadBoxes("cannot be opened as text") from None


def _number(value: object, where: str) -> float:
  if isinstance(value, (str, int, float)) and not isinstance(value, bool):
    try:
      number = float(value)
    except (ValueError, OverflowError):
      number = math.nan
    if math.isfinite(number):
      return number
  raise BadBoxes(f"{where} holds something that is not a finite number")


def _size(value: object, what: str) -> int:
  number = _number(value, f"the image's {what}")
  if number < 1 or number != int(number):
    raise BadBoxes(f"gives an image {what} of {number:g}")
  return int(number)
