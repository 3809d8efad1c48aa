"""What is known of images beside their files: boxes, outlines and masks, by class."""

import collections
import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hiresmed_jax.data import label_checks, recognise
from hiresmed_jax.data.matching import ByImage
from hiresmed_jax.data.readers import layouts, mask_values, masks, volumes
from hiresmed_jax.data.readers.boxes import (
  Label,
  Mark,
  Outside,
  boxes_of,
  check_outline,
  outline_of,
  overlap,
)
from hiresmed_jax.data.readers.text import BadBoxes
from hiresmed_jax.data.sample import Misplaced, Sample, Unreadable
from hiresmed_jax.errors import UserError, printable

_EXIF_ORIENTATION = 0x0112


class Classes(NamedTuple):
  """Which classes are what. `lesion` None: every class that is nothing else."""

  lesion: frozenset[str] | None = None
  host: frozenset[str] = frozenset()
  forbidden: frozenset[str] = frozenset()

  def is_lesion(self, name: str) -> bool:
    """Whether a class is a lesion."""
    if self.lesion is not None:
      return name in self.lesion
    return name not in self.host | self.forbidden


def read_labels(files: Iterable[Path], kind: str | None, root: Path) -> list[Label]:
  """All labels of label files.

  Args:
    files: label files, and others of their folder.
    kind: one of `layouts.FORMATS`; None takes what each file is.
    root: folder that the names of the files are relative to.

  Raises:
    UserError: a file of many images that cannot be used, or outlines without pycocotools.
  """
  names_in = functools.lru_cache(None)(
    lambda folder: recognise.class_names([folder, *folder.parents[:3]])
  )
  labels = []
  for path in files:
    form = layouts.format_of(path) if kind is None or not path.is_file() else kind
    if form is None:
      continue
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    own = name[: -len(path.suffix)] if path.suffix else name
    classes = names_in(path.parent) if form == "yolo" else ()
    try:
      labels += layouts.read(path, form, own, classes)
    except BadBoxes as error:
      raise UserError(f"the {form} file {path} {error}") from error
    if classes and max(labels[-1].numbers.values(), default=0) >= len(classes):
      raise UserError(
        f"a label has the class {max(labels[-1].numbers.values())}, and there are names for 0 to "
        f"{len(classes) - 1}: do the numbers count from 1, or are the names of another set?"
      )
  outlined = any(mark.outline is not None for label in labels for mark in label.marks)
  if outlined and importlib.util.find_spec("pycocotools") is None:
    raise UserError(
      "the labels hold outlines, which need pycocotools: pip install 'hiresmed_jax[coco]'"
    )
  label_checks.check_order(labels)
  return labels


def class_counts(labels: Iterable[Label]) -> dict[str, int]:
  """Number of marks by class."""
  counts = collections.Counter(mark.name for label in labels for mark in label.marks)
  return dict(sorted(counts.items()))


def class_numbers(labels: Iterable[Label]) -> dict[str, int]:
  """The number of each class, as the label files say.

  Where they have none, or do not agree: the place in the alphabet, from 0.
  """
  found: dict[str, int] = {}
  names: set[str] = set()
  agree = True
  for label in labels:
    names.update(mark.name for mark in label.marks)
    for name, number in label.numbers.items():
      agree &= found.setdefault(name, number) == number
  agree &= len(set(found.values())) == len(found) and names <= found.keys()
  return (
    found if agree else {name: number for number, name in enumerate(sorted(names | found.keys()))}
  )


def choose(
  counts: Mapping[str, int],
  lesion: Sequence[str] = (),
  host: Sequence[str] = (),
  forbidden: Sequence[str] = (),
) -> Classes:
  """The classes that a user names, checked.

  Args:
    counts: of `class_counts`.
    lesion: names; none takes the one class that is left.
    host: where lesions may live.
    forbidden: where no lesion can be.

  Raises:
    UserError: a name that no label has, or several classes are left and none is named.
  """
  listed = ", ".join(f"{name or '(no name)'} ({count})" for name, count in counts.items())
  for name in (*lesion, *host, *forbidden):
    if name not in counts:
      raise UserError(f"no label has the class {name!r}; there are: {listed or 'none'}")
  chosen = Classes(frozenset(lesion) or None, frozenset(host), frozenset(forbidden))
  left = [name for name in counts if chosen.is_lesion(name)]
  if not lesion and len(left) > 1:
    raise UserError(
      f"the labels have several classes: {listed}. Name the lesion with --lesion-class NAME "
      "(and others with --host-class, --forbidden-class)"
    )
  return chosen


@dataclasses.dataclass(frozen=True)
class Annotations:
  """Facts of the images that are not in their files.

  Attributes:
    root: folder of the images.
    labels: `Label` by image.
    classes: which classes are what.
    lesion_masks: file by image; one label a lesion, or one for all. Of volumes: label maps.
    host_masks: file by image, nonzero where lesions may live.
    forbidden_masks: file by image, nonzero where no lesion can be.
    mask_values: one of `mask_values.MEANINGS`: what the values of lesion masks mean.
    odd_masks: improbable lesion masks are right.
    map_names: classes of the values of label maps; a value without one is its own name.
    axis: how volumes are sliced.
    physics: replaces that of the reader; "" keeps it.
    spacing_mm: (row, column) of images without one.
  """

  root: Path = Path()
  labels: ByImage = dataclasses.field(default_factory=dict)
  classes: Classes = dataclasses.field(default_factory=Classes)
  lesion_masks: ByImage = dataclasses.field(default_factory=dict)
  host_masks: ByImage = dataclasses.field(default_factory=dict)
  forbidden_masks: ByImage = dataclasses.field(default_factory=dict)
  mask_values: str = "auto"
  odd_masks: bool = False
  map_names: Mapping[int, str] = dataclasses.field(default_factory=dict)
  axis: str = "axial"
  physics: str = ""
  spacing_mm: tuple[float, float] = (math.nan, math.nan)

  def add_to(self, sample: Sample, image: str) -> Sample:
    """The sample with these facts; `image` is the path of its file below the image folder.

    Raises:
      Unreadable: labels that are refused, or a mask that does not fit.
      UserError: label maps of several classes, and none is named.
    """
    found: dict[str, Any] = {}
    for name, files in (("host_mask", self.host_masks), ("forbidden_mask", self.forbidden_masks)):
      if (mask := self._mask(files, sample, image)) is not None:
        found[name] = (mask > 0).astype(np.uint8)
    boxes = sample.boxes
    label = _of_page(self.labels, sample, image, "label")
    if label is not None:
      found |= self._of_label(label, sample, image)
      boxes = found["boxes"]
    mask, other = self._lesions(sample, image)
    if mask is not None:
      found = other | found
      found["lesion_mask"], found["boxes"] = masks.match(mask, boxes)
      found["labelled"] = True
      if label is not None and len(found["boxes"]) > len(boxes):
        notes = found.get("notes", sample.notes)
        found["notes"] = (*notes, "has lesions in its mask that its label lacks: each gets a box")
    if self.physics:
      found["physics"] = self.physics
    if not np.isfinite(sample.spacing_mm).all():
      found["spacing_mm"] = self.spacing_mm
    return dataclasses.replace(sample, **found)

  def goes_beyond(self, image: str, pages: int) -> bool:
    """Whether a label or a mask is of a page, frame or slice that an image does not hold."""
    own = (self.labels, self.lesion_masks, self.host_masks, self.forbidden_masks)
    return any((page or 0) >= pages for items in own for page in items.get(image, {}))

  def _of_label(self, label: Label, sample: Sample, image: str) -> dict[str, Any]:
    height, width = sample.image.shape[:2]
    turn, notes = 1, list(label.notes)
    if label.refused:
      raise Unreadable(f"has a label file that {label.refused}")
    if label.size and label.size != (width, height):
      turn = _orientation(self.root / image)
      if turn < 5 or label.size != (height, width):
        raise Unreadable(
          f"has a label for an image of {label.size[0]} x {label.size[1]} pixels and not of "
          f"{width} x {height}: was one of them resized?"
        )
      width, height = height, width
      notes.append("is turned by its EXIF tag, and its label with it")
    try:
      found = self._drawn(label, width, height, notes)
    except BadBoxes as error:
      kind = Misplaced if isinstance(error, Outside) else Unreadable
      raise kind(f"has a label file that {error}") from error
    if turn > 1:
      for name in found.keys() - {"boxes"}:
        found[name] = _turned(found[name], turn)
      found["boxes"] = _turned_boxes(found["boxes"], turn, width, height)
    return found | {"labelled": True, "notes": (*sample.notes, *notes)}

  def _drawn(self, label: Label, width: int, height: int, notes: list[str]) -> dict[str, Any]:
    """Boxes and masks of a label in its own pixels."""
    wanted = [mark for mark in label.marks if self.classes.is_lesion(mark.name)]
    boxes = boxes_of(label, wanted, width, height)
    _, kept = np.unique(boxes, axis=0, return_index=True)
    if len(kept) < len(boxes):
      notes.append("has boxes that are given twice: each is taken once")
      wanted = [wanted[n] for n in sorted(kept)]
      boxes = boxes[np.sort(kept)]
    if overlap(boxes):
      notes.append("has boxes that overlap by more than half: several readers of one lesion?")
    found: dict[str, Any] = {"boxes": boxes}
    scale = (width, height) if label.in_shares else (1, 1)
    if any(mark.outline is not None for mark in wanted):
      ids = np.zeros((height, width), np.uint16)
      for number, mark in enumerate(wanted, start=1):
        if mark.outline is not None:
          drawn = outline_of(mark, height, width, scale)
          if mark.corners is not None:
            check_outline(drawn, boxes[number - 1], mark.where)
          ids[drawn] = number
      found["lesion_mask"] = ids
    for name, classes in (
      ("host_mask", self.classes.host),
      ("forbidden_mask", self.classes.forbidden),
    ):
      marks = [mark for mark in label.marks if mark.name in classes]
      if classes:
        found[name] = _filled(label, marks, width, height, scale)
    return found

  def _of_map(self, mask: np.ndarray) -> dict[str, np.ndarray]:
    """{"lesions": their connected parts, host_mask, forbidden_mask} of a slice of a label map."""
    names = {int(v): self.map_names.get(int(v), str(int(v))) for v in np.unique(mask[mask != 0])}
    chosen = self.classes
    if chosen.lesion is None and len([n for n in names.values() if chosen.is_lesion(n)]) > 1:
      choose(dict.fromkeys(names.values(), 1))  # raises: it lists them
    kinds: tuple[tuple[str, Callable[[str], bool]], ...] = (
      ("lesions", chosen.is_lesion),
      ("host_mask", chosen.host.__contains__),
      ("forbidden_mask", chosen.forbidden.__contains__),
    )
    found = {
      kind: np.isin(mask, [v for v, name in names.items() if fits(name)]).astype(np.uint8)
      for kind, fits in kinds
    }
    return {k: v for k, v in found.items() if k == "lesions" or getattr(chosen, k.split("_")[0])}

  def _mask(
    self, files: ByImage, sample: Sample, image: str, meaning: str = "auto"
  ) -> np.ndarray | None:
    """Labels int32[H, W] of an image's mask, None if there is none."""
    pages, page, shape = files.get(image, {}), _page(sample, image), sample.image.shape[:2]
    path = pages.get(None)
    if path is not None and (page is not None or _is_volume(path)):
      slices = masks.slices(path, self.root / image, self.axis)
      if page is None and len(slices) == 1:
        page = 0
      if page is None or page >= len(slices):
        raise Unreadable("has a mask of another number of pages or slices")
      mask = slices[page]
      if mask.shape != shape:
        raise Unreadable(f"has a mask of another size ({mask.shape[1]} x {mask.shape[0]})")
      return mask
    path = _of_page(files, sample, image, "mask")
    return None if path is None else mask_values.read(path, shape, meaning=meaning)

  def _lesions(self, sample: Sample, image: str) -> tuple[np.ndarray | None, dict[str, Any]]:
    """(one label a lesion of the image's mask, other masks that its label map holds)."""
    mask = self._mask(self.lesion_masks, sample, image, self.mask_values)
    if mask is None:
      return None, {}
    path = next(iter(self.lesion_masks[image].values()))
    name, other = printable(path.name), {}
    if _is_volume(path) or self.map_names:
      other = self._of_map(mask)
      mask = other.pop("lesions")
    elif self.mask_values == "auto":
      mask_values.check_ids(mask, name)
    if self.mask_values != "ids":
      mask = mask_values.instances(mask)
    if not self.odd_masks:
      mask_values.check_plausible(mask, name)
    return mask, other


def _is_volume(path: Path) -> bool:
  return path.name.lower().endswith(volumes.SUFFIXES)


def _page(sample: Sample, image: str) -> int | None:
  _, _, page = sample.source[len(image) :].rpartition("#")
  return int(page) if page.isdecimal() else None


def _of_page(items: ByImage, sample: Sample, image: str, what: str) -> Any:
  pages, page = items.get(image, {}), _page(sample, image)
  if page is not None and None in pages:
    raise Unreadable(
      f"holds several pages, frames or slices and its {what} does not say which it is of: name the "
      f"{what} NAME#0 for the first, NAME#1 for the second"
    )
  return pages.get(page, pages.get(0) if page is None else None)


def _orientation(path: Path) -> int:
  """The EXIF orientation of a picture, 1 to 8; 1 where it has none."""
  try:
    with Image.open(path) as image:
      turn = image.getexif().get(_EXIF_ORIENTATION, 1)
  except (OSError, ValueError):
    return 1
  return turn if turn in range(1, 9) else 1


def _turned(mask: np.ndarray, turn: int) -> np.ndarray:
  """A mask as `ImageOps.exif_transpose` turns its picture; 5 to 8 swap rows and columns."""
  flipped = {5: mask, 6: mask[::-1], 7: mask[::-1, ::-1], 8: mask[:, ::-1]}[turn]
  return np.ascontiguousarray(flipped.T)


def _turned_boxes(boxes: np.ndarray, turn: int, width: int, height: int) -> np.ndarray:
  x1, y1, x2, y2 = boxes.T
  if turn in (7, 8):
    x1, x2 = width - x2, width - x1
  if turn in (6, 7):
    y1, y2 = height - y2, height - y1
  return np.stack([y1, x1, y2, x2], axis=1).astype(np.float32)


def _filled(
  label: Label, marks: Sequence[Mark], width: int, height: int, scale: tuple[float, float]
) -> np.ndarray:
  """uint8[H, W], 1 in the outlines of marks, or in their boxes."""
  mask = np.zeros((height, width), np.uint8)
  boxes = np.rint(boxes_of(label, marks, width, height)).astype(int)
  for mark, (x1, y1, x2, y2) in zip(marks, boxes):
    if mark.outline is not None:
      mask[outline_of(mark, height, width, scale)] = 1
    else:
      mask[y1:y2, x1:x2] = 1
  return mask
