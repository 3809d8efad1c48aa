import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.placement.footprint import Footprint, clear_of, erode, fits

seeds = st.integers(0, 2**32 - 1)


def blob(rng: np.random.Generator, side: int) -> np.ndarray:
  """A lumpy mask with an empty rim, sometimes with holes or in parts."""
  noise = cv2.GaussianBlur(rng.random((side, side)), (0, 0), max(0.6, side / 6))
  rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
  high = noise - 0.3 * np.hypot(rows, columns) / side
  mask = np.pad(high > np.quantile(high, rng.uniform(0.2, 0.9)), rng.integers(0, 4))
  mask[mask.shape[0] // 2, mask.shape[1] // 2] = True
  return mask


def painted(shape: tuple[int, int], mask: np.ndarray, origin: tuple[int, int]) -> np.ndarray:
  out = np.zeros(shape, bool)
  for row, column in np.argwhere(mask):
    out[origin[0] + row, origin[1] + column] = True
  return out


@given(seed=seeds)
def test_erosion_equals_scipy(seed: int) -> None:
  rng = np.random.default_rng(seed)
  pixels = rng.random(rng.integers(1, 60, 2)) < rng.choice([0.5, 0.95, 1.0])
  mask = blob(rng, int(rng.integers(1, 25)))
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  anchor = tuple(int(rng.integers(n)) for n in mask.shape)
  beyond = bool(rng.integers(2))
  mine = erode(pixels, mask.astype(np.uint8), anchor, beyond=beyond)
  origin = [a - n // 2 for a, n in zip(anchor, mask.shape)]
  expected = ndimage.binary_erosion(pixels, mask, origin=origin, border_value=beyond)
  np.testing.assert_array_equal(mine, expected)


@given(seed=seeds)
def test_fits_is_what_painting_everywhere_says(seed: int) -> None:
  rng = np.random.default_rng(seed)
  allowed = cv2.GaussianBlur(rng.random((14, 17)), (0, 0), 2) > 0.49
  mask = blob(rng, int(rng.integers(1, 8)))
  shape = Footprint.of(mask)
  whole = fits(allowed, shape)
  for pixel in np.ndindex(allowed.shape):
    origin = np.array(shape.origin_at(pixel))
    covered = np.argwhere(mask) + origin
    inside = bool(((covered >= 0) & (covered < allowed.shape)).all())
    assert whole[pixel] == (inside and bool(allowed[tuple(covered.T)].all() if inside else 0))


@given(seed=seeds, gap=st.floats(1, 6))
def test_clear_of_keeps_the_distance_and_no_more(seed: int, gap: float) -> None:
  rng = np.random.default_rng(seed)
  image = (22, 25)
  masks = [blob(rng, int(rng.integers(1, 8))) for _ in range(2)]
  first, second = (Footprint.of(mask) for mask in masks)
  room = fits(np.ones(image, bool), first)
  origin = first.origin_at(tuple(rng.choice(np.argwhere(room)).tolist()))
  away = ndimage.distance_transform_edt(~painted(image, masks[0], origin))
  room = fits(np.ones(image, bool), second)
  free = clear_of(room, second, [(first, origin)], gap)
  for pixel in np.argwhere(room):
    covered = painted(image, masks[1], second.origin_at(tuple(pixel.tolist())))
    assert free[tuple(pixel)] == (away[covered].min() >= gap - 1e-6)
  assert not (free & ~room).any()


@given(seed=seeds)
def test_the_centroid_is_the_mask_s(seed: int) -> None:
  rng = np.random.default_rng(seed)
  mask = blob(rng, int(rng.integers(1, 12)))
  shape = Footprint.of(mask)
  pixel = (30, 31)
  origin = shape.origin_at(pixel)
  x, y = shape.centre_at(origin)
  covered = painted((64, 64), mask, origin)
  np.testing.assert_allclose((y, x), np.array(ndimage.center_of_mass(covered)) + 0.5, rtol=1e-12)
  assert (int(y), int(x)) == pixel
  assert shape.diameter_px == pytest.approx(2 * np.sqrt(mask.sum() / np.pi))
  point = rng.uniform(20, 40, 2)
  nearest = shape.centre_at(shape.origin_at(shape.pixel_for(tuple(point))))
  assert np.abs(np.subtract(nearest, point)).max() <= 0.5 + 1e-9


def test_an_empty_footprint_is_a_mistake() -> None:
  with pytest.raises(ValueError, match="without a pixel"):
    Footprint.of(np.zeros((3, 3), bool))
