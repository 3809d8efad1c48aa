import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiresmed_jax.data.readers.lidc import read
from hiresmed_jax.data.sample import Sample
from tests.data.readers.lidc_series import disc

SHAPE = (30, 34)
LEFT, RIGHT = disc(SHAPE, 12, 8, 3), disc(SHAPE, 15, 24, 4)
NOTHING = np.zeros(SHAPE, bool)


def scan(number: int) -> np.ndarray:
  return np.random.default_rng(number).integers(0, 200, SHAPE, dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, pixels)
  else:
    cv2.imwrite(str(path), pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1))


def all_of(root: Path, agree: int = 2) -> tuple[dict[str, Sample], dict[str, str]]:
  refused: dict[str, str] = {}
  files = sorted(path for path in root.rglob("*") if path.is_file())
  samples = read(
    files,
    root=root,
    agree=agree,
    nodule_free=0,
    refuse=lambda path, reason: refused.update({path.relative_to(root).as_posix(): reason}),
    advance=lambda: None,
  )
  return {sample.source: sample for sample in samples}, refused


def by_readers(folder: Path, number: int, pixels: np.ndarray, masks: list[np.ndarray]) -> None:
  write(folder / "images" / f"slice-{number}.png", pixels)
  for reader, mask in enumerate(masks):
    write(folder / f"mask-{reader}" / f"slice-{number}.png", mask)


@pytest.mark.parametrize(("agree", "expected"), [(1, LEFT | RIGHT), (2, LEFT), (3, LEFT)])
def test_a_mask_per_reader(tmp_path: Path, agree: int, expected: np.ndarray) -> None:
  folder = tmp_path / "LIDC-IDRI-0007" / "nodule-0"
  by_readers(folder, 0, scan(0), [LEFT, LEFT | RIGHT, LEFT, NOTHING])
  samples, refused = all_of(tmp_path, agree)
  assert refused == {}
  ((source, sample),) = samples.items()
  assert source == "LIDC-IDRI-0007/nodule-0/images/slice-0.png"
  assert sample.group == "LIDC-IDRI-0007"
  assert sample.physics == "ct"
  np.testing.assert_array_equal(sample.image[..., 0], scan(0))
  np.testing.assert_array_equal(sample.lesion_mask > 0, expected)
  assert len(sample.boxes) == sample.lesion_mask.max() == (2 if agree == 1 else 1)
  np.testing.assert_array_equal(sample.boxes[0], [5, 9, 12, 16])


def test_one_slice_under_two_nodules_is_one_sample(tmp_path: Path) -> None:
  for number, mask in enumerate((LEFT, RIGHT)):
    by_readers(tmp_path / "LIDC-IDRI-0007" / f"nodule-{number}", 3 + number, scan(0), [mask] * 4)
  # The same pixels of another patient stay apart.
  by_readers(tmp_path / "LIDC-IDRI-0008" / "nodule-0", 0, scan(0), [LEFT] * 4)
  samples, _ = all_of(tmp_path)
  assert len(samples) == 2
  first, second = samples.values()
  np.testing.assert_array_equal(first.lesion_mask > 0, LEFT | RIGHT)
  assert len(first.boxes) == 2
  assert (first.group, second.group) == ("LIDC-IDRI-0007", "LIDC-IDRI-0008")


def test_a_slice_of_which_one_mask_is_not_known_is_no_sample(tmp_path: Path) -> None:
  for number, mask in enumerate((LEFT, RIGHT)):
    by_readers(tmp_path / "LIDC-IDRI-0007" / f"nodule-{number}", 3, scan(0), [mask] * 4)
  damaged = tmp_path / "LIDC-IDRI-0007" / "nodule-1" / "mask-2" / "slice-3.png"
  damaged.write_bytes(damaged.read_bytes()[:60])
  samples, refused = all_of(tmp_path)
  assert samples == {}
  assert len(refused) == 1


def test_a_reader_who_drew_alone_is_not_enough(tmp_path: Path) -> None:
  folder = tmp_path / "LIDC-IDRI-0007" / "nodule-0"
  by_readers(folder, 0, scan(0), [NOTHING, LEFT])
  by_readers(folder, 1, scan(1), [LEFT])  # the others have no file for this slice
  samples, refused = all_of(tmp_path)
  assert samples == {}
  assert set(refused.values()) == {"shows a nodule that too few readers agree on"}
  assert len(refused) == 2


def test_arrays_with_one_mask_and_clean_ones(tmp_path: Path) -> None:
  hu = scan(1).astype(np.float64) * 5 - 900.0
  write(tmp_path / "Image" / "LIDC-IDRI-0001" / "0001_NI000_slice004.npy", hu)
  write(tmp_path / "Mask" / "LIDC-IDRI-0001" / "0001_MA000_slice004.npy", RIGHT)
  write(tmp_path / "Clean" / "Image" / "LIDC-IDRI-0003" / "0003_CN001_slice000.npy", hu + 1)
  write(tmp_path / "Clean" / "Mask" / "LIDC-IDRI-0003" / "0003_CM001_slice000.npy", NOTHING)
  samples, refused = all_of(tmp_path, agree=4)
  assert refused == {}
  assert sorted(sample.group for sample in samples.values()) == ["LIDC-IDRI-0001", "LIDC-IDRI-0003"]
  found = samples["Image/LIDC-IDRI-0001/0001_NI000_slice004.npy"]
  values = found.rescale_slope * found.image[..., 0].astype(float) + found.rescale_intercept
  np.testing.assert_array_equal(values, hu)
  np.testing.assert_array_equal(found.lesion_mask, RIGHT)
  clean = samples["Clean/Image/LIDC-IDRI-0003/0003_CN001_slice000.npy"]
  assert clean.lesion_mask.shape == SHAPE
  assert not clean.lesion_mask.any()
  assert clean.boxes.shape == (0, 4)


def test_without_folders_of_patients_the_name_tells(tmp_path: Path) -> None:
  for patient in (1, 2):
    for number in range(2):
      name = f"000{patient}_NI00{number}_slice000.png"
      write(tmp_path / "images" / name, scan(10 * patient + number))
      write(tmp_path / "masks" / name.replace("NI", "MA"), LEFT)
  samples, _ = all_of(tmp_path)
  assert sorted(sample.group for sample in samples.values()) == ["0001", "0001", "0002", "0002"]


class Trap:
  def __reduce__(self) -> tuple:
    return Path.touch, (Path("sprung"),)


def test_what_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(tmp_path)
  root = tmp_path / "set"
  patient = root / "Image" / "LIDC-IDRI-0001"
  for name in ("pickled", "object", "short", "cube", "nan", "wide", "alone", "large"):
    write(patient / f"{name}.npy", np.ones(SHAPE, np.float32))
    write(root / "Mask" / "LIDC-IDRI-0001" / f"{name}.npy", LEFT)
  (patient / "pickled.npy").write_bytes(pickle.dumps(Trap()))
  np.save(patient / "object.npy", np.array([[Trap()]], object), allow_pickle=True)
  data = (patient / "short.npy").read_bytes()
  (patient / "short.npy").write_bytes(data[:-10])
  with (patient / "large.npy").open("wb") as file:  # claims 40 GB, holds 9 bytes
    header = {"descr": "<f4", "fortran_order": False, "shape": (100_000, 100_000)}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(b"123456789")
  write(patient / "cube.npy", np.ones((3, 30, 34), np.float32))
  write(patient / "nan.npy", np.full(SHAPE, np.nan, np.float32))
  write(root / "Mask" / "LIDC-IDRI-0001" / "wide.npy", np.ones((30, 35), bool))
  (root / "Mask" / "LIDC-IDRI-0001" / "alone.npy").unlink()
  write(root / "stray.png", scan(0))
  samples, refused = all_of(root)
  assert samples == {}
  assert not (tmp_path / "sprung").exists()
  damaged = "is not a .npy file of numbers, or is damaged or cut short"
  assert {Path(path).stem: reason for path, reason in refused.items()} == {
    "pickled": damaged,
    "object": damaged,
    "short": damaged,
    "large": damaged,
    "cube": "holds an array of 3 dimensions, not a slice",
    "nan": "holds NaN or infinite values",
    "wide": "has a mask of another size",
    "alone": "has no mask in a folder beside its own",
    "stray": "lies in no folder named images or masks",
  }
