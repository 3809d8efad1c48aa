"""What a folder holds for other programs: grey levels as a person sees them, classes, real images.

level = round((value - low) / (high - low) * top), turned for MONOCHROME1, so that dense is bright
in every file; top is 255 or 65,535, and (low, high) is one window for the whole set.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records, stored, writers
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas, contents
from hiresmed_jax.synthesis.request import Request

_LEAST_SHARE = 0.25  # of the window that each image's own range must fill: 64 of 256 levels
_REAL = "real"


class Look(NamedTuple):
  """How values become grey levels of a PNG.

  Attributes:
    bits: 8 or 16.
    window: (low, high), rescaled units; None: the display range of each image.
  """

  bits: int = 8
  window: tuple[float, float] | None = None


def look_of(request: Request, *sources: records.Records) -> Look:
  """The look of a request: by default the window that holds the display range of every image.

  Raises:
    UserError: through that window one of the images would have few grey levels.
  """
  if request.window == "own" or request.format != "png":
    return Look(request.depth)
  if isinstance(request.window, tuple):
    return Look(request.depth, request.window)
  ranges = set().union(*(source.display_ranges() for source in sources))
  low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
  narrow = min(ranges, key=lambda ends: ends[1] - ends[0])
  if narrow[1] - narrow[0] < _LEAST_SHARE * (high - low):
    raise UserError(
      f"no one window shows all images well: their display ranges reach from {low:g} to {high:g}, "
      f"and one is {narrow[0]:g} to {narrow[1]:g}; choose --window LOW,HIGH for all, or --window "
      "own for the range of each image"
    )
  return Look(request.depth, (low, high))


def few_levels(depth: int, bits: int) -> str:
  """A line where PNGs have more bits than the dataset, and so no more grey levels; else ""."""
  if depth <= bits:
    return ""
  return f"--depth {depth}: the images have {bits} bits, and show at most {1 << bits:,} grey levels"


def levels(image: np.ndarray, item: Mapping[str, Any], look: Look) -> np.ndarray:
  """Grey levels uint8|uint16 [H, W, C] of stored values.

  Args:
    image: uint8|uint16 [H, W, C].
    item: the record that it belongs to.
    look: the window and the bits.
  """
  share = canvas.shown(
    image,
    _window(item, look),
    slope=float(item["rescale_slope"]),
    intercept=float(item["rescale_intercept"]),
    inverted=item["photometric"] == "MONOCHROME1",
  )
  return np.rint(share * ((1 << look.bits) - 1)).astype(np.uint8 if look.bits == 8 else np.uint16)


def units(item: Mapping[str, Any], look: Look) -> dict[str, Any]:
  """For the manifest: rescaled value = slope * level + intercept, and what else a reader needs."""
  low, high = _window(item, look)
  inverted = item["photometric"] == "MONOCHROME1"
  step = (high - low) / ((1 << look.bits) - 1)
  return {
    "bits": look.bits,
    "window": [low, high],
    "slope": -step if inverted else step,
    "intercept": high if inverted else low,
    "unit": "HU" if canvas.is_hounsfield(item) else "rescaled",
    "physics": item["physics"],
  }


def _window(item: Mapping[str, Any], look: Look) -> tuple[float, float]:
  low, high = look.window or item["value_range"]
  return float(low), float(high)


def classes_of(card: Mapping[str, Any]) -> tuple[writers.Classes, str]:
  """(the classes of a prepared dataset with their numbers, a line about what they do not tell).

  Records do not keep apart the classes that were joined as lesions: these become one, "lesion".
  """
  source = card["source"]
  numbers, lesions = dict(source.get("class_numbers", {})), source.get("lesion_classes", [])
  if len(lesions) == 1 and lesions[0] in numbers:
    return writers.Classes(numbers, lesions[0], coco=source["labels_format"] == "coco"), ""
  if len(lesions) < 2:
    return writers.ONE_CLASS, ""
  joined = f"the labels call all lesions {writers.CATEGORY!r}: the classes {', '.join(lesions)} "
  return writers.ONE_CLASS, joined + "were joined when the dataset was prepared"


def real_images(
  root: Path, training_groups: frozenset[str], used: frozenset[str] = frozenset()
) -> records.Records:
  """The labelled images of the validation split of a prepared dataset.

  Raises:
    UserError: it has none, or a patient of the training images is among them, or one of the images
      whose digests are `used`.
  """
  dataset = records.open_dataset(root)
  source = records.source(dataset, "val").labelled()
  if not len(source):
    raise UserError(f"--with-real {root}: no labelled image of the validation split")
  shared = {
    item["group"]
    for item in source.without_masks()
    if item["group"] in training_groups or (used and contents.digest_of(item["image"]) in used)
  }
  if shared:
    raise UserError(
      f"--with-real {root}: {len(shared)} of its patients are training patients of this run; their "
      "images would validate what was made of them"
    )
  return source


def write_real(out: Path, source: records.Records, look: Look, classes: writers.Classes, *,
               layout: str) -> None:  # fmt: skip
  """Writes real images and labels for validation, `real/` in an output folder."""
  entries, number_of_class = [], classes.yolo()[classes.lesion]
  for number, item in enumerate(source):
    name, (height, width) = f"{number:06d}", item["image"].shape[:2]
    boxes = [tuple(map(float, box)) for box in item["boxes"]]
    if layout == "ultralytics":
      text = writers.yolo_labels(boxes, height=height, width=width, number=number_of_class)
      files.write(out / _REAL / "labels" / f"{name}.txt", text)
    shown = stored.encode_png(levels(item["image"], item, look))
    files.write(out / _REAL / "images" / f"{name}.png", shown)
    lesions = []
    for index, box in enumerate(boxes, start=1):
      mask = item["lesion_mask"] == index
      known = {"counts": writers.run_lengths(mask), "area": int(mask.sum())} if mask.any() else {}
      lesions.append({"box": box} | known)
    entries.append(
      {"id": number, "file_name": f"{name}.png", "height": height, "width": width}
      | {"lesions": lesions}
    )
  files.write(out / _REAL / "annotations.json", writers.coco(entries, classes, made=False))


def require_seen(
  image: np.ndarray,
  twin: np.ndarray,
  mask: np.ndarray,
  count: int,
  item: Mapping[str, Any],
  look: Look,
  *,
  form: str,
) -> None:
  """Raises UserError where one of `count` lesions is less than a level.

  That is one of 255 grey levels in a PNG, and a stored one in other files.
  """
  if form != "png":
    if any(np.array_equal(image[mask == n], twin[mask == n]) for n in range(1, count + 1)):
      raise UserError("a lesion is less than one stored level: use another --seed")
    return
  ids = mask[mask > 0]
  shown = [levels(one[mask > 0][None], item, look) for one in (image, twin)]
  share = np.abs(shown[0].astype(np.float32) - shown[1]).max(axis=-1)[0] / ((1 << look.bits) - 1)
  for number in range(1, count + 1):
    if share[ids == number].mean() < 1 / 255:
      raise UserError(
        f"lesion {number} is less than one grey level in the window that is shown: choose "
        "--window LOW,HIGH, or another --seed"
      )
