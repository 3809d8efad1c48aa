"""One image between a file and a record: every reader yields it and `records` writes it.

Legend: H rows, W columns, C channels (1 grey, 3 RGB), N boxes. Pixel i covers [i, i + 1).
"""

import dataclasses
import math

import numpy as np

SIGNED_SHIFT = 32768  # added to signed data so that the stored image is always unsigned

PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2", "RGB")
PHYSICS = ("projection", "ct", "none")


class Unreadable(Exception):
  """A file that gives no sample. The message is the reason, for a user, without a path."""


class Misplaced(Unreadable):
  """An image whose label has boxes outside of it: of another size, unit or order."""


class LeftOut(Unreadable):
  """A sound file that is no image of the set, such as a scout or a dose report."""


def _no_boxes() -> np.ndarray:
  return np.zeros((0, 4), np.float32)


def _unknown_mask() -> np.ndarray:
  return np.zeros((0, 0), np.uint8)


def _unknown_instances() -> np.ndarray:
  return np.zeros((0, 0), np.uint16)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
  """A stored image with its facts. `group` and `source` are raw names, hashed on writing.

  Attributes:
    image: uint8 or uint16 [H, W, C], C in {1, 3}: stored values, signed data + `SIGNED_SHIFT`.
    group: raw name of the patient, series or acquisition; the split follows it.
    source: raw relative path of the file, `#frame` appended where a file holds several images.
    rescale_slope: value = rescale_slope * stored + rescale_intercept, in HU for CT.
    rescale_intercept: includes `SIGNED_SHIFT`.
    value_range: (low, high) in rescaled units, shown by default: the VOI window, else the range
      of the stored bits.
    photometric: one of `PHOTOMETRICS`; MONOCHROME1 (low is bright) is stored as it came.
    physics: one of `PHYSICS`: how a lesion adds to the image.
    spacing_mm: (row, column) distance of pixel centres; NaN when unknown.
    boxes: f32[N, 4], xyxy pixels, half-open.
    lesion_mask: uint16[H, W] instance ids, id = box index + 1, 0 elsewhere; (0, 0) when unknown.
    forbidden_mask: uint8[H, W], nonzero where no lesion can be; (0, 0) when unknown.
    modality: the DICOM modality, "" when unknown.
    labelled: somebody has marked all lesions, so that an image without a box is negative. False
      without a box: unknown. A sample with boxes is labelled.
    host_mask: uint8[H, W], nonzero where lesions may live; (0, 0) when unknown.
    split: "train", "val" or "test" of the user's own split; "" follows `group`.
    bits_stored: bits that the file declares for a pixel; 0 when it does not tell.
    notes: what was done to the image or is odd in it, as sentences without names. They are
      counted in the card.
  """

  image: np.ndarray
  group: str
  source: str
  rescale_slope: float = 1.0
  rescale_intercept: float = 0.0
  value_range: tuple[float, float] = (0.0, 255.0)
  photometric: str = "MONOCHROME2"
  physics: str = "none"
  spacing_mm: tuple[float, float] = (math.nan, math.nan)
  boxes: np.ndarray = dataclasses.field(default_factory=_no_boxes)
  lesion_mask: np.ndarray = dataclasses.field(default_factory=_unknown_instances)
  forbidden_mask: np.ndarray = dataclasses.field(default_factory=_unknown_mask)
  modality: str = ""
  labelled: bool = False
  host_mask: np.ndarray = dataclasses.field(default_factory=_unknown_mask)
  split: str = ""
  bits_stored: int = 0
  notes: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    """Raises ValueError where a reader breaks the contract above."""
    _require(self.image.dtype in (np.uint8, np.uint16), f"image of {self.image.dtype}")
    _require(self.image.ndim == 3 and self.image.shape[-1] in (1, 3), f"image {self.image.shape}")
    _require(min(self.image.shape) > 0, f"image {self.image.shape}")
    _require(self.photometric in PHOTOMETRICS, f"photometric {self.photometric!r}")
    _require(self.physics in PHYSICS, f"physics {self.physics!r}")
    _require(math.isfinite(self.rescale_slope) and self.rescale_slope != 0.0, "rescale slope")
    _require(math.isfinite(self.rescale_intercept), "rescale intercept")
    low, high = self.value_range
    _require(math.isfinite(low) and math.isfinite(high) and low < high, "value range")
    _require(self.boxes.dtype == np.float32, f"boxes of {self.boxes.dtype}")
    _require(self.boxes.ndim == 2 and self.boxes.shape[1] == 4, f"boxes {self.boxes.shape}")
    _require(bool(np.isfinite(self.boxes).all()), "boxes that are not finite")
    _require(self.lesion_mask.dtype == np.uint16, f"lesion mask of {self.lesion_mask.dtype}")
    _require(self.forbidden_mask.dtype == np.uint8, f"mask of {self.forbidden_mask.dtype}")
    shapes = ((0, 0), self.image.shape[:2])
    _require(self.lesion_mask.shape in shapes, f"lesion mask {self.lesion_mask.shape}")
    _require(self.forbidden_mask.shape in shapes, f"forbidden mask {self.forbidden_mask.shape}")
    _require(self.host_mask.dtype == np.uint8, f"mask of {self.host_mask.dtype}")
    _require(self.host_mask.shape in shapes, f"host mask {self.host_mask.shape}")
    _require(self.split in ("", "train", "val", "test"), f"split {self.split!r}")


def _require(holds: bool, what: str) -> None:
  if not holds:
    raise ValueError(f"not a sample: {what}")
