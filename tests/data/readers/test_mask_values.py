"""What the values of a mask mean: two discs, or nine, in the forms that programs write them."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from hiresmed_jax.data.readers import mask_values
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError

H, W = 96, 128
SHAPE = (H, W)
RNG = np.random.default_rng(0)


def discs(*spots: tuple[int, int, int], scale: int = 1) -> np.ndarray:
  """Discs (x, y, r) numbered from 1."""
  y, x = np.mgrid[: H * scale, : W * scale]
  found = np.zeros(x.shape, np.uint8)
  for number, (cx, cy, r) in enumerate(spots, 1):
    found[(x - cx * scale) ** 2 + (y - cy * scale) ** 2 <= (r * scale) ** 2] = number
  return found


NINE = discs(*((15 + 13 * k, 20 + 6 * k, 4) for k in range(9)))
TOUCHING = discs(*((20 + 7 * k, 40, 4) for k in range(9)))
TWO = (discs((40, 30, 6), (90, 65, 7)) > 0).astype(np.uint8)
LARGE = (discs((40, 30, 6), (90, 65, 7), scale=4) > 0).astype(np.uint8) * 255
PALETTE = [component for k in range(256) for component in (k * 37 % 256, k * 91 % 256, 255 - k)]
PALETTE[:3] = [0, 0, 0]
COLOURS = np.array(PALETTE, np.uint8).reshape(-1, 3)[NINE]
WHITE = np.full((H, W), 255, np.uint8)
PICTURE = np.clip(cv2.GaussianBlur(RNG.normal(size=SHAPE), (0, 0), 4) * 400 + 100, 0, 255)
PICTURE = PICTURE.astype(np.uint8)
OVERLAY = np.where(TWO[..., None] > 0, np.array([255, 0, 0], np.uint8), PICTURE[..., None])

Write = Callable[[Path], object]


def png(array: np.ndarray, mode: str | None = None) -> Write:
  return lambda path: Image.fromarray(array, mode).save(path, "PNG")


def jpeg(quality: int, *, then_png: bool = False) -> Write:
  def write(path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(TWO * 255).save(buffer, "JPEG", quality=quality)
    if then_png:
      Image.open(buffer).save(path, "PNG")
    else:
      path.write_bytes(buffer.getvalue())

  return write


def smaller(how: Image.Resampling) -> Write:
  return lambda path: Image.fromarray(LARGE).resize((W, H), how).save(path, "PNG")


def indexed(index: np.ndarray, kind: str = "PNG") -> Write:
  def write(path: Path) -> None:
    image = Image.fromarray(index, "P")
    image.putpalette(PALETTE)
    image.save(path, kind)

  return write


VOID = np.where(cv2.dilate(NINE, np.ones((3, 3), np.uint8)) != NINE, 255, NINE).astype(np.uint8)
MEANT: dict[str, tuple[Write, int]] = {
  "0 and 255": (png(TWO * 255), 2),
  "0 and 1": (png(TWO), 2),
  "one bit": (png(TWO > 0), 2),
  "bilinear": (smaller(Image.Resampling.BILINEAR), 2),
  "Lanczos": (smaller(Image.Resampling.LANCZOS), 2),
  "blurred": (png(cv2.GaussianBlur(TWO * 255, (0, 0), 1.5)), 2),
  "chances": (lambda p: tifffile.imwrite(p, cv2.GaussianBlur(TWO.astype("f"), (0, 0), 1)), 2),
  "JPEG 90": (jpeg(90), 2),
  "JPEG 50": (jpeg(50), 2),
  "JPEG 75 saved as PNG": (jpeg(75, then_png=True), 2),
  "JPEG 30 saved as PNG": (jpeg(30, then_png=True), 2),
  "grey palette": (lambda p: Image.fromarray(TWO * 255).convert("P").save(p, "PNG"), 2),
  "white is zero": (lambda p: tifffile.imwrite(p, 255 - TWO * 255, photometric="miniswhite"), 2),
  "transparency": (png(np.dstack([WHITE, WHITE, WHITE, TWO * 255])), 2),
  "transparency of black": (png(np.dstack([0 * WHITE, 0 * WHITE, 0 * WHITE, TWO * 255])), 2),
  "grey and opaque": (png(np.dstack([TWO * 255, WHITE])), 2),
  "red": (png(np.dstack([TWO * 255, TWO * 0, TWO * 0])), 2),
  "empty": (png(TWO * 0), 0),
  "ids": (png(NINE), 9),
  "ids as grey levels": (png(NINE * 28), 9),
  "ids of 16 bits": (png(NINE.astype(np.uint16) * 1001), 9),
  "ids that touch": (png(TOUCHING * 28), 9),
  "palette": (indexed(NINE), 9),
  "palette with borders": (indexed(VOID), 9),
  "palette in TIFF": (indexed(NINE, "TIFF"), 9),
  "colours": (png(COLOURS), 9),
  "colours on white": (png(np.where(NINE[..., None] > 0, COLOURS, 255).astype(np.uint8)), 9),
  "colours on nothing": (
    png(np.dstack([np.where(NINE[..., None] > 0, COLOURS, 255), (NINE > 0) * 255]).astype("u1")),
    9,
  ),
}


@pytest.mark.parametrize("name", MEANT)
def test_a_mask_means_what_its_program_meant(tmp_path: Path, name: str) -> None:
  write, count = MEANT[name]
  write(tmp_path / "a")
  truth = TWO if count == 2 else NINE * (count == 9)
  labels = mask_values.instances(mask_values.read(tmp_path / "a", SHAPE))
  mask_values.check_ids(labels, "a")
  mask_values.check_plausible(labels, "a")
  numbers = np.unique(labels[labels > 0])
  assert len(numbers) == count
  if "touch" not in name and count:
    common = ((labels > 0) & (truth > 0)).sum() / ((labels > 0) | (truth > 0)).sum()
    assert common > (0.35 if "borders" in name else 0.75)


SMALL_BESIDE_LARGE = (discs((40, 40, 25), (100, 70, 1), scale=4) > 0).astype(np.float32) * 255


@pytest.mark.parametrize(
  ("write", "count"),
  [
    (png(cv2.resize(SMALL_BESIDE_LARGE, (W, H), interpolation=cv2.INTER_AREA).astype("u1")), 2),
    (png(cv2.GaussianBlur(discs((40, 40, 25), (100, 70, 3)) * np.uint8(127), (0, 0), 2.5)), 2),
    (lambda p: Image.fromarray(np.array([0, 85, 170, 255], np.uint8)[discs((20, 20, 9), (60, 30, 9),
       (100, 60, 9))]).save(p, "JPEG", quality=90), 3),
  ],
)  # fmt: skip
def test_a_small_dim_lesion_beside_a_large_one_is_kept(
  tmp_path: Path, write: Write, count: int
) -> None:
  write(tmp_path / "a")
  labels = mask_values.instances(mask_values.read(tmp_path / "a", SHAPE))
  assert len(np.unique(labels[labels > 0])) == count


@pytest.mark.parametrize(
  ("write", "reason"),
  [
    (png(PICTURE), "picture"),
    (png(RNG.integers(0, 256, SHAPE, dtype=np.uint8)), "picture"),
    (png(OVERLAY), "picture"),
    (lambda p: Image.fromarray(OVERLAY).save(p, "JPEG"), "picture or an overlay"),
    (png(TWO[:50]), "another size"),
    (lambda p: p.write_bytes(b""), "is empty"),
    (lambda p: p.write_bytes(b"no image"), "no PNG, JPEG or TIFF"),
    (lambda p: tifffile.imwrite(p, np.stack([TWO, TWO]), photometric="minisblack"), "pages"),
    (lambda p: tifffile.imwrite(p, np.full(SHAPE, np.nan, np.float32)), "no labels"),
  ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, write: Write, reason: str) -> None:
  write(tmp_path / "a")
  with pytest.raises(Unreadable, match=reason):
    mask_values.read(tmp_path / "a", SHAPE)


def test_what_is_improbable_is_asked_for(tmp_path: Path) -> None:
  path = tmp_path / "a"
  png(255 - TWO * 255)(path)
  with pytest.raises(UserError, match=r"--mask-values inverted .*--odd-masks"):
    mask_values.check_plausible(mask_values.instances(mask_values.read(path, SHAPE)), "a")
  turned = mask_values.instances(mask_values.read(path, SHAPE, meaning="inverted"))
  assert turned.max() == 2
  dust = (RNG.random(SHAPE) < 0.01) | (TWO > 0)
  png(dust.astype(np.uint8))(path)
  with pytest.raises(UserError, match=r"specks .*--odd-masks"):
    mask_values.check_plausible(mask_values.instances(mask_values.read(path, SHAPE)), "a")
  png((NINE > 0) + (NINE > 4).astype(np.uint8))(path)  # two classes
  with pytest.raises(UserError, match="--mask-values ids"):
    mask_values.check_ids(mask_values.read(path, SHAPE), "a")
  assert len(np.unique(mask_values.instances(mask_values.read(path, SHAPE, meaning="parts")))) == 10


def _scattered(rng: np.random.Generator, scale: int) -> np.ndarray:
  """1 to 12 discs apart, numbered."""
  spots: list[tuple[int, int, int]] = []
  for _ in range(int(rng.integers(1, 13))):
    r = int(rng.integers(2, 10))
    x, y = int(rng.integers(r + 2, W - r - 2)), int(rng.integers(r + 2, H - r - 2))
    if all((x - a) ** 2 + (y - b) ** 2 > (r + c + 6) ** 2 for a, b, c in spots):
      spots.append((x, y, r))
  return discs(*spots, scale=scale)


def test_lesions_are_never_miscounted_in_silence(tmp_path: Path) -> None:
  rng, path = np.random.default_rng(3), tmp_path / "a"
  for turn in range(54):
    ids = _scattered(rng, 4 if turn % 6 == 0 else 1)
    binary = Image.fromarray((ids > 0).astype(np.uint8) * 255)
    buffer, way = io.BytesIO(), turn % 6
    binary.save(buffer, "JPEG", quality=int(rng.integers(40, 99)))
    if way == 0:
      binary.resize((W, H), list(Image.Resampling)[2 + turn % 4]).save(path, "PNG")
    elif way == 1:
      path.write_bytes(buffer.getvalue())
    elif way == 2:
      Image.open(buffer).save(path, "PNG")
    elif way == 3:
      png(ids * (255 // ids.max()))(path)
    elif way == 4:
      png(ids.astype(np.uint16) * 997)(path)
    else:
      indexed(ids)(path)
    labels = masks_of(path)
    assert len(np.unique(labels[labels > 0])) == ids.max(), turn


def masks_of(path: Path) -> np.ndarray:
  labels = mask_values.instances(mask_values.read(path, SHAPE))
  mask_values.check_ids(labels, "a")
  mask_values.check_plausible(labels, "a")
  return labels
