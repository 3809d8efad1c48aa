"""Boxes drawn by others: YOLO text, COCO JSON, Pascal VOC XML, all to f32[N, 4] xyxy pixels.

Pixel i covers [i, i + 1) and boxes are half-open, so a box around the whole image is (0, 0, W, H).
A label file is believed or refused, never repaired in silence: one wrong box usually means that
the whole file is meant in other units. Only an overhang of up to one pixel, which rounding and
counting from 1 make, is clipped.
"""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

OVERHANG = 1.0  # pixels
MAX_FILE_BYTES = 1 << 30


class BadBoxes(ValueError):
  """Labels that cannot be believed. The message is the reason, for a user; it names no file."""


def read_yolo(
  path: Path, width: int, height: int, *, classes: Collection[int] | None = None
) -> np.ndarray:
  """Boxes of a YOLO text file, `class cx cy w h [confidence]` a line in shares of the image.

  Args:
    path: the label file; an empty one means an image without lesions.
    width: of the image, pixels.
    height: of the image, pixels.
    classes: class numbers that may occur; None lets every whole number from 0 pass.

  Returns:
    f32[N, 4] xyxy pixels in the file's order.

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
    if classes is not None and int(label) not in classes:
      raise BadBoxes(f"{where} has the unknown class {int(label)}")
    if max(abs(cx), abs(cy), abs(w), abs(h)) > 2.0:
      raise BadBoxes(f"{where} is not in shares of the image (0 to 1); are these pixels?")
    corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    box = [corner * size for corner, size in zip(corners, (width, height) * 2)]
    boxes.append(_inside(box, width, height, where))
  return _array(boxes)


def read_coco(path: Path, *, classes: Collection[str] | None = None) -> dict[str, np.ndarray]:
  """Boxes of a COCO file, by the image's `file_name` as it is written there.

  Args:
    path: the JSON file, with `images`, `annotations` and, for named classes, `categories`.
    classes: category names that may occur; None lets every declared category pass.

  Returns:
    {file name: f32[N, 4] xyxy pixels}; an image without annotations has N = 0.

  Raises:
    BadBoxes: with the position of the annotation or image in its list.
  """
  text = _text(path)
  try:
    content = json.loads(text)
    images, annotations = list(content["images"]), list(content["annotations"])
    categories = {item["id"]: str(item["name"]) for item in content.get("categories", [])}
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
    if classes is not None and categories.get(category) not in classes:
      raise BadBoxes(f"{where} has a category that was not asked for")
    if item.get("iscrowd"):
      raise BadBoxes(f"{where} is a crowd, not one lesion")
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
      raise BadBoxes(f"{where} has no bbox of four numbers")
    x, y, w, h = (_number(value, where) for value in box)
    found[image].append(_inside((x, y, x + w, y + h), *whole[image], where))
  return {name: _array(found[key]) for key, name in names.items()}


def _ids(annotation: object) -> tuple[Any, Any]:
  """(image id, category id), None in the place of what can be neither."""
  if not isinstance(annotation, dict):
    return None, None
  found = (annotation.get("image_id"), annotation.get("category_id"))
  image, category = (key if isinstance(key, (str, int, float)) else None for key in found)
  return image, category


def read_voc(path: Path, *, classes: Collection[str] | None = None) -> np.ndarray:
  """Boxes of a Pascal VOC file: whole pixels counted from 1, the last one included.

  So (xmin, xmax) becomes [xmin - 1, xmax). Tools that count from 0 write boxes that come out one
  pixel larger to the left and top, which is clipped at the border.

  Args:
    path: the XML file, with `size` and `object/bndbox`.
    classes: object names that may occur; None lets every name pass.

  Returns:
    f32[N, 4] xyxy pixels in the file's order.

  Raises:
    BadBoxes: with the number of the object.
  """
  root = parse_xml(_text(path).encode())
  width = _size(root.findtext("size/width"), "width")
  height = _size(root.findtext("size/height"), "height")
  boxes = []
  for number, item in enumerate(root.findall("object"), start=1):
    where = f"object {number}"
    name = (item.findtext("name") or "").strip()
    if classes is not None and name not in classes:
      raise BadBoxes(f"{where} has an unknown class")
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    xmin, ymin, xmax, ymax = (_number(corner, where) for corner in corners)
    boxes.append(_inside((xmin - 1, ymin - 1, xmax, ymax), width, height, where))
  return _array(boxes)


def check_boxes(
  boxes: Sequence[Sequence[float]] | np.ndarray, width: int, height: int
) -> np.ndarray:
  """Boxes that lie in an image, an overhang of up to `OVERHANG` pixels clipped.

  Args:
    boxes: N rows of xyxy pixels.
    width: of the image they are said to belong to; call again with the true size of the file.
    height: likewise.

  Returns:
    f32[N, 4].

  Raises:
    BadBoxes: NaN, no area, inverted corners, or further outside than that.
  """
  corners = np.asarray(boxes, np.float64).reshape(-1, 4)
  inside = [_inside(box, width, height, f"box {n}") for n, box in enumerate(corners, start=1)]
  return _array(inside)


def _array(boxes: list[np.ndarray]) -> np.ndarray:
  return np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)


def _inside(box: Sequence[float] | np.ndarray, width: int, height: int, where: str) -> np.ndarray:
  """f32[4]: one box, clipped to the image it lies in."""
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
