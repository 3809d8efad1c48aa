"""Label files of common tools, one function a layout, all to `Label`.

Pixel i covers [i, i + 1) and boxes are half-open xyxy, so a box around the whole image is
(0, 0, W, H). `boxes_of` checks positions. One wrong box refuses the label: units are wrong then.
"""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np

from hiresmed_jax.data.readers.boxes import Label, Mark, fitted
from hiresmed_jax.data.readers.text import (
  BadBoxes,
  number_of,
  rows_of,
  size_of,
  text_of,
  xml_of,
)

OF_MANY = ("coco", "cvat", "labelstudio", "csv")  # a file labels many images
FORMATS = ("yolo", "voc", "labelme", *OF_MANY)
# What tools put beside labels, which is none.
BY_PRODUCTS = re.compile(
  r"(classes|obj|train|valid|val|test|notes|readme.*|predefined_classes|requirements|license.*)\.txt"
  r"|dataset_info\.json|dataset\.json|plans\.json|package\.json",
  re.IGNORECASE,
)


def yolo(path: Path, name: str, classes: Sequence[str]) -> list[Label]:
  """A YOLO text file: `class cx cy w h [confidence]` or `class x1 y1 x2 y2 x3 y3 ...`, in shares.

  Args:
    path: of the file. An empty one has no lesions.
    name: of the image.
    classes: names of the classes; a number beyond them is its own name.
  """
  marks, numbers = [], {title: number for number, title in enumerate(classes)}
  notes: tuple[str, ...] = ()
  for line_number, line in enumerate(text_of(path).splitlines(), start=1):
    fields = line.split()
    if not fields:
      continue
    where = f"line {line_number}"
    is_outline = len(fields) >= 7 and len(fields) % 2 == 1
    if len(fields) not in (5, 6) and not is_outline:
      raise BadBoxes(f"{where} has {len(fields)} values; a YOLO box has 5: class cx cy w h")
    label, *shares = (number_of(field, where) for field in fields)
    if label < 0 or label != int(label):
      raise BadBoxes(f"{where} has the class {label:g}, which is not a whole number from 0")
    if max(map(abs, shares if is_outline else shares[:4])) > 2.0:
      raise BadBoxes(f"{where} is not in shares of the image (0 to 1); are these pixels?")
    title = classes[int(label)] if label < len(classes) else str(int(label))
    numbers[title] = int(label)
    if is_outline:
      marks.append(Mark(title, None, where, [shares]))
    else:
      cx, cy, w, h = shares[:4]
      if len(shares) == 5:
        notes = ("has boxes with confidences: are they a model's?",)
      marks.append(Mark(title, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), where))
  return [Label(name, path, tuple(marks), in_shares=True, notes=notes, numbers=numbers)]


def voc(path: Path, name: str) -> list[Label]:
  """Pascal VOC, also of LabelImg and Roboflow: `size` and `object/bndbox`.

  Its pixels are counted from 1, the last one included, so (xmin, xmax) becomes [xmin - 1, xmax).
  The boxes of tools that count from 0 become one pixel larger to the left and top.
  """
  root = xml_of(path)
  size = tuple(size_of(root.findtext(f"size/{key}"), key) for key in ("width", "height"))
  marks = []
  for number, item in enumerate(root.findall("object"), start=1):
    where = f"object {number}"
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = (number_of(corner, where) for corner in corners)
    marks.append(Mark(item.findtext("name") or "", (x1 - 1, y1 - 1, x2, y2), where))
  own_name = root.findtext("filename") or ""
  return [Label(name, path, tuple(marks), (size[0], size[1]), own_name=own_name)]


def cvat(path: Path) -> list[Label]:
  """CVAT's "for images" XML: `image` with `box` or `polygon`. Marks `outside` are not in it."""
  labels, root = [], xml_of(path)
  if root.find("track") is not None:
    raise BadBoxes("holds tracks of a video, which are not read: export CVAT for images")
  for image in root.iter("image"):
    name = image.get("name", "")
    size = size_of(image.get("width"), "width"), size_of(image.get("height"), "height")
    marks, refused = [], ""
    notes: tuple[str, ...] = ()
    for number, item in enumerate(image, start=1):
      where, title = f"mark {number}", item.get("label", "")
      if item.get("outside") == "1":
        notes = ("has marks that CVAT calls outside of the image: they are not taken",)
      elif item.tag == "box":
        corners = [number_of(item.get(key), where) for key in ("xtl", "ytl", "xbr", "ybr")]
        marks.append(Mark(title, corners, where))
        refused = refused or ("turned boxes" if float(item.get("rotation", 0)) else "")
      elif item.tag == "polygon":
        points = re.split("[;,]", item.get("points", ""))
        marks.append(Mark(title, None, where, [[number_of(p, where) for p in points]]))
      elif item.tag != "tag":
        refused = f"marks of kind {item.tag}"
    refused = f"has {refused}, which are not read: export COCO" if refused else ""
    labels.append(Label(name, path, tuple(marks), size, refused=refused, notes=notes))
  return labels


def coco(path: Path) -> list[Label]:
  """COCO JSON: boxes, and instance masks as polygons or run lengths.

  An image without annotations is negative. A file with one wrong annotation is refused as a whole.
  """
  try:
    content = json.loads(text_of(path))
    images, annotations = list(content["images"]), list(content["annotations"])
    categories = list(content.get("categories") or ())
    classes = {item["id"]: str(item.get("name", item["id"])) for item in categories}
    names = {item["id"]: str(item["file_name"]) for item in images}
    sizes = {item["id"]: (item["width"], item["height"]) for item in images}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise BadBoxes("is not COCO JSON with images (id, file_name, width, height) and "
                   "annotations") from None  # fmt: skip
  if len(names) < len(images) or len(set(names.values())) < len(images):
    raise BadBoxes("has two images of one id or one file name")
  if len(classes) < len(categories):
    raise BadBoxes("has two categories of one id")
  whole = {key: (size_of(w, "width"), size_of(h, "height")) for key, (w, h) in sizes.items()}
  found: dict[Any, list[Mark]] = {key: [] for key in names}
  for position, item in enumerate(annotations):
    where = f"annotation {position}"
    image, category = _ids(item)
    if image not in found:
      raise BadBoxes(f"{where} belongs to no image of the file")
    if classes and category not in classes:
      raise BadBoxes(f"{where} has an unknown category")
    if item.get("iscrowd") and not isinstance(item.get("segmentation"), dict):
      raise BadBoxes(f"{where} is a crowd, not one lesion")
    box, outline = item.get("bbox"), item.get("segmentation") or None
    corners = None
    if box or not outline:
      if not isinstance(box, list) or len(box) != 4:
        raise BadBoxes(f"{where} has no bbox of four numbers")
      x, y, w, h = (number_of(value, where) for value in box)
      corners = (x, y, x + w, y + h)
      fitted(corners, *whole[image], where)
    title = classes.get(category, str(category))
    found[image].append(Mark(title, corners, where, _more_than(corners, outline)))
  _check_pixels(found, whole)
  numbers = {name: number for number, name in classes.items() if isinstance(number, int)}
  return [
    Label(name, path, tuple(found[key]), whole[key], numbers=numbers) for key, name in names.items()
  ]


def _more_than(corners: Sequence[float] | None, outline: Any) -> Any:
  """An outline, None where it is only the four corners of the box."""
  if corners is None or not isinstance(outline, list) or len(outline) != 1 or len(outline[0]) != 8:
    return outline
  xs, ys = outline[0][::2], outline[0][1::2]
  edges = np.array([min(xs), min(ys), max(xs), max(ys)])
  is_box = len(set(xs)) == len(set(ys)) == 2 and np.abs(edges - corners).max() <= 1
  return None if is_box else outline


def _check_pixels(found: Mapping[Any, list[Mark]], sizes: Mapping[Any, tuple[int, int]]) -> None:
  corners = np.array([m.corners for marks in found.values() for m in marks if m.corners])
  # A box of one pixel in the corner is in pixels.
  in_shares = corners.size and corners.max() <= 1.0 and (corners != np.rint(corners)).any()
  if in_shares and min(map(min, sizes.values())) > 2:
    raise BadBoxes("gives its boxes in shares of the image (0 to 1); COCO's are in pixels")


def _ids(annotation: object) -> tuple[Any, Any]:
  """(image id, category id) of an annotation; None for what cannot be an id."""
  if not isinstance(annotation, dict):
    return None, None
  found = (annotation.get("image_id"), annotation.get("category_id"))
  image, category = (key if isinstance(key, (str, int, float)) else None for key in found)
  return image, category


def labelstudio(path: Path) -> list[Label]:
  """Label Studio's JSON: tasks with rectangles and polygons in per cent. No result is negative.

  A task without any annotation, or a skipped one, is no label.
  """
  labels = []
  for task in json.loads(text_of(path)):
    data = task["data"] if isinstance(task.get("data"), dict) else {}
    texts = [text for text in data.values() if isinstance(text, str)]
    name = next((text for text in texts if "/" in text), "") or str(task.get("file_upload") or "")
    name = unquote((name or "".join(texts[:1])).rpartition("?d=")[2])
    done = [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]
    if not done:
      continue
    refused = f"has {len(done)} annotations of one image: export one" if len(done) > 1 else ""
    marks, size = [], None
    for number, result in enumerate(done[0].get("result", ()), start=1):
      where, value = f"result {number}", result.get("value", {})
      title = next((v[0] for k, v in value.items() if k.endswith("labels") and v), "")
      if value.get("rotation"):
        refused = "has turned boxes, which are not read"
      if {"x", "y", "width", "height"} <= value.keys():
        x, y, w, h = (number_of(value[k], where) / 100 for k in ("x", "y", "width", "height"))
        marks.append(Mark(title, (x, y, x + w, y + h), where))
      elif "points" in value:
        points = [number_of(v, where) / 100 for point in value["points"] for v in point]
        marks.append(Mark(title, None, where, [points]))
      elif result.get("type") not in ("choices", "textarea", "rating"):
        refused = f"has marks of kind {result.get('type')}, which are not read: export COCO"
      if result.get("original_width"):
        size = int(result["original_width"]), int(result["original_height"])
    labels.append(Label(name, path, tuple(marks), size, in_shares=True, refused=refused))
  return labels


def labelme(path: Path, name: str) -> list[Label]:
  """JSON of labelme and X-AnyLabeling: `shapes` of rectangles and polygons in pixels."""
  content = json.loads(text_of(path))
  marks, refused = [], ""
  for number, shape in enumerate(content["shapes"], start=1):
    where = f"shape {number}"
    points = [number_of(v, where) for point in shape["points"] for v in point]
    xs, ys, kind = points[::2], points[1::2], shape.get("shape_type", "polygon")
    corners = (min(xs), min(ys), max(xs), max(ys))
    if kind == "rectangle":
      marks.append(Mark(str(shape["label"]), corners, where))
    elif kind == "polygon":
      marks.append(Mark(str(shape["label"]), None, where, [points]))
    else:
      refused = f"has shapes of kind {kind}, which are not read"
  size = size_of(content.get("imageWidth"), "width"), size_of(content.get("imageHeight"), "height")
  own_name = str(content.get("imagePath") or "")
  return [Label(name, path, tuple(marks), size, refused=refused, own_name=own_name)]


def synthesized(path: Path) -> list[Label]:
  """A manifest of `synthesize`: lesions of each image and masks of `records/`; twins have none."""
  told = json.loads(text_of(path.parent / "request.json")).get("classes")
  numbers, title = told or ({"lesion": 0}, "lesion")
  labels = []
  for line in map(json.loads, text_of(path).splitlines()):
    record = json.loads(text_of(path.parent / "records" / f"{line['index']:06d}.json"))
    shape = line["height"], line["width"]
    marks = tuple(
      Mark(title, lesion["box"], f"lesion {lesion['id']}", {"size": shape, "counts": runs})
      for lesion, runs in zip(line["lesions"], record["runs"], strict=True)
    )
    for name, found in ((line["image"], marks), (line["twin"], ())):
      labels.append(Label(name, path, found, shape[::-1], numbers=numbers))
  return labels


_COLUMNS = {
  "image": ("image_id", "patientid", "image", "file_name", "filename", "img_name", "path"),
  "class": ("class_name", "label", "class", "target"),
  "x1": ("x_min", "xmin", "x1", "x"), "y1": ("y_min", "ymin", "y1", "y"),
  "x2": ("x_max", "xmax", "x2"), "y2": ("y_max", "ymax", "y2"),
  "w": ("width", "w"), "h": ("height", "h"),
}  # fmt: skip


def table(path: Path) -> list[Label]:
  """A CSV with a row a box, as VinDr-CXR (x_min ... y_max) and RSNA (x, y, width, height).

  A row without numbers, such as `No finding`, or with zeros alone, says that the image is negative.
  Width and height beside two corners are those of the image, where they are not the box's.
  """
  header, rows = rows_of(path)
  column = _columns(header)
  has_ends = "x2" in column
  found: dict[str, list[Mark]] = defaultdict(list)
  sizes: dict[str, tuple[int, int]] = {}
  for line, row in enumerate(rows, start=2):
    name = (row[column["image"]] or "").strip()
    where, marks = f"line {line}", found[name]
    keys = ("x1", "y1", "x2", "y2") if has_ends else ("x1", "y1", "w", "h")
    texts = [(row[column[key]] or "").strip() for key in keys]
    if not any(texts) or {text.lower() for text in texts} == {"nan"}:
      continue
    x, y, a, b = (number_of(text, where) for text in texts)
    if not any((x, y, a, b)):
      continue
    if has_ends and {"w", "h"} <= column.keys():
      w, h = (number_of(row[column[key]], where) for key in ("w", "h"))
      if abs(w - (a - x)) > 1 or abs(h - (b - y)) > 1:
        sizes[name] = size_of(w, "width"), size_of(h, "height")
    title = (row[column["class"]] or "").strip() if "class" in column else "lesion"
    marks.append(Mark(title, (x, y, a, b) if has_ends else (x, y, x + a, y + b), where))
  return [Label(n, path, tuple(dict.fromkeys(m)), sizes.get(n)) for n, m in found.items()]


def _columns(header: Iterable[str]) -> dict[str, str]:
  plain = {name.strip().lower().replace(" ", "_"): name for name in header}
  found = {}
  for key, names in _COLUMNS.items():
    name = next((name for name in names if name in plain), None)
    if name:
      found[key] = plain[name]
  return found


def format_of(path: Path) -> str | None:
  """The format of a label file by its suffix and content; None for what is no label."""
  suffix = path.suffix.lower()
  if BY_PRODUCTS.fullmatch(path.name):
    return None
  try:
    if suffix == ".txt":
      return "yolo" if _is_yolo(path) else None
    if suffix == ".xml":
      tag = xml_of(path).tag
      return {"annotation": "voc", "annotations": "cvat"}.get(tag)
    if suffix == ".json":
      return _json_format(json.loads(text_of(path)))
    if suffix == ".csv":
      columns = _columns(rows_of(path)[0])
      return "csv" if {"image", "x1", "y1"} <= columns.keys() else None
  except (BadBoxes, OSError, ValueError, RecursionError, ElementTree.ParseError, csv.Error):
    return None
  return None


def _is_yolo(path: Path) -> bool:
  """Whether a text file is empty or begins with a line of five numbers or more."""
  with path.open("rb") as file:
    start = file.read(1 << 12)
  is_wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
  lines = start.decode("utf-16" if is_wide else "utf-8-sig", "replace").split("\n")
  fields = next((line.split() for line in lines if line.strip()), None)
  try:
    return fields is None or (len(fields) >= 5 and all(map(math.isfinite, map(float, fields[:-1]))))
  except ValueError:
    return False


def _json_format(content: Any) -> str | None:
  if isinstance(content, dict):
    return "coco" if "images" in content else "labelme" if "shapes" in content else None
  if isinstance(content, list) and content and isinstance(content[0], dict):
    return "labelstudio" if "annotations" in content[0] and "data" in content[0] else None
  return None


def read(path: Path, kind: str, name: str, classes: Sequence[str] = ()) -> list[Label]:
  """The labels of one file.

  Args:
    path: of the file.
    kind: one of `FORMATS`.
    name: of the image, where a file labels one: its own path without the suffix.
    classes: names for YOLO's numbers.

  Raises:
    BadBoxes: a file of many images that cannot be used; a file of one image gives a refused label.
  """
  of_one: dict[str, Callable[[], list[Label]]] = {
    "yolo": lambda: yolo(path, name, classes),
    "voc": lambda: voc(path, name),
    "labelme": lambda: labelme(path, name),
  }
  of_many = {
    "manifest": synthesized, "coco": coco, "cvat": cvat, "labelstudio": labelstudio, "csv": table
  }  # fmt: skip
  try:
    return of_one[kind]() if kind in of_one else of_many[kind](path)
  except BadBoxes as error:
    if kind in of_one:
      return [Label(name, path, refused=str(error))]
    raise
  except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, csv.Error):
    reason = f"is no label file of the format {kind}"
    if kind in of_one:
      return [Label(name, path, refused=reason)]
    raise BadBoxes(reason) from None
