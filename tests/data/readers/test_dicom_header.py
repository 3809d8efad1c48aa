from pathlib import Path

import numpy as np
import pytest

from tests.data.readers.dicom_files import dataset, only, save, values


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
  ("shift", "high", "noted"), [(0, 11, False), (0, 15, False), (4, 15, True)]
)
def test_pixels_in_the_upper_bits(
  tmp_path: Path, signed: bool, shift: int, high: int, noted: bool
) -> None:
  pixels = np.arange(4096, dtype=np.int16).reshape(64, 64) - 2048 * signed
  pixels = (pixels if signed else pixels.astype(np.uint16)) << shift
  ds = dataset(pixels, Modality="CR", BitsStored=12, HighBit=high)
  sample = only(save(tmp_path / "a.dcm", ds))
  np.testing.assert_array_equal(values(sample), pixels >> shift)
  assert any("upper bits" in note for note in sample.notes) == noted
