"""Does a lesion added to a projection equal the projection of a volume with the lesion in it?

  python -m benchmarks.physics_oracle --ct CT.nii.gz [--out FILE]

The truth: a stone, a sphere of known attenuation, is added to the voxels of a CT volume at sites of
soft tissue, and the volume is projected along parallel rays from front to back. It is compared with
the projection without the stone, into which `ops/insertion.py` (mode `projection`) inserts the same
sphere as it appears at another site of the volume, the donor. Bone, gas and fat in front of a site
and behind it stay as they are. Three ways:

  known     line integrals; the donor's site without the stone is known
  intensity the same with a linear detector: exp(-line integral)
  estimated line integrals; the donor's surround is estimated (`ops/inpaint.py`), as for real images

The error of a pixel is |inserted contrast - true contrast| / true contrast, for pixels with at
least a tenth of the peak contrast. The error of an insertion is the median of its pixels; the
result is the median of the insertions. Not modelled: scatter, beam hardening, noise, divergence of
the rays. Prints a table and one JSON line.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import nibabel
import numpy as np
import scipy.ndimage

from benchmarks import harness
from hiresmed_jax.ops.inpaint import inpaint
from hiresmed_jax.ops.insertion import insert
from hiresmed_jax.runtime import cli

WAYS = ("known", "intensity", "estimated")
_WATER = 0.02  # attenuation per mm, some 70 keV
_STONE_HU = 900.0
_SIDE = 48  # of a window
_FINE = 4  # sub-voxels a side


class Site(NamedTuple):
  """Where a stone goes: voxel indices (row, ray, column), and the window of the projection."""

  centre: tuple[float, float, float]
  window: tuple[slice, slice]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--ct", type=Path, required=True, help="NIfTI volume in HU")
  parser.add_argument("--sites", type=int, default=60)
  parser.add_argument("--diameters-mm", type=float, nargs="+", default=[9.0, 12.0, 18.0])
  options = parser.parse_args(argv)
  hu, spacing = load(options.ct)
  rows = []
  print(f"{'diameter mm':>12}" + "".join(f"{way:>12}{'90 %':>8}" for way in WAYS))
  for diameter in options.diameters_mm:
    errors = measure(hu, spacing, diameter, options.sites)
    row = {"diameter_mm": diameter, "sites": options.sites} | {
      way: {"median": float(np.median(e)), "90_percent": float(np.percentile(e, 90))}
      for way, e in errors.items()
    }
    rows.append(row)
    cells = "".join(f"{row[w]['median']:12.4f}{row[w]['90_percent']:8.4f}" for w in WAYS)
    print(f"{diameter:12g}{cells}", flush=True)
  about = {"benchmark": "physics_oracle", **harness.environment(), "voxel_mm": spacing}
  harness.publish({**about, "rows": rows}, options.out)


def load(path: Path, finer: int = 2) -> tuple[np.ndarray, float]:
  """-> (f32 HU [down, back, left], voxel side in mm), the volume on a finer grid, trilinear."""
  image = nibabel.as_closest_canonical(nibabel.load(path))
  spacing = np.asarray(image.header.get_zooms()[:3], float)
  if np.ptp(spacing) > 1e-3:
    raise ValueError(f"cubic voxels wanted, not {spacing} mm")
  hu = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)[::-1]
  return scipy.ndimage.zoom(hu, finer, order=1), float(spacing[0]) / finer


def measure(
  hu: np.ndarray, spacing: float, diameter_mm: float, sites: int, seed: int = 0
) -> Mapping[str, np.ndarray]:
  """Relative contrast error of each insertion, by way.

  Args:
    hu: f32[rows, rays, columns].
    spacing: mm.
    diameter_mm: of the sphere.
    sites: how many; each has another as donor.
  """
  rng = np.random.default_rng(seed)
  plain = _integral(hu, spacing)
  radius = diameter_mm / spacing / 2
  places = find_sites(hu, radius, sites + 1, rng)
  errors: dict[str, list[float]] = {way: [] for way in WAYS}
  for donor, host in itertools.pairwise(places):
    background, truth = plain[host.window], _with_stone(hu, plain, spacing, host, radius)
    surround, values = plain[donor.window], _with_stone(hu, plain, spacing, donor, radius)
    alpha = _shadow(donor, radius)
    contrast = truth - background
    estimated = inpaint(values[..., None], alpha > 0.02)[..., 0]
    dark = 1 - np.exp(-background), 1 - np.exp(-values), 1 - np.exp(-surround)
    found = {
      "known": _insert(background, values, surround, alpha),
      "intensity": -np.log(1 - _insert(*dark, alpha, white=1.0)),
      "estimated": _insert(background, values, estimated, alpha),
    }
    counted = contrast >= 0.1 * contrast.max()
    for way, inserted in found.items():
      error = np.abs(inserted - background - contrast)[counted] / contrast[counted]
      errors[way].append(float(np.median(error)))
  return {way: np.array(e) for way, e in errors.items()}


def find_sites(hu: np.ndarray, radius: float, count: int, rng: np.random.Generator) -> list[Site]:
  """Sites where a ball lies in soft tissue, -20 to 100 HU in the mean, and quite uniform."""
  size = 2 * int(np.ceil(radius)) + 1
  mean = scipy.ndimage.uniform_filter(hu, size)
  square = scipy.ndimage.uniform_filter(np.square(hu), size)
  good = (mean > -20) & (mean < 100) & (square - np.square(mean) < 60**2)
  half = _SIDE // 2
  for axis, margin in ((0, half + 1), (1, size), (2, half + 1)):
    edge = np.arange(hu.shape[axis])
    outside = (edge < margin) | (edge >= hu.shape[axis] - margin)
    good[tuple(outside if a == axis else slice(None) for a in range(3))] = False
  voxels = np.argwhere(good)
  if len(voxels) < count:
    raise ValueError(f"only {len(voxels)} voxels of uniform soft tissue, {count} wanted")
  sites = []
  for row, ray, column in voxels[rng.choice(len(voxels), count, replace=False)]:
    window = (slice(row - half, row + half), slice(column - half, column + half))
    # Inside the middle voxel, off the grid; the same for all sites, so that nothing is resampled.
    sites.append(Site((row + 0.2, ray + 0.1, column - 0.3), window))
  return sites


def _integral(hu: np.ndarray, spacing: float) -> np.ndarray:
  """Line integrals f32[rows, columns]; no attenuation is below zero."""
  attenuation = _WATER * np.maximum(1 + hu / 1000, 0)
  return np.asarray(attenuation.sum(axis=1, dtype=np.float64) * spacing, np.float32)


def _with_stone(
  hu: np.ndarray, plain: np.ndarray, spacing: float, site: Site, radius: float
) -> np.ndarray:
  """The window of the projection of the volume with a ball of stone at a site."""
  reach = int(np.ceil(radius)) + 1
  middle = [round(c) for c in site.centre]
  box = tuple(slice(m - reach, m + reach + 1) for m in middle)
  filled = _ball([np.arange(s.start, s.stop) - c for s, c in zip(box, site.centre, strict=True)],
                 radius)  # fmt: skip
  changed = (1 - filled) * hu[box] + filled * _STONE_HU
  out = plain.copy()
  rows, _, columns = box
  out[rows, columns] += _integral(changed, spacing) - _integral(hu[box], spacing)
  return out[site.window]


def _ball(offsets: list[np.ndarray], radius: float) -> np.ndarray:
  """Share of each voxel that a ball around 0 fills; `offsets` of the voxels' centres, by axis."""
  fine = (np.arange(_FINE) + 0.5) / _FINE - 0.5
  axes = [(o[:, None] + fine).ravel() for o in offsets]
  squares = np.meshgrid(*(np.square(a) for a in axes), indexing="ij")
  inside = np.asarray(sum(squares) <= radius**2, np.float32)
  shape = [n for o in offsets for n in (len(o), _FINE)]
  return inside.reshape(shape).mean(axis=tuple(range(1, 2 * len(offsets), 2)))


def _shadow(site: Site, radius: float) -> np.ndarray:
  """Share of each pixel of the window that the ball's shadow covers."""
  rows, _, columns = site.centre
  return _ball([
    np.arange(s.start, s.stop) - c for s, c in zip(site.window, (rows, columns), strict=True)
  ], radius)  # fmt: skip


_projection = jax.jit(
  lambda b, v, s, a, white: insert(b, v, s, a, mode="projection", white=white),
  static_argnames="white",
)


def _insert(
  background: np.ndarray,
  values: np.ndarray,
  surround: np.ndarray,
  alpha: np.ndarray,
  white: float | None = None,
) -> np.ndarray:
  window = [v[..., None] for v in (background, values, surround)]
  return np.asarray(_projection(*window, alpha, white))[..., 0]


if __name__ == "__main__":
  cli.run(main)
