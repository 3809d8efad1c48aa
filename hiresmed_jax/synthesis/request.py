"""What is asked for: plain values, checked before anything is read or compiled."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hiresmed_jax.errors import UserError

BACKGROUNDS = ("reconstruction", "real")
FORMATS = ("png", "dicom")
SOURCES = ("singan", "copy", "parametric")


class Diameter(NamedTuple):
  """A range of diameters; `unit` is "mm" or "px" (of the output)."""

  low: float
  high: float
  unit: str


class Request(NamedTuple):
  """One request; every field but `num`, `shard` is part of what makes an image what it is.

  Attributes:
    num: images 0 .. num - 1.
    lesions: (least, most) in an image.
    diameter: wanted, or None: as the lesions come.
    at: (x, y) in output pixels, of the first lesions of every image.
    background: one of `BACKGROUNDS`.
    seed: of all randomness.
    blend: one of `insertion.MODES`; None takes the one for the images' physics.
    format: one of `FORMATS`.
    paper: placement and insertion as in the paper.
    shard: (i, n): this run makes the images i, i + n, ...
    shams: insertions of lesion-free content in each image, which are not labelled.
    mask: file of the user's mask, and whether its set pixels are "forbidden" or "allowed".
    source: one of `SOURCES`.
    backgrounds: image i is made on background i modulo this; None: each draws its own.
  """

  num: int
  lesions: tuple[int, int]
  diameter: Diameter | None
  at: tuple[tuple[float, float], ...]
  background: str
  seed: int
  blend: str | None
  format: str
  paper: bool
  shard: tuple[int, int]
  shams: int
  mask: tuple[Path, str] | None
  source: str
  backgrounds: int | None = None

  def identity(self) -> dict[str, Any]:
    """What images already made must agree on, for JSON."""
    values = self._asdict()
    for key in ("num", "shard", *(() if self.backgrounds else ("backgrounds",))):
      del values[key]
    values["diameter"] = list(self.diameter) if self.diameter else None
    values["mask"] = [str(self.mask[0]), self.mask[1]] if self.mask else None
    return values

  def indices(self) -> range:
    """The images of this shard."""
    first, step = self.shard
    return range(first, self.num, step)


def check(request: Request) -> Request:
  """The same request, if it can be meant.

  Raises:
    UserError: a number out of its range, or two wishes that exclude each other.
  """
  low = request.lesions[0]
  if low < 1:
    raise UserError(
      f"--lesions {low}: ask for 1 or more; every image has a lesion-free twin beside it"
    )
  if len(request.at) > low:
    raise UserError(
      f"{len(request.at)} points are given with --at, but --lesions allows {low} in an image: "
      f"use --lesions {len(request.at)} or more"
    )
  if request.num < 1:
    raise UserError(f"--num {request.num}: ask for 1 image or more")
  if request.backgrounds is not None and request.backgrounds < 1:
    raise UserError(f"--backgrounds {request.backgrounds}: ask for 1 or more")
  if request.shams < 0:
    raise UserError(f"--shams {request.shams}: use 0 or more")
  if not 0 <= request.seed < 2**32:
    raise UserError(f"--seed {request.seed}: use 0 to {2**32 - 1}")
  if request.blend and request.paper and request.blend != "paper":
    raise UserError(f"--paper blends as the paper does: leave out --blend {request.blend}")
  return request


def counts(text: str, *, option: str) -> tuple[int, int]:
  """Reads "2" or "1-3".

  Raises:
    UserError: anything else.
  """
  parts = text.split("-")
  if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
    raise UserError(f"{option} {text}: write a number or a range such as 1-3")
  low, high = int(parts[0]), int(parts[-1])
  if low > high:
    raise UserError(f"{option} {text}: the first number must not be above the second")
  return low, high


def diameter(text: str, unit: str) -> Diameter:
  """Reads "8" or "3-12.5".

  Raises:
    UserError: anything else, or nothing above 0.
  """
  try:
    values = [float(part) for part in text.split("-")]
  except ValueError:
    values = []
  if len(values) not in (1, 2) or not all(math.isfinite(v) and v > 0 for v in values):
    raise UserError(f"--diameter-{unit} {text}: write a number above 0, or a range such as 3-12")
  if values[0] > values[-1]:
    raise UserError(f"--diameter-{unit} {text}: the first number must not be above the second")
  return Diameter(values[0], values[-1], unit)


def points(texts: Sequence[str]) -> tuple[tuple[float, float], ...]:
  """Reads "X,Y" each.

  Raises:
    UserError: anything else.
  """
  found = []
  for text in texts:
    try:
      x, y = (float(part) for part in text.split(","))
    except ValueError:
      raise UserError(f"--at {text}: write X,Y in pixels of the output") from None
    if not (math.isfinite(x) and math.isfinite(y)):
      raise UserError(f"--at {text}: write X,Y in pixels of the output")
    found.append((x, y))
  return tuple(found)


def shard(text: str) -> tuple[int, int]:
  """Reads "i/n", 0 <= i < n.

  Raises:
    UserError: anything else.
  """
  parts = text.split("/")
  if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
    index, count = int(parts[0]), int(parts[1])
    if index < count:
      return index, count
  raise UserError(f"--shard {text}: write i/n with i from 0 to n - 1, such as 0/4")


def mask(text: str) -> tuple[Path, str]:
  """Reads "FILE" (set pixels are forbidden), "forbidden:FILE" or "allowed:FILE".

  Raises:
    UserError: no such file.
  """
  kind, _, name = text.rpartition(":")
  if kind not in ("forbidden", "allowed"):
    kind, name = "forbidden", text
  path = Path(name).absolute()
  if not path.is_file():
    raise UserError(f"--mask {text}: {path} is not a file")
  return path, kind
