import cv2
import numpy as np
import pytest

from hiresmed_jax.data.audit import augmentation


def patient(seed: int, rows: int = 160, columns: int = 200) -> np.ndarray:
  """Made-up anatomy that fills the frame: smooth organs, none alike, left and right different."""
  rng = np.random.default_rng(seed)
  coarse = cv2.GaussianBlur(rng.normal(size=(rows, columns)), (0, 0), 12)
  fine = cv2.GaussianBlur(rng.normal(size=(rows, columns)), (0, 0), 3)
  image = 130 + 40 * coarse / coarse.std() + 18 * fine / fine.std()
  return np.clip(image, 40, 255).astype(np.uint8)


def rotated(grey: np.ndarray, degrees: float, mirrored: bool = False) -> np.ndarray:
  rows, columns = grey.shape
  matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1)
  grey = np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey
  return cv2.warpAffine(grey, matrix, (columns, rows))


def recompressed(grey: np.ndarray, quality: int = 70) -> np.ndarray:
  return np.asarray(
    cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)
  )


@pytest.mark.parametrize("degrees", [-12, -6.5, -3, 3, 5, 9])
def test_wedges_of_a_rotation_are_found_with_their_angle(degrees: float) -> None:
  grey = recompressed(rotated(patient(0, 320, 400), degrees))
  assert abs(abs(augmentation.wedge_degrees(grey)) - abs(degrees)) < 0.8


def test_wedges_are_found_in_a_large_image() -> None:
  grey = rotated(patient(1, 1400, 1000), 7)
  assert abs(abs(augmentation.wedge_degrees(grey)) - 7) < 0.8


def test_what_is_no_wedge() -> None:
  plain = patient(0)
  assert augmentation.wedge_degrees(plain) == 0
  framed = plain.copy()
  framed[:10], framed[:, -8:] = 0, 0  # collimation: straight, but not slanted
  assert augmentation.wedge_degrees(framed) == 0
  y, x = np.indices((300, 300)) - 149.5
  body = np.where((x / 120) ** 2 + (y / 90) ** 2 < 1, 150, 0).astype(np.uint8)
  assert augmentation.wedge_degrees(body) == 0
  assert augmentation.wedge_degrees(np.zeros((300, 300), np.uint8)) == 0
  assert augmentation.wedge_degrees(np.zeros((5, 3), np.uint8)) == 0
  trapezoid = plain.copy()  # two flanks that lean against each other
  for row in range(160):
    trapezoid[row, : 10 + row // 10] = 0
    trapezoid[row, 190 - row // 10 :] = 0
  assert augmentation.wedge_degrees(trapezoid) == 0


def test_the_depth_of_a_wedge() -> None:
  assert augmentation.wedge_depth(45, 100, 100) == pytest.approx(0.5)
  assert augmentation.wedge_depth(-5, 320, 391) == pytest.approx(0.0534, abs=1e-3)


def test_near_duplicates_under_rotation_mirroring_and_recompression() -> None:
  originals = [patient(seed) for seed in range(12)]
  copies = [
    recompressed(rotated(originals[0], 8)),
    recompressed(rotated(originals[1], -14, mirrored=True)),
    np.ascontiguousarray(np.rot90(originals[2], 2)),
    np.ascontiguousarray(originals[3][::-1]),
    cv2.resize(originals[4], None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
  ]
  found = augmentation.near_duplicates(
    [augmentation.signature(grey) for grey in originals + copies]
  )
  assert found.compared == 17
  assert {tuple(pair) for pair in found.pairs} == {(i, 12 + i) for i in range(5)}


def test_neighbouring_slices_are_not_duplicates() -> None:
  one, two = patient(0).astype(np.float32), patient(1).astype(np.float32)
  neighbour = (0.6 * one + 0.4 * two).astype(np.uint8)
  found = augmentation.near_duplicates([augmentation.signature(g) for g in (patient(0), neighbour)])
  assert not len(found.pairs)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_compare(count: int) -> None:
  found = augmentation.near_duplicates([augmentation.signature(patient(0))] * count)
  assert found.pairs.shape == (0, 2)


def test_a_constant_image_has_a_signature() -> None:
  assert np.isfinite(augmentation.signature(np.full((40, 50), 7, np.uint8))).all()


def test_both_orientations_within_a_group() -> None:
  def slices(seed: int, mirrored: bool) -> list[np.ndarray]:
    base, other = patient(seed).astype(np.float32), patient(seed + 100).astype(np.float32)
    near = (0.8 * base + 0.2 * other).astype(np.uint8)
    return [patient(seed), rotated(near, 6, mirrored=mirrored)]

  images = slices(0, True) + slices(1, False) + slices(2, True) + [patient(3)]
  groups = ["a", "a", "b", "b", "c", "c", "alone"]
  found = augmentation.orientations([augmentation.signature(grey) for grey in images], groups)
  assert (found.compared, found.both) == (3, 2)
