"""What is asked for: plain values, checked before anything is read or compiled."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiresmed_jax.errors import UserError
from hiresmed_jax.ops import insertion

BACKGROUNDS = ("reconstruction", "real")
FORMATS = ("png", "dicom")
DEPTHS = (8, 16)
LAYOUTS = ("ultralytics", "coco", "nnunet")
MASKS = ("forbidden", "allowed")
SOURCES = ("singan", "copy", "parametric")
ON_EMPTY = ("fail", "copy", "parametric")
LARGEST_BATCH = 256
BATCH_HELP = (
  "images that go through the model at a time on each device; another number rounds differently (1)"
)


class Diameter(NamedTuple):
  """A range of diameters; `unit` is "mm" or "px" (of the output)."""

  low: float
  high: float
  unit: str


class Request(NamedTuple):
  """One request; every field but `num`, `shard` is part of what makes an image what it is.

  Attributes:
    num: images 0 .. num - 1.
    lesions: (least, most) in an image; None: as many as a training image with lesions has, drawn
      for each image, or one for each point of `at`.
    diameter: `Diameter`; None: as the lesions come.
    at: (x, y) in output pixels, of the first lesions of every image.
    background: "reconstruction" by the trained model, or the "real" pixels of a training image.
    seed: of all randomness.
    blend: one of `insertion.MODES`; None: the one for the images' physics.
    format: of files, "png" or "dicom".
    paper: placement and insertion as in the paper.
    shard: (i, n): this run makes the images i, i + n, ...
    shams: unlabelled insertions of lesion-free content in each image.
    mask: (image file, "forbidden" or "allowed"): what its pixels above 0 are for lesions.
    source: of lesions: the trained bank ("singan"), copied training lesions ("copy"), or a formula
      fitted to them ("parametric").
    backgrounds: image i is made on background i modulo this; None: each draws its own.
    on_empty: where the bank gives no lesion: "fail", or take one of another source.
    depth: bits of PNG.
    window: (low, high) in rescaled units that PNG show, "own": each image's own display range;
      None: one window that holds those of all.
    layout: whose folder it is: of "ultralytics", "coco", "nnunet".
    batch: reconstructions that go through the model at a time, on each device; threads bring them,
      so that in Python, where images are made one after another, 1 is the fastest.
  """

  num: int
  lesions: tuple[int, int] | None = None
  diameter: Diameter | None = None
  at: tuple[tuple[float, float], ...] = ()
  background: str = "reconstruction"
  seed: int = 0
  blend: str | None = None
  format: str = "png"
  paper: bool = False
  shard: tuple[int, int] = (0, 1)
  shams: int = 0
  mask: tuple[Path, str] | None = None
  source: str = "singan"
  backgrounds: int | None = None
  on_empty: str = "fail"
  depth: int = 8
  window: tuple[float, float] | str | None = None
  layout: str = "ultralytics"
  batch: int = 1

  def identity(self) -> dict[str, Any]:
    """What images already made must agree on, for JSON."""
    values = self._asdict()
    # Folders of older versions do not hold what was added later, unless it is asked for.
    later = {"backgrounds": None, "on_empty": "fail", "batch": 1}
    for key in ("num", "shard", *(key for key, none in later.items() if values[key] == none)):
      del values[key]
    values["diameter"] = list(self.diameter) if self.diameter else None
    values["mask"] = [str(self.mask[0]), self.mask[1]] if self.mask else None
    return values

  def indices(self) -> range:
    """The images of this shard."""
    first, step = self.shard
    return range(first, self.num, step)


def window(text: str | None) -> tuple[float, float] | str | None:
  """Reads "own" or "LOW,HIGH" of a command line."""
  if text is None or text == "own":
    return text
  try:
    low, high = map(float, text.split(","))
  except ValueError:
    raise UserError(f"--window {text}: write LOW,HIGH, or own") from None
  return low, high


def checked(request: Request) -> Request:
  """The same request with one lesion for each point where no number is given.

  Raises:
    UserError: a value out of its range, or two wishes that exclude each other.
  """
  for name in ("num", "seed", "shams", "backgrounds", "batch", "lesions"):
    value = getattr(request, name)
    numbers = value if name == "lesions" else (value,)
    if value is not None and not all(isinstance(one, int | np.integer) for one in numbers):
      raise UserError(f"{name}={value!r}: use whole numbers")
  points = len(request.at)
  low, high = request.lesions or (points, max(points, 1))
  blends = (None, *insertion.MODES)
  known: dict[str, Any] = {
    "background": BACKGROUNDS,
    "source": SOURCES,
    "format": FORMATS,
    "blend": blends,
  }
  known |= {"on_empty": ON_EMPTY, "depth": DEPTHS, "layout": LAYOUTS}
  for name, words in known.items():
    if getattr(request, name) not in words:
      raise UserError(f"{name}={getattr(request, name)!r}: use {', '.join(map(repr, words))}")
  if low < 0 or high < 1:
    raise UserError(
      f"--lesions {high}: ask for 1 or more, or for a range such as 0-3; every image has a "
      "lesion-free twin beside it"
    )
  if low > high:
    raise UserError(f"--lesions {low}-{high}: the first number must not be above the second")
  if points > low:
    raise UserError(
      f"{points} points are given with --at, but --lesions allows {low} in an image: "
      f"use --lesions {points} or more"
    )
  if request.diameter:
    least, most, unit = request.diameter
    if unit not in ("mm", "px") or not 0 < least <= most < math.inf:
      raise UserError(
        f"--diameter-{unit} {least:g}-{most:g}: use numbers above 0 in mm or px, the first not "
        "above the second"
      )
  if request.num < 1:
    raise UserError(f"--num {request.num}: ask for 1 image or more")
  if request.backgrounds is not None and request.backgrounds < 1:
    raise UserError(f"--backgrounds {request.backgrounds}: ask for 1 or more")
  if not 1 <= request.batch <= LARGEST_BATCH:
    raise UserError(f"--batch {request.batch}: use 1 to {LARGEST_BATCH}")
  if request.batch > 1 and request.background != "reconstruction":
    raise UserError("--batch is for --background reconstruction: leave it out")
  if request.on_empty != "fail" and request.source != "singan":
    raise UserError(
      f"--on-empty {request.on_empty} is for --lesion-source singan: leave out one of the two"
    )
  if request.shams < 0:
    raise UserError(f"--shams {request.shams}: use 0 or more")
  if not 0 <= request.seed < 2**32:
    raise UserError(f"--seed {request.seed}: use 0 to {2**32 - 1}")
  if request.mask and request.mask[1] not in MASKS:
    raise UserError(f"--mask: its pixels are {' or '.join(MASKS)}, not {request.mask[1]!r}")
  if request.mask and not request.mask[0].is_file():
    raise UserError(f"--mask {request.mask[0]} is not a file")
  if request.window not in (None, "own"):
    ends = request.window
    if isinstance(ends, str) or not -math.inf < ends[0] < ends[1] < math.inf:
      raise UserError(f"--window {ends}: use LOW,HIGH with LOW below HIGH, or own")
  if request.format == "dicom":
    if request.depth != 8 or request.window is not None:
      raise UserError("--depth and --window are for PNG: DICOM files keep the stored values")
    if request.layout == "nnunet":
      raise UserError("--layout nnunet is of PNG files: leave out --format dicom")
  if request.blend and request.paper and request.blend != "paper":
    raise UserError(f"--paper blends as the paper does: leave out --blend {request.blend}")
  return request._replace(lesions=(low, high) if points else request.lesions)
