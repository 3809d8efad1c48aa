"""Phantoms: KUB radiographs and axial chest CT slices of any size, drawn with exact masks.

They hold no patient's data: for demonstrations, tests and benchmarks. Anatomy is placed in
millimetres, so one generator state gives one patient at any size. Noise and lesions have random
streams of their own, so pictures of one state with and without lesions differ only where lesions
and their blur are.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from hiresmed_jax.data.anatomy import ct_slice, lesions, radiograph
from hiresmed_jax.data.anatomy.shapes import blur
from hiresmed_jax.data.sample import Sample

KINDS = ("kub", "chest_ct")
STONES_MM = (2.0, 15.0)
NODULES_MM = (3.0, 25.0)
_STONE_MEDIAN_MM, _NODULE_MEDIAN_MM = 5.5, 8.0
LEAST_SIDE = 32  # pixels: less shows no anatomy


@dataclasses.dataclass(frozen=True, eq=False)
class Phantom:
  """A drawn image.

  Attributes:
    sample: image, boxes, lesion and forbidden masks, as of a reader.
    host_mask: uint8[H, W], 1 where lesions can lie: hollow parts of the kidneys, ureters and
      bladder, or lung.
    halo_px: greatest distance from its mask at which a lesion changes the image.
  """

  sample: Sample
  host_mask: np.ndarray
  halo_px: int


def kub(
  rng: np.random.Generator,
  size: int | tuple[int, int] = 1024,
  *,
  num_lesions: int | None = None,
  diameter_mm: tuple[float, float] = STONES_MM,
  patient: int | None = None,
) -> Phantom:
  """A frontal radiograph of kidneys, ureters and bladder, with stones.

  A stone lies wholly inside the host mask and off the forbidden mask (bone, air around the body,
  the border that is not exposed). It adds to the line integral of attenuation before scatter.

  Args:
    rng: one draw from it seeds the picture; equal states give equal pictures.
    size: (rows, columns) or the side of a square, 32 or more.
    num_lesions: None draws 1 .. 3, and places fewer where there is no room.
    diameter_mm: range; raised where pixels are so large that a stone would not be visible.
    patient: number in the group name; None draws one.

  Returns:
    Phantom with uint16 [H, W, 1] of 12 bits, value_range the display window.

  Raises:
    UserError: there is no room for `num_lesions`.
    ValueError: a size below 32.
  """
  size, patient, (body, noise, stones) = _begin(rng, size, patient)
  film = radiograph.render(body, noise, size)
  halo = int(np.ceil(4 * film.blur_px)) + 2
  placed = lesions.draw(
    stones,
    film.host & ~film.forbidden,
    film.spacing,
    count=_count(stones, num_lesions),
    must=num_lesions is not None,
    diameter_mm=diameter_mm,
    median_mm=_median(diameter_mm, STONES_MM, _STONE_MEDIAN_MM),
    rough=(0.05, 0.25),
    margin=halo,
  )
  signal = film.signal
  for lesion in placed:
    depth = lesion.diameter_mm * stones.uniform(0.75, 1.0)
    added = stones.uniform(0.026, 0.042) * depth * lesion.blurred(lesion.chord, film.blur_px)
    share = film.direct[lesion.window]
    signal[lesion.window] -= np.log1p(-share * (1 - np.exp(-added)))
  low, high = film.window
  # 12 bits, the display window well inside them, as a detector's output has it.
  gain = body.uniform(1500, 2400) / (high - low)
  offset = body.uniform(700, 1100)
  stored = np.clip(np.rint((signal - low) * gain + offset), 0, 4095)
  shown = (float(np.rint(offset)), float(np.rint(offset + (high - low) * gain)))
  sample = _sample("kub", patient, stored, placed, film.forbidden, film.spacing)
  sample = dataclasses.replace(sample, value_range=shown, physics="projection", modality="DX")
  return Phantom(sample, film.host.astype(np.uint8), halo)


def chest_ct(
  rng: np.random.Generator,
  size: int | tuple[int, int] = 1024,
  *,
  num_lesions: int | None = None,
  diameter_mm: tuple[float, float] = NODULES_MM,
  patient: int | None = None,
) -> Phantom:
  """An axial slice of the chest, with solid, part-solid and ground-glass nodules in the lungs.

  A nodule lies wholly inside the host mask (lung) and off the forbidden mask: all but lung, the
  lung's outermost 1.5 mm, and vessels thicker than 3 mm. It replaces lung:
  v' = (1 - a) v + a v_nodule.

  Arguments and errors as `kub`.

  Returns:
    Phantom with uint16 [H, W, 1] = HU + 1024, value_range the lung window -1000 .. 400 HU.
  """
  size, patient, (body, noise, nodules) = _begin(rng, size, patient)
  scan = ct_slice.render(body, noise, size)
  halo = int(np.ceil(4 * scan.blur_px)) + 2
  placed = lesions.draw(
    nodules,
    scan.host & ~scan.forbidden,
    scan.spacing,
    count=_count(nodules, num_lesions),
    must=num_lesions is not None,
    diameter_mm=diameter_mm,
    median_mm=_median(diameter_mm, NODULES_MM, _NODULE_MEDIAN_MM),
    rough=(0.05, 0.3),
    margin=halo,
  )
  hu = scan.clean + scan.noise
  for lesion in placed:
    window = lesion.window
    filled = lesion.blurred(lesion.filled, scan.blur_px)
    inner = _nodule(nodules, filled, lesion.diameter_mm)
    hu[window] += filled * (inner - scan.clean[window])
  hu = np.where(scan.field, hu, -1024)
  stored = np.clip(np.rint(hu + 1024), 0, 4095)
  sample = _sample("chest_ct", patient, stored, placed, scan.forbidden, scan.spacing)
  sample = dataclasses.replace(
    sample, rescale_intercept=-1024.0, value_range=(-1000.0, 400.0), physics="ct", modality="CT"
  )
  return Phantom(sample, scan.host.astype(np.uint8), halo)


def phantoms(
  kind: str,
  count: int,
  size: int | tuple[int, int],
  *,
  seed: int = 0,
  num_lesions: int | None = None,
  diameter_mm: tuple[float, float] | None = None,
) -> Iterator[Phantom]:
  """`count` phantoms of `kind`, one of `KINDS`: patients 0 .. count - 1, each from its own seed.

  `diameter_mm` None: STONES_MM or NODULES_MM.

  Raises:
    ValueError: an unknown kind.
  """
  if kind not in KINDS:
    raise ValueError(f"unknown phantom {kind!r}: one of {', '.join(KINDS)}")
  draw, usual_mm = (kub, STONES_MM) if kind == "kub" else (chest_ct, NODULES_MM)
  for patient in range(count):
    rng = np.random.default_rng([seed, KINDS.index(kind), patient])
    yield draw(
      rng, size, num_lesions=num_lesions, diameter_mm=diameter_mm or usual_mm, patient=patient
    )


def _begin(
  rng: np.random.Generator, size: int | tuple[int, int], patient: int | None
) -> tuple[tuple[int, int], int, list[np.random.Generator]]:
  height, width = (size, size) if isinstance(size, int) else size
  if min(height, width) < LEAST_SIDE:
    raise ValueError(f"a phantom of {width} x {height} pixels: {LEAST_SIDE} or more are needed")
  seeds = rng.integers(0, 2**63, 4)
  drawn = int(seeds[3] % 1_000_000) if patient is None else patient
  return (int(height), int(width)), drawn, [np.random.default_rng(int(s)) for s in seeds[:3]]


def _count(rng: np.random.Generator, num_lesions: int | None) -> int:
  drawn = int(rng.integers(1, 4))
  return drawn if num_lesions is None else num_lesions


def _median(
  diameter_mm: tuple[float, float], usual_mm: tuple[float, float], median_mm: float
) -> float:
  """The median of diameters: that of the usual range, moved as the middle of the range is."""
  return median_mm * float(np.sqrt(np.prod(diameter_mm) / np.prod(usual_mm)))


def _nodule(rng: np.random.Generator, filled: np.ndarray, diameter_mm: float) -> np.ndarray:
  """HU inside a nodule, f32[h, w]: solid, or ground glass, or ground glass around a solid core."""
  kind = rng.choice(4, p=(0.72, 0.08, 0.1, 0.1))
  solid, glass = rng.uniform(-10, 70), rng.uniform(-640, -420)
  if diameter_mm < 5 or kind == 0:
    return np.full_like(filled, solid)
  if kind == 1:
    return np.full_like(filled, rng.uniform(180, 420))  # calcified
  if kind == 2:
    return np.full_like(filled, glass)
  core = blur(filled, 0.22 * max(filled.shape) / 2)
  core = np.clip((core / core.max() - 0.62) / 0.25, 0, 1)
  return glass + core * (solid - glass)


def _sample(
  kind: str,
  patient: int,
  stored: np.ndarray,
  placed: list[lesions.Lesion],
  forbidden: np.ndarray,
  spacing: float,
) -> Sample:
  group = f"phantom-{patient:06d}"
  mask, boxes = lesions.masks(placed, forbidden.shape)
  return Sample(
    image=stored.astype(np.uint16)[:, :, None],
    group=group,
    source=f"{kind}/{group}",
    boxes=boxes,
    lesion_mask=mask,
    labelled=True,
    forbidden_mask=forbidden.astype(np.uint8),
    spacing_mm=(spacing, spacing),
  )
